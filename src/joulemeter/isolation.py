"""The energy of one call out of batches of it with rests between: drift removed, interval from scatter.

A batch k of n calls, with guards of rest on both sides, takes the energy E_k in the time T_k; the rests
before and after it have the mean powers R_k and R'_k. The energy of a call above rest is

    e_k = (E_k − T_k · (R_k + R'_k) / 2) / n_k

which no slow drift of the rest power can bias: it is removed to first order in every round. The guards hold
what a meter that reads once a period smears over the batch's edges: without them a third of a period's
energy is lost at each (the mean of f(1 − f) over a random phase f, twice). Every rest between two batches is
halved, so that no two rounds share one and their errors are independent; the interval of the mean is
Student's on K − 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from joulemeter.ledger import Energy
from joulemeter.reading import outermost
from joulemeter.timeline import Timeline

FEWEST_ROUNDS = 10
"""Fewer rounds say too little about their own scatter."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of ``calls`` calls, or a rest (0 calls), on ``time.monotonic_ns``."""

    start_ns: int
    end_ns: int
    calls: int

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the ends of its 95 % interval; NaN where not known."""

    value: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """Half the interval's width as a fraction of the value; infinite where the value is not positive."""
        return (self.high - self.low) / 2 / self.value if self.value > 0 else math.inf

    def widened(self, fraction: float) -> Interval:
        """With a systematic relative error of ``fraction`` added at both ends."""
        return Interval(
            self.value, self.low - fraction * abs(self.value), self.high + fraction * abs(self.value)
        )


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class PerCall:
    """What the rounds say of one call: joules above rest and in all, seconds, and watts at rest.

    ``net_j`` and ``gross_j`` hold the scatter alone; the meters' systematic error is added to results.
    """

    net_j: Interval
    gross_j: Interval
    time_s: Interval
    rest_w: Interval
    rounds: int
    trend_w_per_s: float
    """The slope of the power of the batches against time; NaN with fewer than three rounds."""
    trend_p: float
    """How often chance alone shows a slope as large."""


def per_call(
    timelines: Sequence[Timeline],
    batches: Sequence[Window],
    before: Sequence[Window],
    after: Sequence[Window],
    guards_ns: tuple[int, int] = (0, 0),
) -> PerCall:
    """The energy and time of one call from K batches and the rests before and after each of them.

    ``guards_ns``: so long before and after each batch the machine was at rest and the meter still smears.

    Rounds in which a rail has a gap are left out; all figures are NaN where fewer than two are left.
    """
    lines = _outermost_lines(timelines)
    guarded = [Window(w.start_ns - guards_ns[0], w.end_ns + guards_ns[1], w.calls) for w in batches]
    work_j = np.array([_power_w(lines, window) * window.seconds for window in guarded])
    before_w = np.array([_power_w(lines, window) for window in before])
    after_w = np.array([_power_w(lines, window) for window in after])
    seconds = np.array([window.seconds for window in batches])
    calls = np.array([window.calls for window in batches], float)
    around_w = (before_w + after_w) / 2
    net_j = (work_j - around_w * np.array([window.seconds for window in guarded])) / calls
    gross_j = net_j + around_w * seconds / calls
    known = np.isfinite(net_j)
    middle_s = np.array([(w.start_ns + w.end_ns) / 2e9 for w in batches])
    slope, p = _trend(middle_s[known], (gross_j * calls / seconds)[known])
    return PerCall(
        net_j=_mean(net_j[known]),
        gross_j=_mean(gross_j[known]),
        time_s=_mean(seconds / calls),
        rest_w=_mean(around_w[known]),
        rounds=int(known.sum()),
        trend_w_per_s=slope,
        trend_p=p,
    )


def _outermost_lines(timelines: Sequence[Timeline]) -> list[Timeline]:
    outer = {rail.id for rail in outermost(tuple(line.rail for line in timelines))}
    return [line for line in timelines if line.rail.id in outer]


def _power_w(lines: Sequence[Timeline], window: Window) -> float:
    lags = [line.rail.lag_ns or 0 for line in lines]
    energy = math.fsum(
        line.between(window.start_ns + lag, window.end_ns + lag)
        for line, lag in zip(lines, lags, strict=True)
    )
    return energy / window.seconds if lines else math.nan


def _mean(values: np.ndarray) -> Interval:
    n = len(values)
    if n < 2:
        return UNKNOWN
    half = float(special.stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half)


def _trend(at_s: np.ndarray, power_w: np.ndarray) -> tuple[float, float]:
    if len(at_s) < 3:
        return math.nan, math.nan
    from scipy import stats  # a third of a second: reports, which import this module, do not wait for it

    fit = stats.linregress(at_s, power_w)
    return float(fit.slope), float(fit.pvalue)


def energy(interval: Interval, relative_error: float) -> Energy:
    """An interval as an Energy, the meters' systematic error added. No energy is negative and none that was
    not seen is zero: a value not above zero is NaN, with the bound that remains."""
    wide = interval.widened(relative_error)
    if math.isnan(wide.value):
        return Energy(math.nan, math.nan, math.nan)
    value = wide.value if wide.value > 0 else math.nan
    return Energy(value, max(0.0, wide.low), max(0.0, wide.high))


def steady(seconds: Sequence[float], last: int = 5, scatter: float = 0.05) -> bool:
    """Whether the ``last`` times neither scatter by more than the fraction ``scatter`` nor fall or rise."""
    if len(seconds) < last:
        return False
    recent = np.asarray(seconds[-last:])
    level = float(np.median(recent))
    halves = abs(float(recent[: last // 2].mean() - recent[-(last // 2) :].mean()))
    return bool(np.all(np.abs(recent - level) <= scatter * level)) and halves <= scatter * level
