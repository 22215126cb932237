"""Two energies compared: the difference with its interval, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from joulemeter.isolation import Interval
from joulemeter.ledger import Energy, number

Verdict = Literal["less", "more", "no difference seen", "not known"]

_OUTLIER = 3.5
"""Modified z-score beyond which a repetition is an outlier (Iglewicz and Hoaglin 1993, section 3.3)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """B less A in joules, and as a fraction of A, each with a 95 % interval."""

    a: Energy
    b: Energy
    joules: Interval
    relative: Interval

    @property
    def verdict(self) -> Verdict:
        """What may be said: ``less`` or ``more`` only where the interval leaves out zero."""
        if math.isnan(self.joules.low) or math.isnan(self.joules.high):
            return "not known"
        if self.joules.low > 0:
            return "more"
        return "less" if self.joules.high < 0 else "no difference seen"

    def is_above(self, fraction: float) -> bool:
        """Whether B surely takes more than ``fraction`` over A: the whole interval lies above."""
        return self.relative.low > fraction

    def may_be_above(self, fraction: float) -> bool:
        """Whether the interval leaves open that B takes more than ``fraction`` over A."""
        return not self.relative.high <= fraction

    def to_json(self) -> dict[str, Any]:
        """One plain object; null where not known."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": _interval_json(self.joules, "_j"),
            "relative": _interval_json(self.relative, ""),
            "verdict": self.verdict,
        }


def _interval_json(interval: Interval, unit: str) -> dict[str, float | None]:
    names = ("value", "low", "high")
    return {("energy" if unit and n == "value" else n) + unit: number(getattr(interval, n)) for n in names}


def difference(a: Energy, b: Energy) -> Difference:
    """B less A, their errors taken as independent: half widths add in squares, each side on its own."""
    value = b.energy_j - a.energy_j
    low = value - math.hypot(b.energy_j - b.low_j, a.high_j - a.energy_j)
    high = value + math.hypot(b.high_j - b.energy_j, a.energy_j - a.low_j)
    joules = Interval(value, low, high)
    return Difference(a, b, joules, _relative(a, b))


def _relative(a: Energy, b: Energy) -> Interval:
    """(B − A)/A from the ratio's logarithm, whose variance is the sum of the relative variances."""
    if not (a.energy_j > 0 and b.energy_j > 0):
        return Interval(math.nan, math.nan, math.nan)
    log = math.log(b.energy_j / a.energy_j)
    down = math.hypot(_log_gap(b.low_j, b.energy_j), _log_gap(a.energy_j, a.high_j))
    up = math.hypot(_log_gap(b.energy_j, b.high_j), _log_gap(a.low_j, a.energy_j))
    return Interval(math.expm1(log), math.expm1(log - down), math.exp(log + up) - 1 if up < 700 else math.inf)


def _log_gap(low: float, high: float) -> float:
    return math.log(high / low) if low > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Repeated:
    """Repetitions of one thing: their mean with Student's 95 % interval, and which of them are outliers."""

    values: tuple[float, ...]
    mean: Interval
    median: float
    outliers: tuple[int, ...]


def repeated(values: Sequence[float]) -> Repeated:
    """Mean, interval and outliers of repetitions; the mean is NaN with fewer than two that are known.

    An outlier lies further than 3.5 scaled median absolute deviations from the median; it is named, not
    left out.
    """
    known = np.array([value for value in values if not math.isnan(value)])
    if len(known) < 2:
        return Repeated(tuple(values), Interval(math.nan, math.nan, math.nan), math.nan, ())
    mean = float(known.mean())
    half = float(special.stdtrit(len(known) - 1, 0.975)) * float(known.std(ddof=1)) / math.sqrt(len(known))
    median = float(np.median(known))
    spread = float(np.median(np.abs(known - median)))
    # 0.6745 scales the median absolute deviation to a standard deviation of normal errors.
    far = [i for i, v in enumerate(values) if spread > 0 and 0.6745 * abs(v - median) / spread > _OUTLIER]
    return Repeated(tuple(values), Interval(mean, mean - half, mean + half), median, tuple(far))
