"""How likely a ticking counter's readings are, and how that changes with each power.

The age of what a counter shows is hidden (see ``ticks``). Its filter gives the probability of each step given
the steps before it; carried along with it, its derivatives (a tangent filter; Cappé, Moulines and Rydén 2005,
*Inference in Hidden Markov Models*, 10.2) give each step's pull on each power. Pulls of different steps are
uncorrelated, so the sum of their outer products is what the readings tell of the powers (Berndt, Hall, Hall
and Hausman 1974, *Annals of Economic and Social Measurement* 3, 653), doubt about the ages included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.design import hats
from joulemeter.noise import Gram
from joulemeter.occupancy import Occupancy, seconds_between
from joulemeter.stretches import Stretches
from joulemeter.ticks import FAR, STAMP_S, Steps, Ticks, likely_moves

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

CHUNK = 200
"""Steps that are gone through one after the other; chunks of them, side by side."""

BURN = 60
"""Steps before a chunk by which its ages are known as well as from all before."""

MOMENTS = 6
"""Moments that stand for one age."""

REACH = 2
"""Over how many ages they spread: calls shorter than that are not told from their neighbours. Calls about as
long as one age would seem to be, by where ages happen to lie."""

SURPRISING = 9.0
"""Variances that a step is off from which on it is the powers that are wrong."""

PART = 4_000
"""Readings whose moments are looked up at once."""


@dataclass(frozen=True, slots=True)
class Table:
    """What has added up by the moment that each reading shows at each age: ``upto`` (n, b, c + k), seconds by
    column, then by idle knot."""

    upto: Floats
    ticks: Ticks

    @property
    def width_s(self) -> float:
        """What one age stands for, in seconds."""
        return float(self.ticks.period_ns / self.upto.shape[1] / 1e9)


def table(t_ns: Ints, ticks: Ticks, bins: int, occupancy: Occupancy, gap: Stretches, knots_ns: Ints) -> Table:
    """The table of some readings under a pace; an age stands for all moments of its part of a period, and of
    half a part before and after."""
    width_ns = ticks.period_ns / bins
    around = ((np.arange(MOMENTS) + 0.5) / MOMENTS - 0.5) * REACH * width_ns
    fine = (ticks.ages_ns(bins)[:, None] + around).ravel().astype(np.int64)
    shown = t_ns - int(ticks.lag_ns)
    made = np.empty((len(t_ns), bins, len(occupancy.sites) + 1 + len(knots_ns)))
    origin, base = shown[0] - fine.max(), np.zeros(made.shape[2])
    for low in range(0, len(t_ns), PART):
        part = slice(low, low + PART)
        moments = shown[part, None] - fine
        edges = np.sort(np.append(moments, origin))
        edges = edges[np.append(True, np.diff(edges) > 0)]
        upto = base + _added_up(edges, occupancy, gap, knots_ns)
        place = np.searchsorted(edges, moments)
        made[part] = upto[place].reshape(len(moments), bins, MOMENTS, -1).mean(axis=2)
        at = int(np.searchsorted(edges, moments.min()))
        origin, base = edges[at], upto[at]
    return Table(made, ticks)


def _added_up(edges: Ints, occupancy: Occupancy, gap: Stretches, knots_ns: Ints) -> Floats:
    """Seconds by column, and by knot, from the first edge to each (e, c + k)."""
    columns = len(occupancy.sites) + 1
    steps = np.zeros((len(edges), columns + len(knots_ns)))
    steps[1:, : columns - 1] = seconds_between(occupancy, edges).toarray()
    steps[1:, columns - 1] = gap.seconds_between(edges)
    middle = (edges[1:] + edges[:-1]) / 2
    steps[1:, columns:] = hats(knots_ns, middle) * (np.diff(edges) / 1e9)[:, None]
    return np.asarray(np.cumsum(steps, axis=0))


@dataclass(frozen=True, slots=True)
class Spread:
    """Why a step's joules differ from what powers say: calls vary by ``rate`` (c,), joules² a second of each
    column; ages stand for ``blur`` times the stretch of time that they seem to; rounding adds ``floor``
    joules²."""

    rate: Floats
    blur: float
    floor: float


@dataclass(frozen=True, slots=True)
class Slopes:
    """``pulls`` (n − 1, p) of each step: on each column's power, each knot's, and the lag in seconds;
    ``on_spread`` (n − 1, 2) on the logarithms of the rates and of the blur. ``surprise`` (n − 1,): how many
    variances each step is off, 1 in the mean where the powers are right; ``missed_j`` (n − 1,): by how many
    joules, where that is so far that it hardly counts. ``score``: how likely all are, a logarithm."""

    pulls: Floats
    on_spread: Floats
    surprise: Floats
    missed_j: Floats
    score: float


class Walk:
    """The order in which steps are gone through: stretches of them side by side, each from some steps before
    it.

    How likely one age follows another over a step does not depend on powers: it is kept from one walk to the
    next.
    """

    def __init__(self, steps: Steps, ticks: Ticks, bins: int) -> None:
        self.steps, self.bins = steps, bins
        count = len(steps.joules)
        self._starts = np.linspace(0, count, max(count // CHUNK, 1) + 1).astype(np.int64)
        self._moves = [likely_moves(steps, ticks, ticks.ages_ns(bins), at) for _, at, _ in self._stops()]

    def __len__(self) -> int:
        """How many stretches there are."""
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[tuple[Ints, Ints, bool, Floats]]:
        """Stretches (m,), the step of each that is next, whether it counts, and the moves of ages (m, b,
        b)."""
        for (live, at, counts), moves in zip(self._stops(), self._moves, strict=True):
            yield live, at, counts, moves

    def _stops(self) -> Iterator[tuple[Ints, Ints, bool]]:
        first, last = self._starts[:-1], self._starts[1:]
        for k in range(-BURN, int((last - first).max())):
            live = np.flatnonzero((first + k >= 0) & (first + k < last))
            yield live, first[live] + k, k >= 0


def slopes(walk: Walk, made: Table, powers: Floats, spread: Spread) -> Slopes:
    """Each step's pull at ``powers`` (c + k,)."""
    pairs = _Pairs(walk.steps, made, powers, spread)
    count, many = len(walk.steps.joules), pairs.wide.shape[1]
    ahead = np.full((len(walk), walk.bins), 1 / walk.bins)
    tangents = np.zeros((len(walk), many + 2, walk.bins))
    pulls, surprise, score = np.zeros((count, many + 2)), np.zeros(count), 0.0
    missed_j = np.zeros(count)
    for live, at, counts, moves in walk:
        fresh, moved, off, far_j = pairs.passed(at, ahead[live], tangents[live], moves)
        total = np.maximum(fresh.sum(axis=1), 1e-300)
        pull = moved.sum(axis=2) / total[:, None]
        ahead[live] = fresh / total[:, None]
        tangents[live] = moved / total[:, None, None] - pull[:, :, None] * ahead[live][:, None, :]
        if counts:
            pulls[at], surprise[at], missed_j[at] = pull, off / total, far_j / total
            score += float(np.log(total).sum())
    return Slopes(pulls[:, :many], pulls[:, many:], surprise, missed_j, score)


