"""Spans of a lane as a tree: in order, and which lies in which, as they say or as is found.

Spans say their callers; that is checked, a part of the rows at a time, and sought only where it cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

PART = 200_000
"""Spans that are looked at together: what is worked out of so many stays in the processor's cache, and
memory does not grow by it."""

DEEPEST = 32
"""Callers above one another up to which the parents that spans name are checked; deeper ones are sought."""

MAX_SPLITS = 12
"""Virtual lanes tried for spans that overlap on one lane without nesting; then the rest is cut short."""


def parts(count: int, least: int = 0) -> Iterator[slice]:
    """Slices of PART rows, or ``least`` if that is more."""
    step = max(PART, least)
    for low in range(0, count, step):
        yield slice(low, min(low + step, count))


def sorted_rows(rows: Ints, lane: NDArray[Any], start: Ints, end: Ints, parent: Ints) -> Ints:
    """``rows`` lane by lane, by start; of spans that start together the outer one first."""
    found = []
    lanes = lane[rows]
    several = len(rows) > 0 and bool((lanes != lanes[0]).any())
    for each in np.unique(lanes) if several else lanes[:1]:
        mine = rows[lanes == each] if several else rows
        began = start[mine]
        if (began[1:] < began[:-1]).any():
            mine = mine[np.argsort(began, kind="stable")]
            began = start[mine]
        tied = np.zeros(len(mine) + 1, bool)
        tied[1:-1] = began[1:] == began[:-1]
        together = np.flatnonzero(tied[1:] | tied[:-1])
        if len(together):
            these = mine[together]
            mine[together] = these[np.lexsort((these, _depth(these, parent), -end[these], start[these]))]
        found.append(mine)
    return np.concatenate(found) if found else rows


def _depth(rows: Ints, parent: Ints) -> Ints:
    """How many callers each row says it has, as far as a chain of a thousand goes."""
    depth, here = np.zeros(len(rows), np.int64), parent[rows]
    for _ in range(1_000):
        valid = (here >= 0) & (here < len(parent))
        if not valid.any():
            break
        depth += valid
        here = np.where(valid, parent[np.where(valid, here, 0)], -1)
    return depth


def named_callers(rows: Ints, parent: Ints) -> NDArray[np.int32]:
    """Which of ``rows`` each names as its parent (n,); −1: none, itself, or a row that is not among them."""
    place = np.full(len(parent) + 1, -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    named = np.empty(len(rows), np.int32)
    for part in parts(len(rows)):
        mine = parent[rows[part]]
        mine[(mine < 0) | (mine >= len(parent))] = -1
        above = place[mine]
        above[above == np.arange(part.start, part.stop)] = -1
        named[part] = above
    return named


def on_lane(named: NDArray[np.int32], lane: NDArray[Any]) -> NDArray[np.int32]:
    """The parents named that ran on their child's lane; −1 for the others."""
    made = named.copy()
    for part in parts(len(named)):
        made[part][lane[named[part]] != lane[part]] = -1
    return made


def nests(named: NDArray[np.int32], lane: NDArray[Any], start: Ints, end: Ints) -> bool:
    """Whether the parents that rows name on their lanes are what encloses them, as recorders of calls say.

    They are where each row lies in its parent and no two rows of one lane and one depth overlap. Checking
    that is a fifth of the work of finding it out.
    """
    depth, last = np.zeros(len(named), np.int8), np.full(DEEPEST + 1, -1, np.int64)
    for part in parts(len(named)):
        if not _lie_inside(named, end, part) or not _found_depths(depth, named, part):
            return False
        mine = depth[part]
        for level in range(int(mine.max()) + 1):
            rows = part.start + np.flatnonzero(mine == level)
            if last[level] >= 0:
                rows = np.append(last[level], rows)
            follows = lane[rows[1:]] == lane[rows[:-1]]
            if (follows & (start[rows[1:]] < end[rows[:-1]])).any():
                return False
            last[level] = rows[-1] if len(rows) else -1
    return True


def _lie_inside(named: NDArray[np.int32], end: Ints, part: slice) -> bool:
    """Whether a part's rows follow the parents they name and end no later; by order none starts sooner."""
    below = part.start + np.flatnonzero(named[part] >= 0)
    above = named[below]
    return not ((above >= below) | (end[below] > end[above])).any()


def _found_depths(depth: NDArray[np.int8], named: NDArray[np.int32], part: slice) -> bool:
    """Fills in the depths of a part's rows, those of the rows before being known; False beyond DEEPEST."""
    above = named[part]
    for _ in range(DEEPEST):
        fresh = np.where(above >= 0, depth[above] + np.int8(1), np.int8(0))
        if (fresh == depth[part]).all():
            return True
        depth[part] = fresh
    return False


def found_callers(lane: NDArray[Any], start: Ints, end: Ints) -> tuple[NDArray[np.int32], Ints]:
    """The row that encloses each row on its lane (−1: none), and the ends.

    Spans of one lane that overlap without nesting (tasks that take turns, kernels of one queue) run at
    once: those that outlast the span they started in are moved to a lane of their own.
    """
    enclosing, end = np.full(len(start), -1, np.int32), end.copy()
    if not len(lane):
        return enclosing, end
    edges = np.flatnonzero(np.append(True, lane[1:] != lane[:-1]))
    for low, high in zip(edges, np.append(edges[1:], len(lane)), strict=True):
        todo = np.arange(low, high)
        while len(todo):
            kept, todo, inside = _without_overlap(todo, start, end)
            enclosing[kept] = np.where(inside >= 0, kept[inside], -1)
    return enclosing, end


def _without_overlap(rows: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
    """The rows that nest, those moved out of their way, and where in the first each of the first lies."""
    moved: list[Ints] = []
    for _ in range(MAX_SPLITS):
        inside = _nesting(start[rows], end[rows])
        outlasts = (inside >= 0) & (end[rows] > end[rows[inside]])
        if not outlasts.any():
            break
        # What outlasts a span that must itself move, or that is over, may fit once the former is gone.
        outlasts &= ~outlasts[inside] & (start[rows] < end[rows[inside]])
        moved.append(rows[outlasts])
        rows = rows[~outlasts]
    else:
        inside = _nesting(start[rows], end[rows])
        within = inside >= 0
        np.minimum.at(end, rows[within], end[rows[inside[within]]])
    return rows, np.sort(np.concatenate(moved)) if moved else rows[:0], inside


def _nesting(start: Ints, end: Ints) -> Ints:
    """The span that each lies in (−1: none), for spans sorted by start that nest.

    A span's depth is how many began before it less how many ended by then; its parent is the last one
    before it at the depth above.
    """
    number = np.arange(len(start))
    depth = number - np.searchsorted(np.sort(end), start, side="right")
    inside = np.full(len(start), -1, np.int64)
    if not len(start) or depth.max() == 0:
        return inside
    order = np.argsort(depth.astype(np.int32), kind="stable")
    level = np.searchsorted(depth[order], np.arange(depth.max() + 2))
    for d in range(1, int(depth.max()) + 1):
        mine, over = order[level[d] : level[d + 1]], order[level[d - 1] : level[d]]
        inside[mine] = over[np.searchsorted(over, mine) - 1]
    return inside
