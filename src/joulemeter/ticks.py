"""How old what a counter shows is: at what pace it ticks, and how its ages follow one another.

A counter shows its last tick. Ticks come at a pace of their own, so the age of what is shown goes up and down
like a saw. The readings tell where in the saw they lie: by what they show, and by whether they show anything
new. A hidden Markov model over the age (Rabiner 1989, *Proc. IEEE* 77, 257) puts that together: here for the
pace, in ``slopes`` for the powers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.design import hats
from joulemeter.occupancy import Occupancy
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

ASKED_NS = 1_000.0
"""The period that stands for a counter that is fresh whenever it is asked."""

LEAST_PERIOD_NS = 600_000.0
MOST_PERIOD_NS = 100_000_000.0

JITTERS = (0.01, 0.02, 0.06)
"""Fractions of its period by which one tick may differ from the next."""

UNSURE = 20.0
"""How much less likely, as a logarithm, a pace may seem by rough powers and still be looked at."""

OTHER = 1.2
"""By how much the logarithms of quite other periods differ."""

MOST_PACES = 3
"""Paces that are looked at with the best powers of each."""

SHIFTS = (-0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45)
"""How far a lag may lie from what the mean age says, in periods."""

FEW = 2
"""Steps without anything new from which on they are no chance."""

MOST_STEPS = 30_000
"""Steps that are looked at, of a run that has more."""

SCANNED_ROWS = 300
"""Readings in a row by which a counter's pace is found."""

SCANNED = 12
"""Ages that are told apart while a pace is sought."""

FOLLOWED = 24
"""Ages that are told apart while they are followed."""

FAR = 25.0
"""Squared deviations beyond this are no less likely: readings that err wildly tell nothing."""

NEVER = -20.0
"""Log probability of what a counter does not do: tick without showing it, or show a tick that was not."""

