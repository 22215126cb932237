"""Idle power: found in the stretches in which no span runs, never a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle power with its 95 % interval, in watts."""

    power_w: float
    low_w: float
    high_w: float
    notes: tuple[str, ...] = ()


def find_idle(timeline: Timeline, busy: tuple[Ints, Ints]) -> Idle:
    """The idle power of a rail from the intervals that touch no span; a bound where there are none."""
    dt_s = np.diff(timeline.t_ns) / 1e9
    known = ~timeline.unknown & (dt_s > 0)
    power = np.diff(timeline.energy_j)[known] / dt_s[known]
    if not len(power):
        return Idle(np.nan, np.nan, np.nan)
    quiet = _quiet(timeline, busy)[known]
    if quiet.sum() < 3:
        ceiling = float(np.quantile(power, 0.05))
        return Idle(ceiling / 2, 0.0, ceiling, ("no stretch without spans: idle is known only to lie under the lowest power",))
    level = power[quiet]
    centre = float(np.average(level, weights=dt_s[known][quiet]))
    spread = float(np.std(level)) * 1.96 / np.sqrt(quiet.sum()) + 0.02 * centre
    return Idle(centre, max(0.0, centre - spread), centre + spread)


def _quiet(timeline: Timeline, busy: tuple[Ints, Ints]) -> NDArray[np.bool_]:
    """Intervals that lie whole in a stretch without spans, one interval away from any span."""
    left, right = timeline.t_ns[:-1], timeline.t_ns[1:]
    before = np.searchsorted(busy[1], left, side="right")
    clear = before == np.searchsorted(busy[0], right, side="left")
    padded = np.concatenate([[True], clear, [True]])
    return np.asarray(padded[:-2] & padded[1:-1] & padded[2:])
