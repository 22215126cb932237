"""Cumulative joules of one rail against time: unwraps counters, integrates gauges, keeps gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from joulemeter.reading import Rail

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PLAUSIBLE_W = 20_000.0
"""No single supply that a counter meters draws more: a fall that would need more is a reset, not a wrap."""

GapReason = Literal[
    "no answer", "reset", "ambiguous wrap", "hole", "impossible value", "frozen", "not sampled"
]

_FROZEN_S = 0.5
_FROZEN_PERIODS = 50
_FROZEN_STEPS = 20

_UNREAD_NS, _UNREAD_PERIODS = 100_000_000, 5
"""A last reading this much before the end of a run is the last that a sampler took before it died."""

_PACED, _PACE, _EARLY = 50, 0.7, 0.03
"""So many changes of a gauge's value tell its pace, if so large a part keeps it and so few come early."""

_HELD_READS, _TWICE = 15, 0.2
"""A value is held over so many reads at most; so many are seen twice where it is held for one and a part."""

_STRAYS, _AGREED = np.geomspace(3e-4, 0.1, 12), 0.98
"""How far a refresh may stray from the pace of the one before, as a part of it; so many have to agree."""

_LATE = 0.3
"""A value that is still shown this part of a refresh after the next was due is the same one anew."""

_WHOLE = 0.9
"""An interval longer than this part of a period holds a refresh: true paces differ a little."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time whose energy nobody saw: unknown, not zero."""

    start_ns: int
    end_ns: int
    reason: GapReason


@dataclass(frozen=True)
class Timeline:
    """Cumulative energy of one rail.

    ``t_ns`` int64 (n,), strictly increasing; ``energy_j`` float64 (n,), never decreasing, zero at the
    first sample. Over an interval of ``unknown`` (bool (n−1,)) the energy was not seen: ``energy_j``
    stands still there, and whoever sums must leave it out and say so. ``failed`` counts readings that
    did not answer. ``others`` is the share of the processors that other programs took meanwhile, on a rail
    that feeds processors: what they drew in the stretches that show idle they may not have drawn later.
    """

    rail: Rail
    t_ns: NDArray[np.int64]
    energy_j: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    gaps: tuple[Gap, ...]
    failed: int
    others: float = 0.0

    def until(self, end_ns: int) -> Timeline:
        """This, with a gap after the last reading where that lies long before ``end_ns``: nobody read on."""
        if not len(self.t_ns) or end_ns - self.t_ns[-1] <= max(
            _UNREAD_NS, _UNREAD_PERIODS * self.rail.period_ns
        ):
            return self
        gap = Gap(int(self.t_ns[-1]), end_ns, "not sampled")
        return replace(self, gaps=(*self.gaps, gap))

    @cached_property
    def spacing_ns(self) -> int:
        """The usual time between readings that say something new; with too few, the rail's period."""
        if len(self.t_ns) < 2:
            return max(int(self.rail.period_ns), 1)
        return max(int(np.median(np.diff(self.t_ns))), 1)

    @property
    def total_j(self) -> float:
        """What the rail measured, gaps left out; NaN with fewer than two readings."""
        return float(self.energy_j[-1]) if len(self.t_ns) > 1 and not self.unknown.all() else float("nan")

    def between(self, start_ns: int, end_ns: int) -> float:
        """Joules from ``start_ns`` to ``end_ns``; NaN where the stretch reaches outside the readings or into
        a gap. Between two readings as `_at` draws it."""
        if len(self.t_ns) < 2 or start_ns < self.t_ns[0] or end_ns > self.t_ns[-1]:
            return float("nan")
        first = np.searchsorted(self.t_ns, start_ns, side="right") - 1
        last = np.searchsorted(self.t_ns, end_ns, side="left")
        if self.unknown[first:last].any():
            return float("nan")
        return self._at(end_ns) - self._at(start_ns)

    def _at(self, t_ns: int) -> float:
        """The cumulative energy at ``t_ns``: a straight line between two readings; where a counter's power
        in between lies between those before and after, the lines of these two, to the moment where they meet.
        A step of power is so put where it was (subcell resolution, Harten 1989, J. Comput. Phys. 83, 148).
        An interval shorter than a refresh, or with nothing new, shows when it was read, not a power."""
        after = min(max(int(np.searchsorted(self.t_ns, t_ns, side="left")), 1), len(self.t_ns) - 1)
        from_ns, to_ns = int(self.t_ns[after - 1]), int(self.t_ns[after])
        from_j, to_j = float(self.energy_j[after - 1]), float(self.energy_j[after])
        power = (to_j - from_j) / (to_ns - from_ns)
        if self.rail.kind == "counter" and 2 <= after < len(self.t_ns) - 1:
            around = slice(after - 2, after + 2)
            dt_ns, step_j = np.diff(self.t_ns[around]), np.diff(self.energy_j[around])
            before_w, after_w = float(step_j[0] / dt_ns[0]), float(step_j[2] / dt_ns[2])
            whole = dt_ns.min() > _WHOLE * self.rail.period_ns and step_j.min() > 0
            if whole and min(before_w, after_w) < power < max(before_w, after_w):
                step_ns = (to_ns - from_ns) * (power - after_w) / (before_w - after_w)
                since_ns = t_ns - from_ns
                return from_j + before_w * since_ns if since_ns < step_ns else to_j - after_w * (to_ns - t_ns)
        return from_j + power * (t_ns - from_ns)


