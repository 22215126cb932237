"""A pipeline with a search over its parameters, on data that ships with scikit-learn."""

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


class Shift(TransformerMixin, BaseEstimator):
    def __init__(self, by=0.0):
        self.by = by

    def fit(self, x, y=None):
        return self

    def transform(self, x):
        return x + self.by


x, y = load_iris(return_X_y=True)
a, b, c, d = train_test_split(x, y, random_state=0)
pipe = Pipeline([("shift", Shift()), ("scale", StandardScaler()), ("fit", LogisticRegression(max_iter=200))])
search = GridSearchCV(pipe, {"shift__by": [0.0, 1.0], "fit__C": [0.1, 1.0]}, cv=3, n_jobs=2).fit(a, c)
print(search.best_params_, round(search.score(b, d), 4))
print(classification_report(d, search.predict(b)))
print(cross_val_score(make_pipeline(RandomForestClassifier(5, random_state=0)), x, y, cv=3).round(3).tolist())
