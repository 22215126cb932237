"""The readings by which a meter's response is sought: those around the greatest changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from joulemeter.occupancy import Occupancy, seconds_between
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

ROWS = 1_200
"""Readings that are looked at: those around the greatest changes."""

GRID = 150_000
"""Moments at which it is noted who has run for how long."""

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


class Elapsed:
    """Seconds that each column has run by any time near the excerpt's readings, and last those of ``gap`` if
    there are any, read off a fine grid."""

    def __init__(self, occupancy: Occupancy, columns: Ints, gap: Stretches, stretches: Stretches) -> None:
        whole_ns = int((stretches.end_ns - stretches.start_ns).sum())
        self._grain_ns = max(whole_ns // GRID, 10_000)
        self._start_ns = stretches.start_ns
        count = int(columns.max()) + 1 + bool(len(gap))
        group = sparse.csr_matrix(
            (np.ones(len(columns)), (np.arange(len(columns)), columns)), shape=(len(columns), count)
        )
        tables = []
        for start, end in zip(stretches.start_ns.tolist(), stretches.end_ns.tolist(), strict=True):
            edges = np.arange(start, end + 2 * self._grain_ns, self._grain_ns)
            fine = (seconds_between(occupancy, edges) @ group).toarray()
            if len(gap):
                fine[:, -1] = gap.seconds_between(edges)
            tables.append(np.concatenate([np.zeros((1, count)), np.cumsum(fine, axis=0)]))
        self._first = np.cumsum([0, *(len(table) for table in tables[:-1])])
        self._upto = np.concatenate(tables)

    def at(self, t_ns: Ints) -> Floats:
        """Seconds (n, columns) by each time, from the start of the stretch that it lies in."""
        stretch = np.maximum(np.searchsorted(self._start_ns, t_ns, side="right") - 1, 0)
        place = (t_ns - self._start_ns[stretch]) / self._grain_ns
        whole = np.maximum(place.astype(np.int64), 0)
        row = np.minimum(self._first[stretch] + whole, len(self._upto) - 2)
        part = np.clip(place - whole, 0.0, 1.0)[:, None]
        return np.asarray(self._upto[row] * (1 - part) + self._upto[row + 1] * part)