def from_readings(rail: Rail, t_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Timeline:
    """The timeline of one rail's readings, in any order; NaN values are reads that failed.

    A read that failed is a gap in what we know of a gauge; a counter loses nothing by it, because the
    next good reading holds the whole difference.
    """
    order = np.argsort(t_ns, kind="stable")
    t_ns, value = np.asarray(t_ns, np.int64)[order], np.asarray(value, np.float64)[order]
    distinct = np.append(np.diff(t_ns) > 0, True) if len(t_ns) else np.empty(0, bool)
    t_ns, value = t_ns[distinct], value[distinct]
    build = _counter if rail.kind == "counter" else _gauge
    return build(rail, t_ns, value)


def _counter(rail: Rail, t_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Timeline:
    # An energy counter holds joules since some past moment: it is finite, not negative, within its range.
    answered = ~np.isnan(value)
    possible = np.isfinite(value) & (value >= 0)
    if rail.range_j is not None:
        possible &= value <= rail.range_j * (1 + 1e-9)
    t_ns, value = t_ns[possible], value[possible]
    if len(t_ns) == 0:
        return _empty(rail, int((~answered).sum()))
    step_j = np.diff(value)
    reasons = np.full(len(step_j), "", dtype=object)
    fell = step_j < 0
    if fell.any():
        step_j, reasons = _mend_falls(rail, np.diff(t_ns) / 1e9, step_j, fell, reasons)
    # A rise that no supply could make: a counter that jumped (a foreign reset to a higher value).
    jumped = step_j > MAX_PLAUSIBLE_W * np.maximum(np.diff(t_ns) / 1e9, 1e-3)
    reasons[jumped & (reasons == "")] = "impossible value"
    reasons[_frozen_from(rail, t_ns, step_j) :] = "frozen"
    return _assemble(rail, t_ns, step_j, reasons, int((~answered).sum()))


def _mend_falls(
    rail: Rail,
    dt_s: NDArray[np.float64],
    step_j: NDArray[np.float64],
    fell: NDArray[np.bool_],
    reasons: NDArray[np.object_],
) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """A falling counter has wrapped if one wrap needs no implausible power; else it was reset."""
    if rail.range_j is None:
        reasons[fell] = "reset"
        return step_j, reasons
    power = step_j[~fell] / np.maximum(dt_s[~fell], 1e-3)
    # A jump that no supply made (a foreign reset) says nothing about the usual power.
    usual_w = float(power.max(initial=0.0, where=power <= MAX_PLAUSIBLE_W))
    # Ten times the highest power seen, never less than 1 kW and never more than any supply gives.
    limit_w = min(MAX_PLAUSIBLE_W, max(1_000.0, 10 * usual_w))
    wrapped = np.where(fell, step_j + rail.range_j, step_j)
    reset = fell & (wrapped > limit_w * np.maximum(dt_s, 1e-3))
    # Across a hole so long that the usual power fills the range, the number of wraps is anyone's guess.
    ambiguous = fell & ~reset & (usual_w * dt_s > rail.range_j)
    reasons[reset] = "reset"
    reasons[ambiguous] = "ambiguous wrap"
    return wrapped, reasons


def _frozen_from(rail: Rail, t_ns: NDArray[np.int64], step_j: NDArray[np.float64]) -> int:
    """From which interval on the counter stands still to the end, as no supply at work does; else how many.

    Half a second, fifty periods, and twenty times the usual time between two steps (a meter of coarse
    steps stands still for long). A standstill that ends is not taken for a fault: a supply may rest.
    """
    moves = np.flatnonzero(step_j != 0)
    if len(moves) == 0 or len(t_ns) < 2:
        return len(step_j)
    usual_ns = float(np.median(np.diff(t_ns[moves + 1]))) if len(moves) > 2 else 0.0
    still_ns = float(t_ns[-1] - t_ns[moves[-1] + 1])
    limit_ns = max(_FROZEN_S * 1e9, _FROZEN_PERIODS * rail.period_ns, _FROZEN_STEPS * usual_ns)
    return int(moves[-1]) + 1 if still_ns > limit_ns else len(step_j)


def _gauge(rail: Rail, t_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Timeline:
    # A sample covers the time before its stamp, back to the sample before it, but no longer than twice
    # its period: what lies further back was seen by nobody.
    if len(t_ns) == 0:
        return _empty(rail, 0)
    refresh_ns = held_ns(t_ns, value)
    if refresh_ns > rail.period_ns:
        rail = replace(rail, period_ns=refresh_ns)
        t_ns, value = _refreshes(t_ns, value, refresh_ns)
    answered = ~np.isnan(value)
    possible = np.isfinite(value) & (value >= 0)
    dt_ns = np.diff(t_ns)
    covered = possible[1:]
    reasons = np.full(len(dt_ns), "", dtype=object)
    reasons[~covered] = "impossible value"
    reasons[~answered[1:]] = "no answer"
    hole = dt_ns > 2 * rail.period_ns + 1_000_000 if rail.period_ns > 0 else np.zeros(len(dt_ns), bool)
    reasons[hole & (reasons == "")] = "hole"
    step_j = np.where(possible[1:], value[1:], 0.0) * dt_ns / 1e9
    return _assemble(rail, t_ns, step_j, reasons, int((~answered).sum()))


def held_ns(t_ns: NDArray[np.int64], value: NDArray[np.float64]) -> int:
    """How long a gauge that is read more often than it refreshes holds each value; 0 where it does not.

    Noise makes nearly each sample another: values change at one pace, each after several reads. Of a supply
    that rests, or of a gauge of coarse steps, they stay, and change at no pace.
    """
    if len(t_ns) < 2:
        return 0
    changed = t_ns[1:][np.diff(value) != 0]
    apart, read_ns = np.diff(changed), float(np.median(np.diff(t_ns)))
    usual_ns = float(np.median(apart)) if len(apart) >= _PACED else 0.0
    if not 0.7 * read_ns < usual_ns < _HELD_READS * read_ns:
        return 0
    early = apart < 0.6 * usual_ns
    paced = np.abs(apart - usual_ns) <= 1.2 * read_ns
    if usual_ns > 1.7 * read_ns and early.mean() < _EARLY and paced.mean() > _PACE:
        return round(float(apart[paced].mean()))
    # Held for more than one read and less than two: many are seen twice, and hardly any three times.
    reads = np.round(apart / read_ns)
    twice = (reads == 2).mean() > _TWICE and (reads > 2).mean() < _EARLY
    return round(float(apart[reads <= 2].mean())) if twice else 0


def _refreshes(
    t_ns: NDArray[np.int64], value: NDArray[np.float64], refresh_ns: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The samples that a gauge took, and when: a value was new between the read that first shows it and the
    one before, and the pace of its neighbours says where. One that stays is a new sample once in a while."""
    changed = np.append(True, np.diff(value) != 0)
    since = t_ns - t_ns[np.maximum.accumulate(np.where(changed, np.arange(len(t_ns)), 0))]
    number = np.maximum(np.floor(since / refresh_ns - _LATE), 0.0)
    kept = np.flatnonzero(changed | np.append(False, np.diff(number) > 0))
    edge = np.append(False, changed[kept[1:]])
    latest = t_ns[kept]
    earliest = np.where(edge, t_ns[np.maximum(kept - 1, 0)], np.append(t_ns[0], latest[:-1])) + 1
    paces = np.append(0.0, np.cumsum(np.maximum(np.round(np.diff(latest) / refresh_ns), 1.0)))
    return t_ns[0] + _clocked(paces, earliest - t_ns[0], latest - t_ns[0], edge), value[kept]


def _clocked(
    paces: NDArray[np.float64],
    earliest: NDArray[np.int64],
    latest: NDArray[np.int64],
    edge: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """When each tick (n,) of a clock was, which lay between two moments where it is an ``edge``: the clock is
    the steadiest that these allow."""
    middle = (earliest + latest) / 2
    pace = float(np.polyfit(paces[edge], middle[edge], 1)[0])
    low, high = (
        np.where(edge, each - pace * paces, sign * np.inf) for each, sign in ((earliest, -1), (latest, 1))
    )
    for strays in pace * _STRAYS:
        reach = strays * paces
        lowest = _forwards(low, reach), _forwards(low[::-1], reach[-1] - reach[::-1])[::-1]
        highest = _forwards(-high, reach), _forwards(-high[::-1], reach[-1] - reach[::-1])[::-1]
        least, most = np.maximum(*lowest), -np.maximum(*highest)
        if (least <= most).mean() > _AGREED:
            break
    at = pace * paces + (least + most) / 2
    return np.asarray(np.clip(at, earliest, latest), np.int64)


def _forwards(low: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each lower bound says of all after it, given how far they may have strayed by then."""
    return np.asarray(np.maximum.accumulate(low + reach) - reach)


def _assemble(
    rail: Rail,
    t_ns: NDArray[np.int64],
    step_j: NDArray[np.float64],
    reasons: NDArray[np.object_],
    failed: int,
) -> Timeline:
    unknown = reasons != ""
    energy_j = np.concatenate([[0.0], np.cumsum(np.where(unknown, 0.0, step_j))])
    where = np.flatnonzero(unknown)
    gaps = tuple(Gap(int(t_ns[i]), int(t_ns[i + 1]), reasons[i]) for i in where)
    return Timeline(rail, t_ns, energy_j, unknown.astype(bool), _joined(gaps), failed)


def _joined(gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """Gaps that touch and share a reason, as one."""
    joined: list[Gap] = []
    for gap in gaps:
        if joined and joined[-1].end_ns == gap.start_ns and joined[-1].reason == gap.reason:
            joined[-1] = Gap(joined[-1].start_ns, gap.end_ns, gap.reason)
        else:
            joined.append(gap)
    return tuple(joined)


def _empty(rail: Rail, failed: int) -> Timeline:
    return Timeline(rail, np.empty(0, np.int64), np.empty(0), np.empty(0, bool), (), failed)
