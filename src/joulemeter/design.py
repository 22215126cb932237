"""What each reading of a rail saw: a window of time, its joules, and who ran in it.

A row is one equation: the joules of a window are the seconds that each site ran in it times that site's
power, plus idle. A counter's rows are the differences between its readings; a gauge's rows are its
samples times the window that each averages over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    Flags = NDArray[np.bool_]


TICKS = 5
"""Rows that are added up where a counter ticks about as often as it is read."""

SMEARS = 8
"""Moments that stand for the stretch of time in which an edge may lie."""

CELLS = 2_000_000
"""Cells of a table of running sums that is held at once."""

FINEST_S = 0.005
"""Counters tick about every millisecond (RAPL) or more slowly: rows shorter than a few ticks are added up."""

COUNTED = 60
"""Different steps up to which a counter's are taken for so many of its quantum."""

RESTLESS = 0.1
"""The share of steps of such a counter that at least differ from the one before."""

COUNTS = 0.15
"""The part of a usual row from which on a counter's quantum, and not its ticks, says what a reading shows."""


@dataclass(frozen=True, slots=True)
class Response:
    """How a meter answers: what it shows at ``t`` happened in [t − lag − window, t − lag].

    What a counter shows at ``t`` is the energy spent up to its last tick: up to some moment in
    [t − lag − window / 2, t − lag + window / 2], any of them as likely as another.
    """

    lag_ns: int
    window_ns: int = 0


WHOLE_STEPS, WHOLE = 3, 1e-3
"""So many different values that are all whole numbers of steps, to so many milliwatts, tell of a gauge's
step, however coarse."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Where rows may begin and end: moments int64 (m, b), each as likely as another."""

    start_ns: Ints
    end_ns: Ints


@dataclass(frozen=True, slots=True)
class Windows:
    """The rows of one rail, in time order, none of them unknown.

    ``start_ns``, ``end_ns`` int64 (m,) on the machine's clock, lag taken off; ``energy_j`` (m,);
    ``linked`` bool (m,): the row begins with the reading that the row before it ended with, so that an
    error of that reading's stamp moves energy from one to the other. ``quantum_j`` is the meter's step,
    ``stale`` the fraction of readings that repeated the one before while energy was being spent, and
    ``smear_ns`` the stretch of time, centred on an edge, in which the edge truly lies.
    """

    start_ns: Ints
    end_ns: Ints
    energy_j: Floats
    linked: Flags
    quantum_j: float
    stale: float = 0.0
    smear_ns: int = 0

    def __len__(self) -> int:
        return len(self.energy_j)

    @property
    def length_s(self) -> Floats:
        """Each window's seconds (m,)."""
        return np.asarray((self.end_ns - self.start_ns) / 1e9)

    @property
    def overlapping(self) -> bool:
        """Whether windows reach into each other: a gauge that averages over more than its period."""
        return bool((self.start_ns[1:] < self.end_ns[:-1]).any())

    def take(self, rows: Flags | slice) -> Windows:
        """Some of the rows; those whose predecessor is not taken are no longer linked to it."""
        number = np.arange(len(self))[rows]
        follows = np.append(False, np.diff(number) == 1) if len(number) else np.empty(0, bool)
        return Windows(
            self.start_ns[rows],
            self.end_ns[rows],
            self.energy_j[rows],
            self.linked[rows] & follows,
            self.quantum_j,
            self.stale,
            self.smear_ns,
        )


def windows(timeline: Timeline, response: Response) -> Windows:
    """The rows of ``timeline`` under ``response``."""
    return (
        _differences(timeline, response) if timeline.rail.kind == "counter" else _samples(timeline, response)
    )


def _differences(timeline: Timeline, response: Response) -> Windows:
    t_ns, energy = timeline.t_ns, timeline.energy_j
    # A reading that repeats the one before it is stale: the counter has not ticked since. The first that
    # shows a new value is the one whose stamp is close to the tick.
    # One that counts in large steps has no ticks: that it stands still says that the next is not full.
    step = np.diff(energy)
    counted = counted_j(step[~timeline.unknown])
    stale = np.append(False, (step == 0) & ~timeline.unknown & (counted == 0))
    if len(stale):
        stale[-1] = False
        stale[:-1] &= ~timeline.unknown
    kept = np.flatnonzero(~stale)
    broken = np.concatenate([[0], np.cumsum(timeline.unknown)])
    known = broken[kept[1:]] == broken[kept[:-1]]
    first, last = kept[:-1][known], kept[1:][known]
    linked = np.append(False, first[1:] == last[:-1]) if len(first) else np.empty(0, bool)
    rows = energy[last] - energy[first]
    return Windows(
        t_ns[first] - response.lag_ns,
        t_ns[last] - response.lag_ns,
        rows,
        linked,
        counted or _quantum(rows),
        _stale_share(step, stale),
        response.window_ns,
    )


