"""By how much a fit errs more than it says: what rows leave over, beside what their noise says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse, special

from joulemeter.design import Design, Windows
from joulemeter.noise import Extra, Gram, Noise, weighed_errors
from joulemeter.posterior import Powers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

GAUGE_MARGIN = 1.15
"""A gauge's variances are at least this much larger than the model's own, which takes what its lag and window
do for a straight line; on simulated gauges intervals then hold in 96 of 100 cases."""

STRETCHES = 40
"""Stretches of rows over which errors are compared with what is said of them."""


def misfit(made: Design, sums: Gram, expected_j: Floats, at: Floats, noise: Noise, extra: Extra) -> float:
    """By what factor errors exceed what V says of them, seen over stretches of many rows; at least 1, or
    GAUGE_MARGIN.

    If V were right, the pull of a stretch's errors on a power would have the variance that the stretch adds
    to the normal equations (the sandwich of White 1982, Econometrica 50, 1, here as one factor for all).
    """
    pull = weighed_errors(made, at, expected_j, noise, extra)
    starts = np.arange(0, len(made), max(len(made) // STRETCHES, 10))
    scores = sparse.diags(pull) @ made.seconds
    stretch = np.searchsorted(starts, np.arange(len(made)), side="right") - 1
    gather = sparse.csr_matrix(
        (np.ones(len(made)), (stretch, np.arange(len(made)))), shape=(len(starts), len(made))
    )
    seen = np.asarray((gather @ scores).power(2).sum(axis=0)).ravel()
    said = np.diag(sums.part("power", "power"))[: sums.columns]
    # Columns whose rows say less than their prior tell nothing of V.
    told = said * at**2 > 4
    least = 1.0 if made.windows.linked.any() else GAUGE_MARGIN
    if len(starts) < 8 or not told.any():
        return least
    return float(np.clip(np.mean(seen[told] / said[told]), least, 25.0))


def few(sums: Gram, found: Powers) -> float:
    """By how much variances grow because the noise is known from what rows leave over once powers took their
    part:
    rows by what is left of them, and the square of Student's 97.5 % point beside the bell curve's."""
    wide = len(found.mean)
    took = float((sums.part("power", "power") * found.covariance[:wide, :wide]).sum())
    left = max(sums.rows - took, 3.0)
    return sums.rows / left * float(special.stdtrit(left, 0.975) / 1.96) ** 2


def alike_w2(rows: Windows, sigma_w: float) -> float:
    """The variance in W² of the error that all samples of one steady power share, because a gauge shows whole
    steps.

    Samples that scatter by ``sigma_w`` take it out of their mean: of a step q it is q² / 12, times the square
    of exp(−2π² σ² / q²), the first term of the error's Fourier series (Widrow and Kollár 2008, *Quantization
    Noise*, chapter 4; dither).
    """
    if not len(rows) or rows.linked.any():
        return 0.0
    step_w = rows.quantum_j / float(np.median(rows.length_s))
    if step_w <= 0:
        return 0.0
    return float(step_w**2 / 12 * np.exp(-4 * (np.pi * sigma_w / step_w) ** 2))
