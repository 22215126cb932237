"""A meter's lag and averaging window: taken from its rail where known, else the pair that makes its readings likeliest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from joulemeter.design import Response, Stretches, spacing_ns, windows
from joulemeter.occupancy import Occupancy, busy_stretches, seconds_between
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

ROWS = 1_200
"""Readings that are looked at: those around the greatest changes."""

LONGEST_LAG_NS = 600_000_000
LONGEST_WINDOW_NS = 2_000_000_000


def estimate(timeline: Timeline, occupancy: Occupancy) -> tuple[Response, tuple[str, ...]]:
    """The response of a rail's meter, and notes on what had to be estimated."""
    rail = timeline.rail
    step = spacing_ns(timeline)
    period = max(rail.period_ns, step) if rail.kind == "gauge" else 0
    told = Response(rail.lag_ns or 0, (rail.window_ns or period) if rail.kind == "gauge" else 0)
    lag_known, window_known = rail.lag_ns is not None, rail.kind == "counter" or rail.window_ns is not None
    if len(timeline.t_ns) < 8 or not len(occupancy):
        return told, () if lag_known else ("lag not known and too few readings to estimate it: taken as 0",)
    if rail.kind == "counter" and lag_known:
        # A counter shows the last tick: on average half a tick more than the lag it states.
        lags = told.lag_ns + np.arange(0, 21) * max(min(step, 25_000_000) // 20, 1)
        return _best(timeline, occupancy, lags, np.array([0])), ()
    return _searched(timeline, occupancy, told, lag_known, window_known, step)


def _searched(
    timeline: Timeline, occupancy: Occupancy, told: Response, lag_known: bool, window_known: bool, step: int
) -> tuple[Response, tuple[str, ...]]:
    longest = max(LONGEST_LAG_NS, 2 * step)
    lags = np.array([told.lag_ns]) if lag_known else np.unique(np.linspace(0, longest, 61).astype(np.int64))
    spans = np.array([told.window_ns]) if window_known else _spans(step, told.window_ns)
    best = _best(timeline, occupancy, lags, spans)
    for finer in (4, 16):
        if not lag_known:
            grain = longest // 60
            near = best.lag_ns + np.arange(-8, 9) * max(grain // finer, 1) // 2
            lags = np.unique(np.maximum(near, 0))
        if not window_known:
            spans = np.unique((best.window_ns * np.exp(np.linspace(-1, 1, 9) * 0.6 / finer)).astype(np.int64))
            spans = np.unique(np.append(spans, told.window_ns))
        best = _best(timeline, occupancy, lags, spans)
    notes = [] if lag_known else [f"lag estimated: {best.lag_ns / 1e6:.3g} ms"]
    notes += [] if window_known else [f"averaging window estimated: {best.window_ns / 1e6:.3g} ms"]
    return best, tuple(notes)


def _spans(step: int, told: int) -> Ints:
    """Averaging windows to try: from an eighth of the period to two seconds, the period itself among them."""
    fractions = step * np.array([0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50])
    usual = np.array([10, 25, 50, 100, 200, 500, 1000]) * 1_000_000
    some = np.concatenate([fractions, usual, [told]]).astype(np.int64)
    return np.unique(some[(some <= max(LONGEST_WINDOW_NS, 2 * step)) & (some >= min(step // 10, 10_000_000))])


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """Readings around the greatest changes: ``t_ns`` (n,), ``energy_j`` (n − 1,) a row, ``known`` (n − 1,)."""

    t_ns: Ints
    step_j: Floats
    known: NDArray[np.bool_]


def _excerpt(timeline: Timeline, occupancy: Occupancy) -> _Excerpt:
    t_ns, step, known = timeline.t_ns, np.diff(timeline.energy_j), ~timeline.unknown
    if timeline.rail.kind == "counter":
        fresh = np.append(True, (step > 0) | ~known)
        fresh[-1] = True
        kept = np.flatnonzero(fresh)
        broken = np.concatenate([[0], np.cumsum(~known)])
        t_ns, step, known = t_ns[kept], np.diff(timeline.energy_j[kept]), np.diff(broken[kept]) == 0
    if len(step) <= ROWS:
        return _Excerpt(t_ns, step, known)
    power = step / np.diff(t_ns)
    changes = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(power, prepend=power[:1])))])
    busy = Stretches(*busy_stretches(occupancy))
    ends = np.concatenate([busy.start_ns[:1], busy.end_ns[-1:]])
    edge = np.clip(np.searchsorted(t_ns, ends) - ROWS // 4, 0, len(step) - ROWS // 2)
    chosen = np.zeros(len(step), bool)
    for low in edge if len(ends) else [int(np.argmax(changes[ROWS:] - changes[:-ROWS]))]:
        chosen[low : low + ROWS // 2] = True
    first = np.flatnonzero(chosen)
    keep = np.unique(np.concatenate([first, first + 1]))
    joined = np.diff(keep) == 1
    return _Excerpt(t_ns[keep], np.where(joined, step[np.minimum(keep[:-1], len(step) - 1)], 0.0),
                    joined & known[np.minimum(keep[:-1], len(step) - 1)])


def _best(timeline: Timeline, occupancy: Occupancy, lags: Ints, spans: Ints) -> Response:
    """The likeliest of all pairs of ``lags`` and ``spans`` (one span of 0: a counter)."""
    part = _excerpt(timeline, occupancy)
    counter = timeline.rail.kind == "counter"
    stamps = part.t_ns if counter else part.t_ns[1:][part.known]
    back = np.unique((lags[:, None] + (0 if counter else np.append(0, spans))[None, :] if not counter else lags[:, None]).ravel())
    gathered = _gathered(occupancy, stamps, back)
    place = {int(each): at for at, each in enumerate(back)}
    best, top = Response(int(lags[0]), int(spans[0])), -np.inf
    middle = stamps.astype(np.float64) - float(stamps[0])
    for span in spans.tolist():
        for lag in lags.tolist():
            if counter:
                rows = np.diff(gathered[place[lag]], axis=0)[part.known]
                score = _likelihood(rows, np.diff(part.t_ns)[part.known] / 1e9, part.step_j[part.known], middle[1:][part.known], True)
            else:
                rows = gathered[place[lag]] - gathered[place[lag + span]]
                watts = (part.step_j / np.diff(part.t_ns) * 1e9)[part.known]
                score = _likelihood(rows / (span / 1e9), np.ones(len(rows)), watts, middle, False)
            if score > top:
                best, top = Response(int(lag), int(span)), score
    return best


def _gathered(occupancy: Occupancy, stamps: Ints, back: Ints) -> Floats:
    """Seconds that each site has run by ``stamps − back``: shape (back, stamps, sites), the rarest sites as one."""
    times = stamps[None, :] - back[:, None]
    edges = np.unique(times)
    if len(edges) < 2:
        return np.zeros((len(back), len(stamps), 1))
    fine = seconds_between(occupancy, edges)
    total = np.asarray(fine.sum(axis=0)).ravel()
    most = np.argsort(-total)[:24]
    rest = np.setdiff1d(np.flatnonzero(total > 0), most)
    dense = fine[:, most].toarray()
    if len(rest):
        dense = np.column_stack([dense, np.asarray(fine[:, rest].sum(axis=1)).ravel()])
    busy = Stretches(*busy_stretches(occupancy)).seconds_between(edges)
    table = np.concatenate([np.zeros((1, dense.shape[1] + 1)), np.cumsum(np.column_stack([dense, busy]), axis=0)])
    return table[np.searchsorted(edges, times)]


def _likelihood(rows: Floats, lengths: Floats, joules: Floats, middle: Floats, chained: bool) -> float:
    """Log likelihood of readings under powers of the sites, an idle with a trend, and errors of unknown size.

    The powers are pulled towards a common one, so that many sites cannot explain what a few would not. A counter's
    errors are those of its stamps and of its calls in equal parts, the former in chains.
    """
    busy, sites = rows[:, -1], rows[:, :-1]
    trend = (middle - middle.mean()) / max(np.ptp(middle), 1.0)
    columns = np.column_stack([busy, sites, lengths, lengths * trend])
    target = joules
    if chained:
        columns, target = _unchained(columns), _unchained(target[:, None])[:, 0]
    ridge = np.full(columns.shape[1], 1e-12)
    total = columns.T @ columns
    ridge[1 : 1 + sites.shape[1]] = 0.02 * max(float(np.diag(total)[1 : 1 + sites.shape[1]].max(initial=0.0)), 1e-12)
    ridge += 1e-9 * max(float(np.diag(total).max()), 1e-12)
    pull = columns.T @ target
    factor = linalg.cho_factor(total + np.diag(ridge))
    left = float(target @ target - pull @ linalg.cho_solve(factor, pull))
    return -0.5 * len(target) * float(np.log(max(left, 1e-30)))


def _unchained(columns: Floats, theta: float = 0.7) -> Floats:
    """Each row plus θ times what the rows before it left: takes a moving average of −θ out of the errors."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], [1.0, -theta], columns, axis=0))