def _stale_share(step: Floats, stale: Flags) -> float:
    """The fraction of readings that repeat the one before, in stretches of fifty where energy is being
    spent."""
    if not stale.any():
        return 0.0
    spent = np.add.reduceat(step, np.arange(0, len(step), 50))
    repeats = np.add.reduceat(stale[1:].astype(float), np.arange(0, len(step), 50))
    busy = spent > 0.5 * float(np.median(spent))
    return float(repeats[busy].sum() / max(50.0 * busy.sum(), 1.0))


def _samples(timeline: Timeline, response: Response) -> Windows:
    t_ns, dt_s = timeline.t_ns, np.diff(timeline.t_ns) / 1e9
    known = np.flatnonzero(~timeline.unknown)
    watts = (np.diff(timeline.energy_j) / dt_s)[known]
    end = t_ns[known + 1] - response.lag_ns
    span_s = response.window_ns / 1e9
    # The same value again, sooner than the meter refreshes, is the same sample read twice.
    stale = (
        np.append(False, (np.diff(watts) == 0) & (np.diff(end) < 0.6 * timeline.rail.period_ns))
        if len(end)
        else known < 0
    )
    keep = ~stale
    return Windows(
        end[keep] - response.window_ns,
        end[keep],
        watts[keep] * span_s,
        np.zeros(int(keep.sum()), bool),
        _step_w(watts) * span_s,
    )


def _quantum(values: Floats) -> float:
    """The step between values that repeat; zero where they do not."""
    distinct = np.unique(np.round(values[:20_000], 9))
    if len(distinct) < 2 or len(distinct) > 0.8 * min(len(values), 20_000):
        return 0.0
    least = float(np.diff(distinct).min())
    # A few values far apart are levels of power, not the meter's step.
    return least if least < 0.05 * float(np.median(np.abs(values))) else 0.0


def _step_w(watts: Floats) -> float:
    """The step of a gauge: of values that repeat, the greatest of which all are whole multiples, if there is
    one."""
    # Watts are differences of joules that added up: of a long run they are not exact to a nanowatt.
    distinct = np.unique(np.round(watts[:20_000], 6))
    milliwatts = np.rint(distinct * 1e3).astype(np.int64)
    if len(distinct) < WHOLE_STEPS or len(distinct) > 0.8 * min(len(watts), 20_000):
        return 0.0
    if np.abs(distinct * 1e3 - milliwatts).max() > WHOLE:
        return _quantum(watts)
    return float(np.gcd.reduce(milliwatts)) / 1e3


def counted_j(steps: Floats) -> float:
    """The step of a counter that counts in steps so large that its readings differ by a few of them; zero for
    any other.

    Such readings differ by whole multiples of the least, now one more and now one fewer; powers that hold for
    a while do not.
    """
    steps = np.round(steps[:20_000], 9)
    values, times = np.unique(steps[steps > 0], return_counts=True)
    distinct = values[times > 1]  # a wrap makes one that is no multiple
    if not 1 <= len(distinct) <= min(COUNTED, len(steps) // 8) or (np.diff(steps) != 0).mean() < RESTLESS:
        return 0.0
    if times[times > 1].sum() < 0.9 * times.sum():
        return 0.0
    least = float(np.diff(distinct, prepend=0.0).min())
    counts = distinct / least
    return least if bool((np.abs(counts - np.round(counts)) < 1e-3).all()) else 0.0


def blur_ns(rows: Windows) -> int:
    """How far about an edge to look for what a wrong lag would do: a fiftieth of a row, 20 µs to 2 ms."""
    return int(np.clip(np.median(rows.end_ns - rows.start_ns) / 50, 20_000, 2_000_000)) if len(rows) else 0


def counts(rows: Windows) -> bool:
    """Whether a counter's quantum is so large that what it shows follows it, and not its ticks."""
    return bool(rows.linked.any()) and rows.quantum_j > COUNTS * float(rows.energy_j.mean())


def ticks_apart(rows: Windows) -> int:
    """How many rows of a counter to add up so that its ticks are a small part of one.

    A counter that ticks about as often as it is read shows energy of an age that drifts and jumps: over one
    row those errors are neither small nor independent. It gives itself away by readings that show nothing
    new.
    """
    if not rows.linked.any():
        return 1
    apart = TICKS if rows.stale > 0.003 and not counts(rows) else 1
    return max(apart, int(np.ceil(FINEST_S / float(np.median(rows.length_s)))))


def coarser(rows: Windows, every: int) -> Windows:
    """Every few neighbouring rows added up to one; of windows that reach far into each other, some."""
    if rows.overlapping:
        reach = float(np.median(rows.length_s)) / max(float(np.median(np.diff(rows.end_ns))) / 1e9, 1e-9)
        return rows.take(slice(None, None, max(every, int(reach / 32) + 1)))
    if every <= 1:
        return rows
    chain = np.cumsum(~rows.linked)
    place = np.arange(len(rows)) - np.maximum.accumulate(np.where(rows.linked, 0, np.arange(len(rows))))
    fresh = np.append(True, (np.diff(chain) > 0)) | (place % every == 0)
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(rows)) - 1
    return replace(
        rows,
        start_ns=rows.start_ns[first],
        end_ns=rows.end_ns[last],
        energy_j=np.add.reduceat(rows.energy_j, first),
        linked=rows.linked[first],
    )


