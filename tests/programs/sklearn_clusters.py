"""Clusters, a projection, and a regression with its own scorer in worker processes."""

import numpy as np
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import make_scorer, silhouette_score
from sklearn.model_selection import cross_validate
from sklearn.tree import DecisionTreeRegressor


def worst(y, p):
    return float(np.abs(y - p).max())


def inertia(k, x):
    return round(KMeans(k, n_init=2, random_state=0).fit(x).inertia_, 3)


if __name__ == "__main__":
    x, y = make_blobs(150, 3, centers=3, random_state=1)
    print(Parallel(n_jobs=2)(delayed(inertia)(k, x) for k in (2, 3, 4)))
    print(round(silhouette_score(x, KMeans(3, n_init=2, random_state=0).fit_predict(x)), 4))
    print(PCA(2).fit(x).explained_variance_ratio_.round(4).tolist())
    scores = cross_validate(
        DecisionTreeRegressor(random_state=0), x, y, cv=3, n_jobs=2, scoring=make_scorer(worst)
    )
    print(scores["test_score"].tolist())
