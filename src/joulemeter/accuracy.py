"""How far predictions lie, and how often intervals hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of ``n`` predictions, all as fractions; NaN where there is nothing to say.

    ``energy_weighted_mape`` is Σ|predicted − true| / Σ true: what the errors come to on the bill.
    """

    n: int
    mape: float
    median_ape: float
    rmspe: float
    within_5: float
    within_10: float
    within_15: float
    coverage_90: float
    energy_weighted_mape: float
    width_90: float
    """Median of (high − low) / predicted of the 90 % intervals."""

    def to_json(self) -> dict[str, float | int | None]:
        """The figures by name; null where not known."""
        return {key: _or_none(value) for key, value in asdict(self).items()}

    @staticmethod
    def from_json(data: Mapping[str, float | int | None]) -> Accuracy:
        """From ``to_json``."""
        values = {key: math.nan if value is None else value for key, value in data.items()}
        return Accuracy(n=int(values.pop("n")), **values)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else value


def measure(
    true: NDArray[np.float64],
    predicted: NDArray[np.float64],
    low: NDArray[np.float64] | None = None,
    high: NDArray[np.float64] | None = None,
) -> Accuracy:
    """Accuracy of ``predicted`` (n,) against ``true`` (n,), with 90 % intervals ``low`` to ``high`` (n,).

    Pairs of which either is not a number above zero (true) or not a number (predicted) are left out.
    """
    keep = np.isfinite(true) & (true > 0) & np.isfinite(predicted)
    true, predicted = true[keep], predicted[keep]
    if len(true) == 0:
        return Accuracy(0, *[math.nan] * 9)
    error = np.abs(predicted / true - 1)
    held, width = _intervals(true, predicted, low, high, keep)
    return Accuracy(
        n=len(true),
        mape=float(error.mean()),
        median_ape=float(np.median(error)),
        rmspe=float(np.sqrt((error**2).mean())),
        within_5=float((error <= 0.05).mean()),
        within_10=float((error <= 0.10).mean()),
        within_15=float((error <= 0.15).mean()),
        coverage_90=held,
        energy_weighted_mape=float(np.abs(predicted - true).sum() / true.sum()),
        width_90=width,
    )


def _intervals(
    true: NDArray[np.float64],
    predicted: NDArray[np.float64],
    low: NDArray[np.float64] | None,
    high: NDArray[np.float64] | None,
    keep: NDArray[np.bool_],
) -> tuple[float, float]:
    if low is None or high is None:
        return math.nan, math.nan
    low, high = low[keep], high[keep]
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return math.nan, math.nan
    held = (low <= true) & (true <= high)
    width = (high - low) / predicted
    return float(held[known].mean()), float(np.median(width[known]))
