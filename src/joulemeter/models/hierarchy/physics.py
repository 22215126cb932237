"""The physical fit: costs ≥ 0 of counted terms that make the mean relative error smallest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]

ROUNDS = 8
RIDGE = 5.0
"""Weight of the ridge against 1 per run on standardised columns; keeps near twins from trading places."""
FLOOR = 0.05
"""Relative errors below this are weighed alike: they are within the noise of a watt-meter."""


@dataclass(frozen=True)
class Physics:
    """Costs per unit of each term, shape (terms,), all ≥ 0, and bounds of their 90 % intervals (or NaN)."""

    costs: Floats
    low: Floats
    high: Floats

    def predict(self, counts: Floats) -> Floats:
        """What trainings of these counts cost, shape (n,) from (n, terms)."""
        return np.asarray(counts @ self.costs)


def fit(counts: Floats, values: Floats) -> Physics:
    """Costs that make Σ |counts·costs / values − 1| small, by reweighted non-negative least squares.

    ``counts`` has shape (n, terms), ``values`` (n,) > 0. Dividing each row by its value makes the error
    relative; weighting it by one over the root of its last error makes it absolute (IRLS, Holland and
    Welsch 1977).
    """
    relative = counts / values[:, None]
    scale = np.sqrt((relative**2).mean(axis=0))
    known = scale > 0
    columns = relative[:, known] / scale[known]
    costs = np.zeros(counts.shape[1])
    costs[known] = _reweighted(columns) / scale[known]
    unknown = np.full(len(costs), np.nan)
    return Physics(costs, unknown, unknown)


def _reweighted(columns: Floats) -> Floats:
    # NNLS of the stacked ridge problem through its normal equations: their Cholesky factor has as many
    # rows as there are terms, however many the runs.
    solution = np.zeros(columns.shape[1])
    weights = np.ones(len(columns))
    for _ in range(ROUNDS):
        weighted = columns * weights[:, None]
        gram = weighted.T @ columns + RIDGE * np.eye(columns.shape[1])
        right = weighted.sum(axis=0)
        factor = np.linalg.cholesky(gram)
        solution, _ = nnls(factor.T, np.linalg.solve(factor, right))
        weights = 1 / np.maximum(np.abs(columns @ solution - 1.0), FLOOR)
    return solution


def with_intervals(physics: Physics, counts: Floats, values: Floats, *, repeats: int, seed: int) -> Physics:
    """The same costs with 90 % percentile intervals over ``repeats`` bootstrap samples of the runs.

    Large sets are sampled down to 5,000 runs a time, which widens the intervals, never narrows them.
    """
    random = np.random.default_rng(seed)
    size = min(len(values), 5000)
    drawn = []
    for _ in range(repeats):
        rows = random.integers(0, len(values), size)
        drawn.append(fit(counts[rows], values[rows]).costs)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    return Physics(physics.costs, np.minimum(low, physics.costs), np.maximum(high, physics.costs))