@dataclass(frozen=True, slots=True)
class Design:
    """Windows with who ran in them.

    ``seconds`` csr (m, c): innermost-running seconds by column; ``spread`` csr (m, c): seconds², the sum over
    the calls in a row of their time in it, squared: what one call's own deviation in power adds to the
    variance. ``idle`` (m, k): seconds by idle knot; ``resting_w`` idle's usual power. ``cells`` csr (m, f)
    and ``cell_spread`` csr (f, c) are set where windows overlap, with ``cell_seconds`` csr (f, c): which
    stretches each window holds, and what is in each. ``rate_start``, ``rate_end`` csr (m, c): which part of
    the time around a window's edge each column ran, from which follows what a wrong lag or window would do.
    """

    windows: Windows
    seconds: sparse.csr_matrix
    spread: sparse.csr_matrix
    idle: Floats
    resting_w: float
    cells: sparse.csr_matrix | None = None
    cell_spread: sparse.csr_matrix | None = None
    cell_seconds: sparse.csr_matrix | None = None
    rate_start: sparse.csr_matrix | None = None
    rate_end: sparse.csr_matrix | None = None

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, chosen: Flags) -> Design:
        """Some of the rows."""
        return replace(
            self,
            windows=self.windows.take(chosen),
            seconds=self.seconds[chosen],
            spread=self.spread[chosen],
            idle=self.idle[chosen],
            cells=None if self.cells is None else self.cells[chosen],
            rate_start=None if self.rate_start is None else self.rate_start[chosen],
            rate_end=None if self.rate_end is None else self.rate_end[chosen],
        )