STAMP_S = 20e-6
"""How far a stamp lies from the read that it belongs to."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """A counter's pace: ``lag_ns`` at the moment of a tick, ``period_ns`` between ticks, and by which
    fraction of it each differs from the next (``jitter``)."""

    lag_ns: float
    period_ns: float
    jitter: float

    def ages_ns(self, count: int) -> Floats:
        """Ages (count,) that stand for all from none to a period."""
        return (np.arange(count) + 0.5) / count * self.period_ns


def bins_of(ticks: Ticks) -> int:
    """How many ages to tell apart: every tenth of a millisecond, 16 to 40; two of one that has none."""
    return 2 if ticks.period_ns <= ASKED_NS else int(np.clip(ticks.period_ns / 1e5, 16, 40))


@dataclass(frozen=True, slots=True)
class Steps:
    """What a counter showed: stamps int64 (n,); of each step between two (n − 1,) its joules above idle, the
    variance of what calls draw in it, whether it is known, and whether it showed nothing new.

    ``idle_w`` is idle's power, ``quantum_j`` the step in which it counts.
    """

    t_ns: Ints
    joules: Floats
    variance: Floats
    known: Flags
    stale: Flags
    idle_w: float
    quantum_j: float = 0.0

    @property
    def whole(self) -> Flags:
        """Which steps (n − 1,) are of the usual length and lie in work."""
        usual = np.diff(self.t_ns) / float(np.median(np.diff(self.t_ns)))
        return (self.variance > 0) & self.known & (usual > 0.7) & (usual < 1.5)

    @property
    def silent(self) -> bool:
        """Whether some of those show nothing new: ticks are about as far apart as reads, or more."""
        return int((self.stale & self.whole).sum()) >= FEW

    def take(self, part: slice) -> Steps:
        """The steps between some readings in a row."""
        inner = slice(part.start, part.stop - 1)
        return replace(
            self,
            t_ns=self.t_ns[part],
            joules=self.joules[inner],
            variance=self.variance[inner],
            known=self.known[inner],
            stale=self.stale[inner],
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """Dynamic energy that adds up in straight lines: ``joules`` (k,) at ``t_ns`` (k,)."""

    t_ns: Ints
    joules: Floats

    def at(self, t_ns: Floats | Ints) -> Floats:
        """Joules by any time."""
        if not len(self.t_ns):
            return np.zeros(np.shape(t_ns))
        origin = self.t_ns[0]
        return np.asarray(np.interp(t_ns - origin, (self.t_ns - origin).astype(np.float64), self.joules))


def curve(occupancy: Occupancy, gap: Stretches, per_s: Floats) -> Curve:
    """What adds up while each column runs innermost at ``per_s`` (c,), the last while nothing does."""
    own = per_s[occupancy.column]
    over = np.where(occupancy.enclosing >= 0, own[occupancy.enclosing], 0.0)
    loose = np.full(len(gap), per_s[-1])
    t = np.concatenate([occupancy.start_ns, occupancy.end_ns, gap.start_ns, gap.end_ns])
    step = np.concatenate([own - over, over - own, loose, -loose])
    order = np.argsort(t, kind="stable")
    t, level = t[order], np.cumsum(step[order])
    return Curve(t, np.concatenate([np.zeros(min(len(t), 1)), np.cumsum(level[:-1] * np.diff(t) / 1e9)]))


def busiest(steps: Steps) -> slice:
    """Some readings in a row from the middle of what ran."""
    some = np.flatnonzero(steps.variance > 0)
    middle = int(np.median(some)) if len(some) else len(steps.t_ns) // 2
    low = max(middle - SCANNED_ROWS // 2, 0)
    return slice(low, min(low + SCANNED_ROWS, len(steps.t_ns)))


def followed(steps: Steps, energy: Curve, ticks: Ticks) -> tuple[Floats, Floats]:
    """The age of each reading and its standard deviation (n,), in ns, by all steps before and after (Rabiner
    1989, equations 19, 24, 26)."""
    ages = ticks.ages_ns(FOLLOWED)
    shown = _shown(steps, energy, ticks, ages)
    whole = slice(0, len(steps.joules))
    pairs = likely_moves(steps, ticks, ages, whole) * _fits(steps, shown, ticks, whole)
    before, after = np.full((len(steps.t_ns), len(ages)), 1 / len(ages)), np.ones(len(ages))
    for at, pair in enumerate(pairs):
        ahead = before[at] @ pair
        before[at + 1] = ahead / max(ahead.sum(), 1e-300)
    both = before
    for at in range(len(pairs) - 1, -1, -1):
        after = pairs[at] @ after
        after /= max(after.max(), 1e-300)
        both[at] *= after
    both /= np.maximum(both.sum(axis=1, keepdims=True), 1e-300)
    mean = both @ ages
    return mean, np.sqrt(np.maximum(both @ ages**2 - mean**2, 0.0))


def paced(steps: Steps, energy: Curve, guess: Ticks, told: bool, silent: bool = False) -> list[Ticks]:
    """Paces under which some steps in a row are likely, the likeliest first: others of quite another period
    follow where rough powers hardly tell between them. ``silent``: of those about as long as it takes to show
    something new.

    ``told``: the lag is that of ``guess``, else what is known of it is the mean age, lag and half a period.
    """
    middle = guess.lag_ns + (0 if told else guess.period_ns / 2)
    spacing = float(np.median(np.diff(steps.t_ns)))
    shifts = (0.0,) if told else SHIFTS if silent else SHIFTS[::2]
    tried = [
        Ticks(guess.lag_ns if told else max(middle - (0.5 - shift) * period, 0.0), period, JITTERS[1])
        for period in _periods(_turn(steps) if silent else spacing, silent)
        for shift in shifts
    ]
    scores = _all_scores(steps, energy, tried)
    chosen: list[Ticks] = []
    for place in np.argsort(-scores).tolist():
        if scores[place] < scores.max() - UNSURE or len(chosen) == MOST_PACES:
            break
        if all(abs(np.log(tried[place].period_ns / each.period_ns)) > OTHER for each in chosen):
            chosen.append(tried[place])
    return [_refined(steps, energy, each, told, spacing) for each in chosen]


def _refined(steps: Steps, energy: Curve, some: Ticks, told: bool, spacing: float) -> Ticks:
    """The likeliest pace near one, and its jitter."""
    if some.period_ns <= ASKED_NS:
        return some
    for ratio in (0.5, 0.2):
        step = ratio * JITTERS[1] / np.sqrt(max(spacing / some.period_ns, 1.0))
        near = []
        for period in (some.period_ns * (1 + k * step) for k in (-2, -1, 0, 1, 2)):
            middle = max(some.lag_ns + (some.period_ns - period) / 2, 0.0)
            moved = (0.0,) if told else SHIFTS
            lags = [some.lag_ns if told else max(middle + ratio * each * period, 0.0) for each in moved]
            near += [Ticks(lag, period, some.jitter) for lag in lags]
        some = _likeliest(steps, energy, near)
    return _likeliest(steps, energy, [replace(some, jitter=jitter) for jitter in JITTERS])


def _turn(steps: Steps) -> float:
    """How long it takes to show something new while work runs, by steps of the usual length."""
    passed, whole = np.diff(steps.t_ns), steps.whole
    fresh = float((~steps.stale[whole]).mean()) if whole.any() else 1.0
    return float(np.median(passed)) / max(fresh, 1 / len(passed))


def _periods(spacing_ns: float, silent: bool) -> Floats:
    """Periods to try, close enough together for the right one to be followed from one reading to the next;
    the first stands for a counter that ticks when it is asked. One that shows nothing new (``silent``) at
    times ticks about as rarely as it shows something new."""
    if silent:
        return spacing_ns * np.arange(0.9, 1.1, 0.01)
    made = [ASKED_NS]
    period = min(max(LEAST_PERIOD_NS, 0.03 * spacing_ns), spacing_ns)
    while period < min(1.1 * spacing_ns, MOST_PERIOD_NS):
        made.append(period)
        period *= 1 + 1.5 * JITTERS[1] / np.sqrt(max(spacing_ns / period, 1.0))
    return np.array(made)


def neighbours(ticks: Ticks, spacing_ns: float, told: bool) -> list[Ticks]:
    """Paces that are easily taken for this one where reads are ``spacing_ns`` apart: one tick more or fewer
    between two, more or less jitter, a period a little longer or shorter.

    ``told``: the lag is known, else what is known of it is the mean age, lag and half a period.
    """

    def at(period_ns: float, jitter: float) -> Ticks:
        """Such a clock, its mean age kept unless the lag is told."""
        lag = ticks.lag_ns if told else max(ticks.lag_ns + (ticks.period_ns - period_ns) / 2, 0.0)
        return Ticks(lag, period_ns, jitter)

    between = spacing_ns / ticks.period_ns
    aliases = [spacing_ns / count for count in (between - 1, between + 1) if count > 0.9]
    place = JITTERS.index(ticks.jitter)
    jitters = JITTERS[max(place - 1, 0) : place] + JITTERS[place + 1 : place + 2]
    fine = _finest(ticks, spacing_ns)
    periods = aliases + [ticks.period_ns * (1 + k * fine) for k in (-1, 1)]
    return [at(ticks.period_ns, each) for each in jitters] + [
        at(each, ticks.jitter) for each in periods if each >= LEAST_PERIOD_NS
    ]


def as_read(ticks: Ticks, spacing_ns: float, told: bool) -> Ticks:
    """A counter that ticks at the pace of the reads, of the same mean age unless the lag is ``told``."""
    middle = ticks.lag_ns + (0 if told else (ticks.period_ns - spacing_ns) / 2)
    return Ticks(max(middle, 0.0), spacing_ns, JITTERS[1])


def when_asked(ticks: Ticks, told: bool) -> Ticks:
    """A counter that is fresh whenever it is asked, of the same mean age unless the lag is ``told``."""
    middle = ticks.lag_ns + (0 if told else (ticks.period_ns - ASKED_NS) / 2)
    return Ticks(middle, ASKED_NS, ticks.jitter)


def nearly(one: Ticks, other: Ticks, spacing_ns: float) -> bool:
    """Whether two paces differ by less than is looked at, whatever their lags."""
    apart = abs(one.period_ns / other.period_ns - 1)
    return one.jitter == other.jitter and apart < _finest(one, spacing_ns) / 2


def _finest(ticks: Ticks, spacing_ns: float) -> float:
    """By which fraction periods are told apart: a fifth of what jitter comes to from one read to the next."""
    return float(0.2 * JITTERS[1] / np.sqrt(max(spacing_ns / ticks.period_ns, 1.0)))


def excerpt(steps: Steps, most: int) -> Steps:
    """All steps, or ten stretches of them, evenly spread: at most so many readings. What joins them is
    unknown."""
    count = len(steps.t_ns)
    if count <= most:
        return steps
    length = max(most // 10, 2)
    at = (np.linspace(0, count - length, 10).astype(np.int64)[:, None] + np.arange(length)).ravel()
    joined, step = np.diff(at) == 1, at[:-1]
    return replace(
        steps,
        t_ns=steps.t_ns[at],
        joules=steps.joules[step],
        variance=steps.variance[step],
        known=steps.known[step] & joined,
        stale=steps.stale[step] & joined,
    )


def _likeliest(steps: Steps, energy: Curve, some: list[Ticks]) -> Ticks:
    return some[int(np.argmax(_all_scores(steps, energy, some)))]


def _all_scores(steps: Steps, energy: Curve, some: list[Ticks]) -> Floats:
    return np.concatenate([_scores(steps, energy, some[low : low + 64]) for low in range(0, len(some), 64)])


def _scores(steps: Steps, energy: Curve, some: list[Ticks]) -> Floats:
    """The log probability of all steps under each pace."""
    whole, bins = slice(0, len(steps.joules)), SCANNED
    pairs = np.empty((len(steps.joules), len(some), bins, bins))
    for at, ticks in enumerate(some):
        ages = ticks.ages_ns(bins)
        shown = _shown(steps, energy, ticks, ages)
        pairs[:, at] = likely_moves(steps, ticks, ages, whole) * _fits(steps, shown, ticks, whole)
    ahead, score = np.full((len(some), bins), 1 / bins), np.zeros(len(some))
    for pair in pairs:
        ahead = np.einsum("ca,cab->cb", ahead, pair)
        total = np.maximum(ahead.sum(axis=1), 1e-300)
        score += np.log(total)
        ahead /= total[:, None]
    return score


def _shown(steps: Steps, energy: Curve, ticks: Ticks, ages: Floats) -> Floats:
    """Joules that each reading would show at each age (n, b), idle before the reading itself left out."""
    upto = steps.t_ns[:, None] - int(ticks.lag_ns) - ages.astype(np.int64)
    return np.asarray(energy.at(upto) - steps.idle_w * ages / 1e9)


def likely_moves(steps: Steps, ticks: Ticks, ages: Floats, part: slice | Ints) -> Floats:
    """How likely one age follows another over each step (m, b, b)."""
    period, width = ticks.period_ns, ticks.period_ns / len(ages)
    passed = np.diff(steps.t_ns)[part].astype(np.float64)
    stale, known = steps.stale[part], steps.known[part]
    ticked = np.maximum(passed / period, 0.2)
    sigma = np.sqrt((ticks.jitter * period) ** 2 * ticked + width**2 / 6)[:, None, None]
    off = ages[None, None, :] - ages[None, :, None] - passed[:, None, None]
    off -= period * np.round(off / period)
    likely = np.exp(-0.5 * (off / sigma) ** 2)
    likely /= likely.sum(axis=2, keepdims=True)
    # By the end of the step the tick shown at its start would be this old: once older than a period, it is
    # no more shown; before, it still is.
    late = (ages[None, :] + passed[:, None] - period) / sigma[:, :, 0]
    odd = np.where(stale[:, None], late > 2, late < -2)
    likely *= np.where(odd, np.exp(NEVER), 1.0)[:, :, None]
    likely[~known] = 1 / len(ages)
    return likely


def _fits(steps: Steps, shown: Floats, ticks: Ticks, part: slice) -> Floats:
    """How likely each step's joules are given the ages at both ends (m, b, b)."""
    bins = shown.shape[1]
    first, last = shown[part], shown[part.start + 1 : part.stop + 1]
    # Within a bin the energy shown goes from one edge to the other.
    grain = [np.ptp(each, axis=1) / max(bins - 1, 1) for each in (first, last)]
    passing = np.maximum(grain[0], grain[1]) / (ticks.period_ns / bins) * 1e9
    counted = steps.quantum_j**2 / 6 + 1e-18
    variance = (
        steps.variance[part] + (grain[0] ** 2 + grain[1] ** 2) / 12 + (STAMP_S * passing) ** 2 + counted
    )
    off = steps.joules[part][:, None, None] - (last[:, None, :] - first[:, :, None])
    made = np.exp(-0.5 * np.minimum(off**2 / variance[:, None, None], FAR))
    made /= np.sqrt(2 * np.pi * variance)[:, None, None]
    made[steps.stale[part] | ~steps.known[part]] = 1.0
    return np.asarray(made)


def steps_of(timeline: Timeline, knots_ns: Ints, idle_w: Floats, variance: Curve) -> Steps:
    """The steps of a counter, less idle; ``variance`` adds up what calls' own scatter is worth in joules²."""
    t_ns, step = timeline.t_ns, np.diff(timeline.energy_j)
    resting = hats(knots_ns, (t_ns[1:] + t_ns[:-1]) / 2) @ idle_w * np.diff(t_ns) / 1e9
    stale = (step == 0) & ~timeline.unknown
    return Steps(
        t_ns, step - resting, np.diff(variance.at(t_ns)), ~timeline.unknown, stale, float(np.mean(idle_w))
    )
