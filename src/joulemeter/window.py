"""The gross energy of a stretch of time, with its interval, from the timelines of a machine's rails."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from joulemeter.ledger import UNKNOWN, Energy
from joulemeter.reading import outermost
from joulemeter.timeline import Timeline


def energy_between(timelines: Sequence[Timeline], start_ns: int, end_ns: int) -> Energy:
    """The joules of the outermost rails from ``start_ns`` to ``end_ns``; UNKNOWN where one saw not all of it.

    Rails' errors are taken as dependent: interval ends add.
    """
    outer = {rail.id for rail in outermost(tuple(line.rail for line in timelines))}
    parts = [of_rail(line, start_ns, end_ns) for line in timelines if line.rail.id in outer]
    if not parts:
        return UNKNOWN
    return Energy(
        *(math.fsum(getattr(part, key) for part in parts) for key in ("energy_j", "low_j", "high_j"))
    )


def of_rail(line: Timeline, start_ns: int, end_ns: int) -> Energy:
    """One rail's joules from ``start_ns`` to ``end_ns`` (the rail's lag taken off).

    A cumulative energy never decreases, so at a moment between two readings it lies between theirs, and a
    counter that refreshes every ``period_ns`` may in truth be one refresh further on than it reads, or one
    behind where its source stamped a reading with a refresh too early. Those bounds, at both ends, and the
    meter's relative error make the interval.
    """
    lag = line.rail.lag_ns or 0
    start_ns, end_ns = start_ns + lag, end_ns + lag
    energy = line.between(start_ns, end_ns)
    if math.isnan(energy):
        return UNKNOWN
    (start_below, start_above), (end_below, end_above) = _bounds(line, start_ns), _bounds(line, end_ns)
    gain = line.rail.relative_error * energy
    low = max(0.0, end_below - start_above) - gain
    high = max(0.0, end_above - start_below) + gain
    return Energy(energy, max(0.0, min(low, energy)), max(high, energy))


def _bounds(line: Timeline, t_ns: int) -> tuple[float, float]:
    """The least and the most that the true cumulative energy can be at ``t_ns``."""
    after = min(int(np.searchsorted(line.t_ns, t_ns, side="left")), len(line.t_ns) - 1)
    before = after if line.t_ns[after] == t_ns else max(after - 1, 0)
    below, above = float(line.energy_j[before]), float(line.energy_j[after])
    # A gauge's samples, too, are means over a period that nobody aligned with ours.
    slack = _power_w(line, after) * line.rail.period_ns / 1e9
    return below - slack, above + slack


def _power_w(line: Timeline, at: int) -> float:
    """The highest mean power of the few intervals around reading ``at``."""
    first, last = max(0, at - 3), min(len(line.t_ns) - 1, at + 3)
    dt_s = np.diff(line.t_ns[first : last + 1]) / 1e9
    # Intervals much shorter than a refresh hold a whole step: their quotient is no power.
    power = np.diff(line.energy_j[first : last + 1]) / np.maximum(dt_s, line.rail.period_ns / 1e9)
    return float(power.max(initial=0.0))