def design(
    rows: Windows,
    occupancy: Occupancy,
    gap: Stretches,
    call_s: Floats,
    knots_ns: Ints,
    resting_w: float,
    around_ns: int = 0,
) -> Design:
    """The design of ``rows``: a column a site, then one for the time in ``gap`` that no span explains.

    ``call_s`` (c,) is how long a call of each column usually runs without a break. ``around_ns`` is how far
    to either side of an edge its rates look; 0: no rates.

    Where edges lie anywhere in a stretch, a row holds the mean of what it may hold: sharp edges would make
    neighbours look alike (errors in variables; Carroll et al. 2006, *Measurement Error in Nonlinear Models*).
    """
    blurred = _smeared(rows)
    marks = (
        [rows.start_ns, rows.end_ns]
        if blurred is None
        else [blurred.start_ns.ravel(), blurred.end_ns.ravel()]
    )
    if around_ns > 0:
        around_ns = max(around_ns, rows.smear_ns // 2)
        sides = (-around_ns, around_ns)
        marks += [each + side for each in (rows.start_ns, rows.end_ns) for side in sides]
    edges = _merged(marks)
    fine = seconds_between(occupancy, edges)
    loose = gap.seconds_between(edges)
    fine = sparse.hstack([fine, sparse.csr_matrix(loose[:, None])], format="csr")
    idle = hats(knots_ns, (rows.start_ns + rows.end_ns) / 2) * rows.length_s[:, None]
    made = _laid_out(rows, edges, fine, call_s, idle, resting_w, blurred)
    if around_ns <= 0 or not len(rows):
        return made
    rates = [
        _between(edges, fine, each - around_ns, each + around_ns) / (2e-9 * around_ns)
        for each in (rows.start_ns, rows.end_ns)
    ]
    return replace(made, rate_start=rates[0].tocsr(), rate_end=rates[1].tocsr())


def _merged(marks: list[Ints]) -> Ints:
    """The distinct moments of several lists in order. A stable sort finds them sorted, or almost, already."""
    every = np.sort(np.concatenate(marks), kind="stable")
    fresh = np.ones(len(every), bool)
    np.not_equal(every[1:], every[:-1], out=fresh[1:])
    return np.asarray(every[fresh])


def smeared_ns(smear_ns: int, count: int = SMEARS) -> list[int]:
    """Moments, even and centred on zero, that stand for a stretch of ``smear_ns``."""
    if smear_ns < count:
        return [0]
    return [int(smear_ns * ((at + 0.5) / count - 0.5)) for at in range(count)]


def _laid_out(
    rows: Windows,
    edges: Ints,
    fine: sparse.csr_matrix,
    call_s: Floats,
    idle: Floats,
    resting_w: float,
    blurred: Edges | None,
) -> Design:
    if not rows.overlapping:
        seconds = (
            _between(edges, fine, rows.start_ns, rows.end_ns)
            if blurred is None
            else _between_blurred(edges, fine, blurred)
        )
        return Design(rows, seconds, _squared(seconds, call_s), idle, resting_w)
    marks = _merged([rows.start_ns, rows.end_ns])
    fine = _between(edges, fine, marks[:-1], marks[1:])
    cells = _ranges(
        np.searchsorted(marks, rows.start_ns), np.searchsorted(marks, rows.end_ns), len(marks) - 1
    )
    spread = _squared(fine, call_s)
    return Design(
        rows, (cells @ fine).tocsr(), (cells @ spread).tocsr(), idle, resting_w, cells, spread, fine
    )


def _between(edges: Ints, fine: sparse.csr_matrix, start_ns: Ints, end_ns: Ints) -> sparse.csr_matrix:
    """Seconds by column from each start to each end, both of them edges."""
    low, high = np.searchsorted(edges, start_ns), np.searchsorted(edges, end_ns)
    return (_ranges(low, high, max(len(edges) - 1, 0)) @ fine).tocsr()


def _smeared(rows: Windows) -> Edges | None:
    """Edges that lie anywhere in a stretch; None where they are sharp."""
    offsets = np.array(smeared_ns(rows.smear_ns))
    if len(offsets) == 1 or rows.overlapping:
        return None
    return Edges(rows.start_ns[:, None] + offsets, rows.end_ns[:, None] + offsets)


def _between_blurred(edges: Ints, fine: sparse.csr_matrix, blurred: Edges) -> sparse.csr_matrix:
    """Seconds by column that each row holds in the mean over its possible edges."""
    low, high = np.searchsorted(edges, blurred.start_ns), np.searchsorted(edges, blurred.end_ns)
    made = []
    for part in _parts(low, high, fine.shape[1]):
        first = int(low[part].min())
        upto = np.cumsum(fine[first : int(high[part].max())].toarray(), axis=0)
        upto = np.concatenate([np.zeros((1, fine.shape[1])), upto])
        seconds = np.zeros((part.stop - part.start, fine.shape[1]))
        for b in range(low.shape[1]):
            seconds += (upto[high[part, b] - first] - upto[low[part, b] - first]) / low.shape[1]
        # What is left of differences of sums is rounding.
        made.append(sparse.csr_matrix(np.where(seconds > 1e-11, seconds, 0.0)))
    return sparse.vstack(made, format="csr") if made else sparse.csr_matrix((0, fine.shape[1]))


def _parts(low: Ints, high: Ints, width: int) -> Iterator[slice]:
    """Rows in parts whose stretches, by ``width`` columns, fit a table of CELLS."""
    start, count = 0, len(low)
    while start < count:
        most = max(CELLS // max(width, 1), 1) + int(low[start].min())
        stop = start + max(int(np.searchsorted(np.maximum.accumulate(high[start:].max(axis=1)), most)), 1)
        yield slice(start, stop)
        start = stop


def _ranges(low: Ints, high: Ints, width: int) -> sparse.csr_matrix:
    """A matrix with ones from low to high in each row."""
    counts = high - low
    ends = np.cumsum(counts)
    inside = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)
    return sparse.csr_matrix(
        (np.ones(len(inside)), np.repeat(low, counts) + inside, np.append(0, ends)), shape=(len(low), width)
    )


def _squared(seconds: sparse.csr_matrix, call_s: Floats) -> sparse.csr_matrix:
    spread = seconds.copy()
    spread.data = seconds.data * np.minimum(seconds.data, call_s[seconds.indices])
    return spread


def hats(knots_ns: Ints, at_ns: Floats) -> Floats:
    """Weights (n, k) of straight lines between knots, held level outside them."""
    if len(knots_ns) == 1:
        return np.ones((len(at_ns), 1))
    place = np.interp(at_ns, knots_ns, np.arange(len(knots_ns)))
    left = np.minimum(place.astype(np.int64), len(knots_ns) - 2)
    weights = np.zeros((len(at_ns), len(knots_ns)))
    row = np.arange(len(at_ns))
    weights[row, left] = 1 - (place - left)
    weights[row, left + 1] = place - left
    return weights
