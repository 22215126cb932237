"""Whether a gauge is read at the pace of a program's loop, so that it shows the same moments each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import Energy, SiteRail
from joulemeter.occupancy import Occupancy
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

OFFSETS = 10
"""Moments between two readings that are compared."""

LITTLE = 0.05
"""Where one site runs nearly all the time, every moment shows it."""

FEW = 20
"""Readings of work below which nothing is said."""

LOCKED = 0.6
"""Readings show the same moments where what runs at them is this part as far from what runs at any as it can
be: 1 where each shows one site alone, 0 where all show the same mixture."""

NOTE = (
    "the gauge is read at the pace of a loop and does not state its averaging window: each reading shows the "
    "same moments, and of the others nothing is known; read it at another pace, or meter a counter"
)


def beats(timeline: Timeline, occupancy: Occupancy) -> bool:
    """Whether a gauge that does not say over how long it averages shows the same moments of a loop again and
    again.

    Compared is who runs, at each of some moments between the readings, with who runs at all of them: half of
    the sum of absolute differences (total variation), in units of what it is where each moment has one site.
    """
    rail = timeline.rail
    roots = np.flatnonzero(occupancy.enclosing < 0)
    if rail.kind != "gauge" or rail.window_ns is not None or not len(roots):
        return False
    start, end = occupancy.start_ns[roots], occupancy.end_ns[roots]
    # Lanes follow each other: who runs on the first of them is enough.
    more = np.flatnonzero(np.diff(start) < 0)
    count = int(more[0]) + 1 if len(more) else len(start)
    start, end, column = start[:count], end[:count], occupancy.column[roots][:count]
    t_ns = timeline.t_ns[(timeline.t_ns > start[0] + 2 * timeline.spacing_ns) & (timeline.t_ns < end[-1])]
    if len(t_ns) < FEW:
        return False
    moments = t_ns[:, None] - (np.arange(OFFSETS) * timeline.spacing_ns) // OFFSETS
    at = np.searchsorted(start, moments, side="right") - 1
    who = np.where(end[np.maximum(at, 0)] > moments, column[np.maximum(at, 0)] + 1, 0)
    width = int(who.max()) + 1
    seen = np.stack([np.bincount(each, minlength=width) for each in who.T]) / len(t_ns)
    usual = seen.mean(axis=0)
    most = 1 - float((usual**2).sum())
    apart = 0.5 * float(np.abs(seen - usual).sum(axis=1).mean())
    return most > LITTLE and apart > LOCKED * most


def unknown(entries: Sequence[SiteRail], total_j: float) -> list[SiteRail]:
    """The same figures with all that they may be, from nothing to all."""
    made = []
    for each in entries:
        own, inside = (
            Energy(e.energy_j, 0.0, max(e.high_j, total_j)) for e in (each.exclusive, each.inclusive)
        )
        vague = replace(each, resolved=False, confounded_with=(), joint=None)
        made.append(replace(vague, exclusive=own, inclusive=inside))
    return made
