"""Which site runs innermost, when: spans of any order into lanes that nest, and seconds per reading.

The work is a handful of sorted sweeps over columns. Nothing here grows with spans × intervals: a span
adds one entry per reading interval it touches, and on one lane at one depth an edge between two
intervals is crossed by one span at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from joulemeter import nesting
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

WIDE = 4
"""A span that touches more rows than this is spread over them one entry a row."""

DENSE = 16_000_000
"""Cells of a table of rows and sites that is filled at once; larger ones are kept sparse throughout."""

WORKERS = 2
"""Parts of a large run that are looked at side by side."""

Overlaps = tuple[tuple[int, sparse.csr_matrix] | None, sparse.csr_matrix | None]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Spans of positive length, sorted by start, with what encloses each.

    ``column`` int32 (n,) is the span's site, ``enclosing`` int32 (n,) the row that it lies in on its lane (−1
    for none); ``start_ns``, ``end_ns`` int64 (n,). ``path`` int32 (n,) numbers the span's chain of callers;
    ``path_column`` and ``path_above`` int32 (p,) say each path's site and the path it hangs from (−1).
    ``sites`` (s,) are the columns, ``calls`` int64 (s,) counts spans, those of zero length included.
    """

    sites: tuple[Site, ...]
    calls: Ints
    column: NDArray[np.int32]
    enclosing: NDArray[np.int32]
    start_ns: Ints
    end_ns: Ints
    path: NDArray[np.int32]
    path_column: NDArray[np.int32]
    path_above: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.column)


def occupy(sites: Sequence[Site], spans: Spans) -> Occupancy:
    """The occupancy of ``spans``; a span of a site that ``sites`` does not hold gets a nameless site.

    Spans that end before they start are taken as of zero length.
    """
    sites, column = _columns(sites, np.asarray(spans.site))
    calls = np.bincount(column, minlength=len(sites)).astype(np.int64)
    start, end = np.asarray(spans.start_ns, np.int64), np.asarray(spans.end_ns, np.int64)
    rows = np.flatnonzero(end > start)
    parent = np.asarray(spans.parent, np.int64)
    rows = nesting.sorted_rows(rows, np.asarray(spans.lane), start, end, parent)
    with ThreadPoolExecutor(WORKERS) as workers:
        whole = (start, end, column, np.asarray(spans.lane))
        start, end, column, lane = workers.map(lambda each: each[rows], whole)
    named = nesting.named_callers(rows, parent)
    enclosing = nesting.on_lane(named, lane)
    if not nesting.nests(enclosing, lane, start, end):
        enclosing, end = nesting.found_callers(lane, start, end)
    caller = _callers(named, enclosing, column, start, end, sites)
    path, path_column, path_above = _paths(caller, column, len(sites))
    return Occupancy(sites, calls, column, enclosing, start, end, path, path_column, path_above)


def _columns(sites: Sequence[Site], site: NDArray[Any]) -> tuple[tuple[Site, ...], NDArray[np.int32]]:
    """The sites as columns, and each span's column."""
    known = {each.id for each in sites}
    highest = max([int(site.max(initial=0)), *known, 0])
    lookup = np.full(highest + 2, -1, np.int32)
    lookup[[each.id for each in sites]] = np.arange(len(sites), dtype=np.int32)
    column = lookup[site]
    if not (column < 0).any():
        return tuple(sites), column
    strangers = np.unique(site[column < 0])
    lookup[strangers] = len(sites) + np.arange(len(strangers), dtype=np.int32)
    named = tuple(sites) + tuple(Site(int(each), f"site {int(each)}") for each in strangers)
    return named, lookup[site]


def _callers(
    named: NDArray[np.int32],
    enclosing: NDArray[np.int32],
    column: NDArray[np.int32],
    start: Ints,
    end: Ints,
    sites: tuple[Site, ...],
) -> NDArray[np.int32]:
    """Who called each row: the parent it names, else what encloses it, else the run as a whole."""
    caller = np.where(named >= 0, named, enclosing)
    whole = np.array([site.kind == "run" for site in sites], bool)
    runs = np.flatnonzero(whole[column]) if whole.any() else np.empty(0, np.int64)
    if not len(runs):
        return caller
    orphans = np.flatnonzero(caller < 0)
    orphans = orphans[~whole[column[orphans]]]
    for run in runs[:64]:
        mine = orphans[(start[orphans] >= start[run]) & (start[orphans] < end[run]) & (caller[orphans] < 0)]
        caller[mine] = run
    return caller


