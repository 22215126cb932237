"""Spans that tracers hand in whole, woven into the lanes that were recorded as they ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LATE_NS = 20_000
"""An operator's stamps come from another clock: one that ends this little after its call ended with it."""


class Lane(NamedTuple):
    """One lane's spans: columns of one length. ``end_ns`` is −1 for a span never left, ``parent`` a row of
    this lane or −1; ``parent_site`` names the site of a parent that may be on another lane, or is −1."""

    name: str
    site: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    parent: NDArray[np.int64]
    parent_site: NDArray[np.int64]


def recorded(
    name: str,
    site: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    end_ns: NDArray[np.int64],
    parent: NDArray[np.int64],
) -> Lane:
    """A lane whose parents are all its own."""
    return Lane(name, site, start_ns, end_ns, parent, np.full(len(site), -1, np.int64))


def added(name: str, rows: NDArray[np.int64]) -> Lane:
    """A lane out of rows (site, start, end, parent site); who encloses whom is read off the times."""
    rows = rows[np.lexsort((-rows[:, 2], rows[:, 1]))]
    site, start_ns, end_ns, parent_site = rows.T
    return Lane(name, site, start_ns, end_ns, enclosing(start_ns, end_ns), parent_site)


def woven(own: Sequence[Lane], handed_in: Sequence[Lane]) -> list[Lane]:
    """The recorded lanes, each with what was handed in under its name, and the rest of what was.

    Of several threads of one name the first is meant: tracers name threads as the recorder does.
    """
    lanes = {number: lane for number, lane in enumerate(own)}
    number_of = {lane.name: number for number, lane in reversed(list(enumerate(own)))}
    for extra in handed_in:
        number = number_of.get(extra.name, -1)
        if number >= 0:
            lanes[number] = _merged(lanes[number], extra)
        else:
            lanes[len(lanes)] = extra
    return list(lanes.values())


def _merged(own: Lane, extra: Lane) -> Lane:
    """Both in the order of time; a span never left encloses everything after its start."""
    columns = [np.concatenate(pair) for pair in zip(own[1:], extra[1:], strict=True)]
    site, start_ns, end_ns, _, parent_site = columns
    until = np.where(end_ns < 0, np.iinfo(np.int64).max, end_ns)
    order = np.lexsort((-until, start_ns))
    site, start_ns, end_ns, parent_site, until = (
        column[order] for column in (site, start_ns, end_ns, parent_site, until)
    )
    until = _clipped(start_ns, until)
    return Lane(
        own.name, site, start_ns, np.where(end_ns < 0, -1, until), enclosing(start_ns, until), parent_site
    )


def _clipped(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ends, with those moved back that stick out of the span around them by less than LATE_NS."""
    clipped, around = end_ns.copy(), [np.iinfo(np.int64).max]
    for row, (start, end) in enumerate(zip(start_ns.tolist(), end_ns.tolist(), strict=True)):
        while around[-1] <= start:
            around.pop()
        if around[-1] < end <= around[-1] + LATE_NS:
            clipped[row] = around[-1]
        around.append(int(clipped[row]))
    return clipped


def enclosing(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the innermost span that holds each span; spans sorted by start, longer first."""
    parent = np.full(len(start_ns), -1, np.int64)
    ends = end_ns.tolist()
    open_rows: list[int] = []
    for row, (start, end) in enumerate(zip(start_ns.tolist(), ends, strict=True)):
        while open_rows and ends[open_rows[-1]] < end:
            open_rows.pop()
        if open_rows and ends[open_rows[-1]] > start:
            parent[row] = open_rows[-1]
        open_rows.append(row)
    return parent


def adopted(
    site: NDArray[np.int64],
    start_ns: NDArray[np.int64],
    parent: NDArray[np.int64],
    parent_site: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Parents by row, where a span without one names its parent's site: the last that began before it."""
    parent = parent.copy()
    for wanted in np.unique(parent_site[(parent < 0) & (parent_site >= 0)]).tolist():
        orphans = np.flatnonzero((parent < 0) & (parent_site == wanted))
        candidates = np.flatnonzero(site == wanted)
        candidates = candidates[np.argsort(start_ns[candidates], kind="stable")]
        at = np.searchsorted(start_ns[candidates], start_ns[orphans], side="right") - 1
        parent[orphans[at >= 0]] = candidates[at[at >= 0]]
    return parent
