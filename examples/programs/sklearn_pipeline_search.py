"""A scikit-learn pipeline searched over a grid, cross-validated, with a report."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    x, y = load_wine(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("project", PCA()), ("classify", LogisticRegression(max_iter=500))]
    )
    grid = {"project__n_components": [2, 5], "classify__C": np.logspace(-1, 1, 3)}
    search = GridSearchCV(pipeline, grid, cv=3).fit(x_train, y_train)
    best = {name: float(value) for name, value in sorted(search.best_params_.items())}
    print("best:", best, f"score {search.best_score_:.3f}")
    print(classification_report(y_test, search.predict(x_test), digits=2))
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=20, random_state=0))
    scores = cross_val_score(forest, x, y, cv=3)
    print("forest:", " ".join(f"{score:.3f}" for score in scores))


if __name__ == "__main__":
    main()
