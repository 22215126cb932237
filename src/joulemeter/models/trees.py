"""Forests and boosted trees: grown by scikit-learn, kept and read as arrays.

A tree is five arrays: the feature tested at each node (−1 at a leaf), the threshold, the two children, and
the value. Every tree lies end to end in the same arrays. Predicting needs numpy only, and gives what
scikit-learn gives: like it, inputs are compared as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Trees:
    """``roots`` (t,) node numbers; per node (m,) ``feature``, ``threshold``, ``left``, ``right``, ``value``.

    The prediction is ``base`` + ``scale`` × the sum over trees of the value of the leaf reached.
    """

    base: float
    scale: float
    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The prediction (n,) for ``features`` (n, d)."""
        return np.asarray(self.base + self.scale * self.leaves(features).sum(1), np.float64)

    def leaves(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """The value (n, t) of the leaf that each row reaches in each tree."""
        inputs = features.astype(np.float32)
        at = np.broadcast_to(self.roots, (len(inputs), len(self.roots))).copy()
        rows = np.arange(len(inputs))[:, None]
        # No path is longer than the number of nodes: a damaged file cannot hold us here.
        for _ in range(len(self.feature) + 1):
            tested = self.feature[at]
            if (tested < 0).all():
                break
            goes_left = inputs[rows, np.maximum(tested, 0)] <= self.threshold[at]
            at = np.where(tested < 0, at, np.where(goes_left, self.left[at], self.right[at]))
        return self.value[at]


def forest(
    features: NDArray[np.float64], target: NDArray[np.float64], seed: int = 0, **options: Any
) -> Trees:
    """A random forest; ``options`` go to scikit-learn's RandomForestRegressor."""
    from sklearn.ensemble import RandomForestRegressor

    settings = {"n_estimators": 100, "min_samples_leaf": 1, "random_state": seed} | options
    grown = RandomForestRegressor(**settings).fit(features, target)
    return _gathered([each.tree_ for each in grown.estimators_], 0.0, 1 / len(grown.estimators_))


def boosted(
    features: NDArray[np.float64], target: NDArray[np.float64], seed: int = 0, **options: Any
) -> Trees:
    """Boosted trees; ``options`` go to scikit-learn's GradientBoostingRegressor."""
    from sklearn.ensemble import GradientBoostingRegressor

    settings: dict[str, Any] = {"n_estimators": 200, "max_depth": 4, "learning_rate": 0.08, "subsample": 0.7}
    grown = GradientBoostingRegressor(random_state=seed, **(settings | options)).fit(features, target)
    trees = [each.tree_ for each in grown.estimators_[:, 0]]
    return _gathered(trees, float(np.ravel(grown.init_.constant_)[0]), float(grown.learning_rate))


def _gathered(trees: list[Any], base: float, scale: float) -> Trees:
    sizes = [tree.node_count for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    shift = np.repeat(starts, sizes)
    joined = {name: np.concatenate([getattr(t, name) for t in trees]) for name in ("feature", "threshold")}
    leaf = np.concatenate([t.children_left for t in trees]) < 0
    return Trees(
        base=base,
        scale=scale,
        roots=starts,
        feature=np.where(leaf, -1, joined["feature"]).astype(np.int64),
        threshold=joined["threshold"].astype(np.float64),
        left=np.where(leaf, 0, np.concatenate([t.children_left for t in trees]) + shift).astype(np.int64),
        right=np.where(leaf, 0, np.concatenate([t.children_right for t in trees]) + shift).astype(np.int64),
        value=np.concatenate([t.value[:, 0, 0] for t in trees]).astype(np.float64),
    )