class _Pairs:
    """How likely pairs of ages at both ends of steps are, and how that changes."""

    def __init__(self, steps: Steps, made: Table, powers: Floats, spread: Spread) -> None:
        self.joules = steps.joules
        self.shown = made.upto @ powers
        self.of_calls = made.upto[:, :, : len(spread.rate)] @ spread.rate
        by_lag = np.gradient(self.shown, made.width_s, axis=1)
        self.wide = np.concatenate([made.upto, by_lag[:, :, None]], axis=2).transpose(0, 2, 1).copy()
        # What an age stands for is a stretch of time, and a stamp is off by a little.
        self.blur = spread.blur * by_lag**2 * (made.width_s**2 / 12 + STAMP_S**2) + spread.floor / 2
        self.mute = steps.stale | ~steps.known

    def passed(
        self, at: Ints, ahead: Floats, tangents: Floats, moves: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Over steps ``at`` (m,): probabilities of ages (m, b), derivatives (m, p + 2, b), by how many
        variances steps are off (m,), and by how many joules where those are SURPRISING (m,), not yet
        scaled."""
        of_calls = np.maximum(self.of_calls[at + 1][:, None, :] - self.of_calls[at][:, :, None], 0)
        variance = of_calls + self.blur[at][:, :, None] + self.blur[at + 1][:, None, :]
        step = self.shown[at + 1][:, None, :] - self.shown[at][:, :, None]
        off = self.joules[at][:, None, None] - step
        squared = off * off / variance
        mute = self.mute[at][:, None, None]
        told = (squared < FAR) & ~mute
        fits = np.exp(-0.5 * np.minimum(squared, FAR)) / np.sqrt(2 * np.pi * variance)
        fits[self.mute[at]] = 1.0
        pair = moves * fits
        weight = ahead[:, :, None] * pair
        pulled = weight * np.where(told, off / variance, 0.0)
        wrong = 0.5 * weight * np.where(told, squared - 1, 0.0)
        calls = wrong * of_calls / variance
        moved = np.matmul(tangents, pair)
        moved[:, :-2] += pulled.sum(axis=1)[:, None, :] * self.wide[at + 1]
        moved[:, :-2] -= np.matmul(self.wide[at], pulled)
        moved[:, -2] += calls.sum(axis=1)
        moved[:, -1] += (wrong - calls).sum(axis=1)
        off_by = (weight * np.where(told, squared, 0.0)).sum(axis=(1, 2))
        far_j = (weight * np.where((squared > SURPRISING) & ~mute, off, 0.0)).sum(axis=(1, 2))
        return weight.sum(axis=1), moved, off_by, far_j


def gram_of(found: Slopes, powers: Floats, rate: Floats, fair: bool = False) -> Gram:
    """The normal equations that the slopes at ``powers`` (p,) amount to.

    A call's own deviation adds to a step in proportion to its time in it, as its power does: the pulls on it
    are those on the power, times the rate. A step that is far off pulls hard, and its square would count as
    many steps: it counts as one at the edge of what powers that are right leave. Of many steps squares are in
    the mean what each tells. ``fair``: a power of which a few tell is told as much less as those are off by
    more.
    """
    counted = 1 / np.maximum(found.surprise / SURPRISING, 1.0)
    told = (found.pulls * counted[:, None]).T @ found.pulls
    if fair:
        squares = found.pulls**2 * counted[:, None]
        even = (squares / np.maximum(found.surprise, 1e-6)[:, None]).sum(axis=0)
        by_chance = np.sqrt(np.maximum(squares.sum(axis=0) / np.maximum(even, 1e-300), 1.0))
        told /= np.outer(by_chance, by_chance)
    joules = told @ powers + found.pulls.sum(axis=0)
    whole = np.eye(len(powers))
    whole = np.column_stack([whole, whole[:, : len(rate)] * rate])
    right = (whole.T @ joules)[:, None]
    matrix = np.block([[whole.T @ told @ whole, right], [right.T, np.zeros((1, 1))]])
    return Gram(matrix, 0.0, len(rate), len(powers) - len(rate), len(found.pulls))
