"""Conformal intervals: how wide, so that a stated share of new cases lies inside.

Residuals of cross-validation, each over its predicted standard deviation, stand for those to come
(Barber et al., Predictive inference with the jackknife+, 2021; here around the model of all rows). Within
a family where it has rows enough (Mondrian), together with other small families where not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERAGE = 0.90
OWN_ROWS = 25
"""From so many rows on, a family is calibrated on its own."""


def quantile(scores: NDArray[np.float64], coverage: float = COVERAGE) -> float:
    """The ⌈(n + 1) · coverage⌉-th smallest of ``scores`` (n,); the largest where n is too small for that."""
    ordered = np.sort(scores[np.isfinite(scores)])
    if len(ordered) == 0:
        return float("inf")
    rank = int(np.ceil((len(ordered) + 1) * coverage))
    return float(ordered[min(rank, len(ordered)) - 1])


def calibrated(scores: dict[str, NDArray[np.float64]], coverage: float = COVERAGE) -> dict[str, float]:
    """A factor for each group of ``scores``; groups of fewer than OWN_ROWS share one."""
    small = [own for own in scores.values() if len(own) < OWN_ROWS]
    shared = quantile(np.concatenate(small), coverage) if small else float("inf")
    return {name: quantile(own, coverage) if len(own) >= OWN_ROWS else shared for name, own in scores.items()}