def _paths(
    caller: NDArray[np.int32], column: NDArray[np.int32], width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Each row's chain of callers as a number; a chain that bites its tail is cut at the root."""
    path = np.full(len(caller), -1, np.int32)
    columns: list[Any] = [np.empty(0, np.int32)]
    aboves: list[Any] = [np.empty(0, np.int32)]
    now, todo = (np.flatnonzero(some).astype(np.int32) for some in (caller < 0, caller >= 0))
    count, up = 0, np.full(len(now), -1, np.int32)
    while len(now) or len(todo):
        if not len(now):
            now, todo, up = todo, todo[:0], np.full(len(todo), -1, np.int32)
        whole: type[np.signedinteger[Any]] = np.int32 if (count + 1) * width < 2**31 else np.int64
        key: NDArray[Any] = (up.astype(whole) + 1) * width
        key += column[now]
        distinct, which = _distinct(key)
        path[now] = which + np.int32(count)
        columns.append((distinct % width).astype(np.int32))
        aboves.append((distinct // width - 1).astype(np.int32))
        count += len(distinct)
        above = path[caller[todo]]
        ready = above >= 0
        now, up, todo = todo[ready], above[ready], todo[~ready]
    return path, np.concatenate(columns), np.concatenate(aboves)


def _distinct(key: NDArray[Any]) -> tuple[Ints, NDArray[np.int32]]:
    """The sorted distinct keys, and which of them each key is; by a table where keys are small."""
    top = int(key.max()) + 1
    if top > max(4 * len(key), 1_000_000):
        distinct, which = np.unique(key, return_inverse=True)
        return distinct, which.astype(np.int32)
    seen = np.zeros(top, bool)
    seen[key] = True
    distinct = np.flatnonzero(seen)
    place = np.zeros(top, np.int32)
    place[distinct] = np.arange(len(distinct), dtype=np.int32)
    return distinct, place[key]


def seconds_between(occupancy: Occupancy, edges_ns: Ints) -> sparse.csr_matrix:
    """Innermost-running seconds: shape (len(edges) − 1, sites), one row between each two edges.

    ``edges_ns`` int64, strictly increasing. Sums of whole nanoseconds, so nothing is lost by cancelling.
    """
    shape = (max(len(edges_ns) - 1, 0), len(occupancy.sites))
    if min(shape) == 0 or not len(occupancy):
        return sparse.csr_matrix(shape, dtype=np.float64)
    total = sparse.csr_matrix(shape, dtype=np.float64)
    narrow: list[sparse.csr_matrix] = []
    upto = 0
    for inside, wide in _all_overlaps(occupancy, edges_ns, shape):
        if wide is not None:
            total = total + wide
        if inside is None:
            continue
        first, block = inside
        shared = upto - first
        if narrow and 0 < shared <= min(block.shape[0], narrow[-1].shape[0]):  # a row that two parts touch
            before = narrow.pop()
            narrow += [before[:-shared], before[-shared:] + block[:shared]]
            first, block = upto, block[shared:]
        elif shared > 0:  # another lane begins
            total = total + _placed(narrow, upto, shape)
            narrow, upto = [], 0
        narrow += [sparse.csr_matrix((first - upto, shape[1])), block]
        upto = first + block.shape[0]
    total = (total + _placed(narrow, upto, shape)).tocsr()
    total.data = np.round(total.data)
    total.eliminate_zeros()
    total.data /= 1e9
    return total


def _all_overlaps(occupancy: Occupancy, edges: Ints, shape: tuple[int, int]) -> Iterator[Overlaps]:
    """The overlaps part by part, a few parts ahead: NumPy lets two threads work at once."""
    todo = deque(nesting.parts(len(occupancy)))
    running: deque[Future[Overlaps]] = deque()
    with ThreadPoolExecutor(WORKERS) as workers:
        while todo or running:
            while todo and len(running) <= WORKERS:
                running.append(workers.submit(_overlaps, occupancy, todo.popleft(), edges, shape))
            yield running.popleft().result()


def _placed(blocks: list[sparse.csr_matrix], upto: int, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Blocks of rows one under the other, filled up with empty rows."""
    if not blocks:
        return sparse.csr_matrix(shape, dtype=np.float64)
    return sparse.vstack([*blocks, sparse.csr_matrix((shape[0] - upto, shape[1]))], format="csr")


def _overlaps(occupancy: Occupancy, part: slice, edges: Ints, shape: tuple[int, int]) -> Overlaps:
    """Nanoseconds of some spans by row and site.

    Those of spans within a few rows come as a block of rows that begins at a number, the others' as a whole
    matrix. A span gives its time to its own site and takes it from the one around it.
    """
    start, end = np.maximum(occupancy.start_ns[part], edges[0]), np.minimum(occupancy.end_ns[part], edges[-1])
    seen = np.flatnonzero(end > start)
    if not len(seen):
        return None, None
    start, end = start[seen], end[seen]
    first = np.searchsorted(edges, start, side="right") - 1
    touched = np.searchsorted(edges, end, side="left") - first
    own, enclosing = occupancy.column[part][seen], occupancy.enclosing[part][seen]
    above = np.where(enclosing >= 0, occupancy.column[enclosing], np.int32(-1))
    wide = touched > WIDE
    outer = _entries(start[wide], end[wide], first[wide], touched[wide], own[wide], above[wide], edges, shape)
    few = ~wide
    if not few.any():
        return None, outer
    low, high = int(first[few].min()), int((first[few] + touched[few]).max())
    block = _block(
        start[few], end[few], first[few], touched[few], own[few], above[few], edges, low, high, shape[1]
    )
    return (low, block), outer if wide.any() else None


def _entries(
    start: Ints,
    end: Ints,
    first: Ints,
    touched: Ints,
    own: Any,
    above: Any,
    edges: Ints,
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    which = np.repeat(np.arange(len(start)), touched)
    row = first[which] + _count_up(touched)
    overlap = np.minimum(end[which], edges[row + 1]) - np.maximum(start[which], edges[row])
    nested = above[which] >= 0
    rows, columns = np.concatenate([row, row[nested]]), np.concatenate([own[which], above[which][nested]])
    values = np.concatenate([overlap, -overlap[nested]]).astype(np.float64)
    return sparse.coo_matrix((values, (rows, columns)), shape=shape).tocsr()


def _block(
    start: Ints,
    end: Ints,
    first: Ints,
    touched: Ints,
    own: Any,
    above: Any,
    edges: Ints,
    low: int,
    high: int,
    width: int,
) -> sparse.csr_matrix:
    if (high - low) * width > DENSE:
        made = _entries(start, end, first, touched, own, above, edges, (len(edges) - 1, width))
        return made[low:high]
    keys, values = [], []
    for step in range(int(touched.max())):
        mine = np.flatnonzero(touched > step) if step else slice(None)
        row = first[mine] + step
        overlap = np.minimum(end[mine], edges[row + 1]) - np.maximum(start[mine], edges[row])
        key, over = (row - low) * width, above[mine]
        nested = np.flatnonzero(over >= 0)
        keys += [key + own[mine], key[nested] + over[nested]]
        values += [overlap, -overlap[nested]]
    dense = np.bincount(np.concatenate(keys), weights=np.concatenate(values), minlength=(high - low) * width)
    full = np.flatnonzero(dense)
    ends = np.searchsorted(full, np.arange(high - low + 1) * width)
    return sparse.csr_matrix((dense[full], full % width, ends), shape=(high - low, width))


def _count_up(counts: Ints) -> Ints:
    """0, 1, … count − 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def around(occupancy: Occupancy, start_ns: Ints, end_ns: Ints) -> Occupancy:
    """The spans that touch any of the stretches (in order, none touching): what a look at those needs."""
    after = np.searchsorted(end_ns, occupancy.start_ns, side="right")
    touches = (after < len(start_ns)) & (start_ns[np.minimum(after, len(start_ns) - 1)] < occupancy.end_ns)
    return _some(occupancy, np.flatnonzero(touches))


def only(occupancy: Occupancy, chosen: NDArray[np.bool_]) -> Occupancy:
    """The spans of the ``chosen`` sites (s,); who called them is still known."""
    return occupancy if chosen.all() else _some(occupancy, np.flatnonzero(chosen[occupancy.column]))


def _some(occupancy: Occupancy, kept: Ints) -> Occupancy:
    place = np.full(len(occupancy) + 1, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    return replace(
        occupancy,
        column=occupancy.column[kept],
        enclosing=place[occupancy.enclosing[kept]],
        start_ns=occupancy.start_ns[kept],
        end_ns=occupancy.end_ns[kept],
        path=occupancy.path[kept],
    )


def busy_stretches(occupancy: Occupancy) -> tuple[Ints, Ints]:
    """Starts and ends of the stretches in which some span runs, in order, none touching."""
    roots = np.flatnonzero(occupancy.enclosing < 0)
    roots = roots[np.argsort(occupancy.start_ns[roots], kind="stable")]
    start, end = occupancy.start_ns[roots], np.maximum.accumulate(occupancy.end_ns[roots])
    if not len(start):
        return start, end
    fresh = np.append(True, start[1:] > end[:-1])
    return start[fresh], end[np.append(fresh[1:], True)]


def callers_matrix(occupancy: Occupancy, path_value: Floats) -> sparse.csr_matrix:
    """A value per path summed by (site anywhere on the path, innermost site): shape (sites, sites).

    A site that calls itself counts once.
    """
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    on_path: list[frozenset[int]] = []
    for column, above, value in zip(
        occupancy.path_column.tolist(), occupancy.path_above.tolist(), path_value.tolist(), strict=True
    ):
        mine = (on_path[above] if above >= 0 else frozenset()) | {column}
        on_path.append(mine)
        rows.extend(mine)
        columns.extend([column] * len(mine))
        values.extend([value] * len(mine))
    width = len(occupancy.sites)
    return sparse.coo_matrix((values, (rows, columns)), shape=(width, width)).tocsr()


def path_seconds(occupancy: Occupancy, seen: tuple[Ints, Ints] | None = None) -> Floats:
    """Innermost-running seconds by path (p,), of the time within ``seen`` (starts, ends; None: all of it)."""
    return _net_seconds(occupancy, occupancy.path, len(occupancy.path_column), seen)


def column_seconds(occupancy: Occupancy, seen: tuple[Ints, Ints]) -> Floats:
    """Innermost-running seconds by site (s,), of the time within ``seen`` (starts, ends)."""
    return _net_seconds(occupancy, occupancy.column, len(occupancy.sites), seen)


def _net_seconds(
    occupancy: Occupancy, group: NDArray[np.int32], count: int, seen: tuple[Ints, Ints] | None
) -> Floats:
    """Seconds by group (count,): each span's nanoseconds seen, less those of the spans that it encloses."""
    net = np.zeros(count + 1)
    for part in nesting.parts(len(occupancy), count):
        length = _seen_ns(occupancy.start_ns[part], occupancy.end_ns[part], seen)
        above = occupancy.enclosing[part]
        around = np.where(above >= 0, group[above], count)
        net += np.bincount(group[part], weights=length, minlength=count + 1)
        net -= np.bincount(around, weights=length, minlength=count + 1)
    return np.asarray(np.maximum(net[:count], 0.0) / 1e9)


def site_seconds(occupancy: Occupancy) -> Floats:
    """Seconds from start to end of each site's spans (s,); a span that a span of its own site called is
    left out."""
    repeated = np.zeros(len(occupancy.path_column), bool)
    on_path: list[frozenset[int]] = []
    for number, (column, above) in enumerate(
        zip(occupancy.path_column.tolist(), occupancy.path_above.tolist(), strict=True)
    ):
        over = on_path[above] if above >= 0 else frozenset()
        repeated[number] = column in over
        on_path.append(over | {column})
    total = np.zeros(len(occupancy.sites))
    for part in nesting.parts(len(occupancy)):
        length = occupancy.end_ns[part] - occupancy.start_ns[part]
        length[repeated[occupancy.path[part]]] = 0
        total += np.bincount(occupancy.column[part], weights=length, minlength=len(total))
    return np.asarray(total / 1e9)


def _seen_ns(start: Ints, end: Ints, seen: tuple[Ints, Ints] | None) -> Floats:
    """How many nanoseconds of each span lie in the stretches that were seen."""
    if seen is None:
        return (end - start).astype(np.float64)
    if len(seen[0]) == 0:
        return np.zeros(len(start))
    first, last = seen
    if len(first) == 1:
        return np.asarray(
            np.maximum(np.minimum(end, last[0]) - np.maximum(start, first[0]), 0).astype(np.float64)
        )
    edges = np.stack([first, last], axis=1).ravel()
    gathered = np.repeat(np.concatenate([[0], np.cumsum(last - first)]), 2)[1:-1].astype(np.float64)
    origin = edges[0]
    low, high = (
        np.interp((each - origin).astype(np.float64), (edges - origin).astype(np.float64), gathered)
        for each in (start, end)
    )
    return np.asarray(high - low)
