"""An estimator of one's own inside scikit-learn: clustering, transforming, cloning."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris, make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler


class Clip(TransformerMixin, BaseEstimator):
    """Clips columns to quantiles seen in fit."""

    def __init__(self, low=0.05, high=0.95):
        self.low, self.high = low, high

    def fit(self, x, y=None):
        self.bounds_ = np.quantile(x, [self.low, self.high], axis=0)
        return self

    def transform(self, x):
        return np.clip(x, *self.bounds_)


class NearestMean(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([x[y == label].mean(axis=0) for label in self.classes_])
        return self

    def predict(self, x):
        return self.classes_[np.argmin(np.linalg.norm(x[:, None] - self.means_, axis=2), axis=1)]


x, y = load_iris(return_X_y=True)
prepare = ColumnTransformer([("sepal", StandardScaler(), [0, 1]), ("petal", MinMaxScaler(), [2, 3])])
union = FeatureUnion([("same", FunctionTransformer()), ("clipped", Clip())])
model = make_pipeline(prepare, union, NearestMean())
print(f"nearest mean: {model.fit(x, y).score(x, y):.3f}")
print(
    f"its clone, narrower: {clone(model).set_params(featureunion__clipped__low=0.2).fit(x, y).score(x, y):.3f}"
)
points, truth = make_blobs(300, centers=4, cluster_std=0.5, random_state=4)
labels = KMeans(4, n_init=3, random_state=4).fit_predict(points)
print(
    f"clusters found again: {adjusted_rand_score(truth, labels):.2f}, sizes {sorted(np.bincount(labels).tolist())}"
)
