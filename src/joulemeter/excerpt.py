"""The readings by which a meter's response is sought: those around the greatest changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.design import Stretches
from joulemeter.occupancy import Occupancy
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

ROWS = 1_200
"""Readings that are looked at: those around the greatest changes."""

LONG_ROW = 8
"""Rows this many times as long as the usual one are not looked at."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Readings around the greatest changes: ``at`` (n,) which of all, ``t_ns`` (n,), joules between them
    (n − 1,), and whether those are known."""

    at: Ints
    t_ns: Ints
    step_j: Floats
    known: NDArray[np.bool_]


def excerpt_of(timeline: Timeline, occupancy: Occupancy) -> Excerpt:
    """A third around the first span's start, a third around the last span's end, a third around the
    middle."""
    t_ns, step, known = timeline.t_ns, np.diff(timeline.energy_j), ~timeline.unknown
    kept = np.arange(len(t_ns))
    if timeline.rail.kind == "counter":
        fresh = np.append(True, (step > 0) | ~known)
        fresh[-1] = True
        kept = np.flatnonzero(fresh)
        broken = np.concatenate([[0], np.cumsum(~known)])
        t_ns, step, known = t_ns[kept], np.diff(timeline.energy_j[kept]), np.diff(broken[kept]) == 0
    # A row many times as long as the others tells nothing of a lag, and would drown what they tell.
    known &= np.diff(t_ns) < LONG_ROW * np.median(np.diff(t_ns))
    if len(step) <= ROWS:
        return Excerpt(kept, t_ns, step, known)
    middles = np.array(
        [
            occupancy.start_ns.min(),
            (occupancy.start_ns.min() + occupancy.end_ns.max()) // 2,
            occupancy.end_ns.max(),
        ]
    )
    lows = np.clip(np.searchsorted(t_ns, middles) - ROWS // 6, 0, len(step) - ROWS // 3)
    keep = np.unique(np.concatenate([np.arange(low, low + ROWS // 3 + 1) for low in lows]))
    joined = np.diff(keep) == 1
    return Excerpt(kept[keep], t_ns[keep], np.where(joined, step[keep[:-1]], 0.0), joined & known[keep[:-1]])


def nearby(rows: Excerpt, reach: int) -> Stretches:
    """The time that the excerpt's readings can have seen, whatever their lag and window."""
    breaks = np.flatnonzero(np.diff(rows.t_ns) > reach)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(rows.t_ns) - 1)
    return Stretches(rows.t_ns[first] - reach, rows.t_ns[last])
