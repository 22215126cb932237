"""How far a prediction hangs on single data sets: fits that each lack one, and how they disagree.

A training far outside of those that were fitted to (ten times wider rows, say) is priced by costs that one or
two data sets alone decide. Fits without each of them then part ways, and the interval must widen with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from joulemeter.models.hierarchy import physics

Floats = NDArray[np.float64]
LEAST = 1e-12


@dataclass(frozen=True)
class Jackknife:
    """Costs fitted without one fold each, of each quantity that the prediction averages, (folds, terms)."""

    costs: tuple[Floats, ...]

    def spread(self, counts: Floats) -> Floats:
        """The jackknife's standard deviation of the log prediction, shape (n,) from (n, terms).

        √((K − 1)/K · Σ (θₖ − θ̄)²) over K folds (Efron and Stein 1981, The jackknife estimate of variance).
        """
        logs = np.mean([np.log(np.maximum(counts @ each.T, LEAST)) for each in self.costs], axis=0)
        folds = logs.shape[1]
        return np.asarray(np.sqrt((folds - 1) * logs.var(axis=1)))


def fit(counts: Floats, values: tuple[Floats, ...], folds: NDArray[np.int64]) -> tuple[Jackknife, Floats]:
    """The jackknife of all runs, and the spread at each run of that without the run's own fold, (n,).

    ``counts`` has shape (n, terms); ``values`` are joules, or joules and seconds, each (n,).
    """
    number = range(int(folds.max()) + 1)

    @cache
    def without(*lacking: int) -> tuple[Floats, ...]:
        """Costs fitted without these folds."""
        rows = ~np.isin(folds, lacking)
        return tuple(physics.fit(counts[rows], each[rows]).costs for each in values)

    def jackknife(lacking: Iterable[tuple[int, ...]]) -> Jackknife:
        """The costs without each of the folds in ``lacking``."""
        each = [without(*sorted(set(folds))) for folds in lacking]
        return Jackknife(tuple(np.stack(costs) for costs in zip(*each, strict=True)))

    spread = np.zeros(len(folds))
    for own in number:
        others = jackknife((own, other) for other in number if other != own)
        spread[folds == own] = others.spread(counts[folds == own])
    return jackknife((each,) for each in number), spread
