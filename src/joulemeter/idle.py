"""Idle power, steady state, tails and drift: found in the stretches in which no span runs, never a constant.

Idle power is a straight line plus a slow swing and a random walk over the run (a machine warms up, a fan
turns on), pinned by what the meter saw in the stretches long enough for it. A device that stays up after its
last span (clocks, queues) shows as a stretch that begins higher than it ends: that part is a tail, not idle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from joulemeter.design import Response, Windows, hats, windows
from joulemeter.glitches import BEYOND, near_the_middle
from joulemeter.misfit import alike_w2
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

TREND = 0.1
"""How far idle may drift in a straight line over a run, as a fraction of itself: one standard deviation."""

WANDER = (1e-3, 2.5e-3, 6e-3, 1.2e-2, 2e-2)
"""How far idle may wander besides, as a fraction of itself per square root of a second
(6e-3: 2 % in ten seconds); twice as far is half as likely."""

AT_FIRST = 2.5e-3
"""The least of those that is believed before the readings of the work itself have shown how calm idle is."""

WAVE = 4e-3
"""How far idle may swing slowly (temperature, fans), as a fraction of itself: one standard deviation."""

SLOWLY = 0.25
"""Part of a run within which such a swing stays much the same."""

ROUGHER = (1.0, 2.0, 4.0, 8.0)
"""Times as far as rows' own scatter says that levels seen may err: ticks that drift against the reads
make a counter's rows err alike for a while."""

PLATEAU = 0.15
"""A level this far above the lower ones is no drift: a device that stayed up, or work that no span shows."""

UNMOVED = 3.0
"""Times as long as the usual one a counter's first row is if its first readings showed nothing."""

LEVELS = 300
"""The most levels that a walk is drawn through; of more, neighbours are taken together."""

LOWEST = 0.05
"""Part of a gauge's samples that may lie below what it rests at: those that fail."""

REST_NS = 50_000_000
"""The shortest stretch without spans that is taken for idle."""

KNOTS = 12
"""The most straight pieces that idle is made of."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What quiet stretches say of idle if it wanders at ``rate``: ``mean_w`` (k,), ``covariance`` (k, k), and
    how likely that makes what they showed, a logarithm."""

    rate: float
    mean_w: Floats
    covariance: Floats
    score: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle power in watts at ``knots_ns`` (k,): ``mean_w`` (k,) and ``covariance`` (k, k).

    ``quiet`` are the stretches it was seen in, ``tails`` those in which a device stayed up after its last
    span, ``rests`` those in which nothing else is taken to have drawn: where none is long enough to see idle
    in, shorter ones, of which readings show sums with the work beside them; ``walks`` what it may be instead,
    once the work's own readings have shown how calm it is.
    """

    knots_ns: Ints
    mean_w: Floats
    covariance: Floats
    quiet: Stretches
    tails: Stretches
    rests: Stretches
    notes: tuple[str, ...] = ()
    walks: tuple[Walk, ...] = ()

    def settled(self, mean_w: Floats, covariance: Floats, factor: float) -> tuple[Floats, Floats]:
        """Idle's mean (k,) and covariance (k, k) once the work's readings have shown how much it wanders.

        They see the knots at ``mean_w`` (k,), ``covariance`` (k, k), with what quiet stretches say and with
        errors whose variance is ``factor`` times that which was taken for theirs. They are believed about
        how much idle wanders, not about where it is: were the powers of calls to creep as idle does, readings
        would show the sum of both, which is no calmer than idle. Candidates are weighed by their evidence,
        the integral of the readings' likelihood over them.
        """
        before, after = linalg.inv(self.covariance), linalg.inv(covariance)
        told = (after - before) / factor
        weight, turn = np.linalg.eigh((told + told.T) / 2)
        told = (turn * np.maximum(weight, 0.0)) @ turn.T
        pull = (after @ mean_w - before @ self.mean_w) / factor
        scores = np.array([walk.score + _evidence(walk, told, pull) for walk in self.walks])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        means = np.array([walk.mean_w for walk in self.walks])
        mean = weights @ means
        between = (means - mean).T @ (weights[:, None] * (means - mean))
        return mean, np.tensordot(weights, [walk.covariance for walk in self.walks], 1) + between

    def energy(self, seen: Stretches) -> tuple[float, float, Floats]:
        """Joules over the stretches seen, their standard deviation, and the seconds by knot (k,)."""
        weights = knot_seconds(self.knots_ns, seen)
        return (
            float(weights @ self.mean_w),
            float(np.sqrt(max(float(weights @ self.covariance @ weights), 0.0))),
            weights,
        )


def _evidence(walk: Walk, told: Floats, pull: Floats) -> float:
    """The logarithm of the integral of exp(−½ x·told·x + pull·x) over the normal distribution of ``walk``."""
    off = pull - told @ walk.mean_w
    wide = np.eye(len(off)) + told @ walk.covariance
    middle = (pull - 0.5 * told @ walk.mean_w) @ walk.mean_w
    return float(
        middle - 0.5 * np.linalg.slogdet(wide)[1] + 0.5 * off @ walk.covariance @ np.linalg.solve(wide, off)
    )


def knot_seconds(knots_ns: Ints, seen: Stretches) -> Floats:
    """The integral of each knot's hat over the stretches, in seconds (k,): exact for straight lines."""
    if not len(seen):
        return np.zeros(len(knots_ns))
    cuts = np.unique(np.concatenate([seen.start_ns, seen.end_ns, knots_ns]))
    length = seen.seconds_between(cuts)
    return np.asarray(hats(knots_ns, (cuts[1:] + cuts[:-1]) / 2).T @ length)


def find_idle(timeline: Timeline, busy: Stretches, response: Response) -> Idle:
    """The idle power of a rail; bounds where no stretch without spans is long enough for its meter."""
    rows = windows(timeline, response)
    knots = _knots(timeline)
    free = _free(timeline, busy, response)
    stretches = _long_stretches(timeline, free, response)
    pieces, tails, quiet = [], [], []
    highest_w = _highest(rows)
    for start, end in zip(stretches.start_ns.tolist(), stretches.end_ns.tolist(), strict=True):
        after_work = bool(len(busy) and start >= busy.end_ns[0])
        found = _steady(rows, start, end, after_work)
        if found is None:
            continue
        steady_from, mine = found
        if min(level for _, level, _ in mine) > highest_w:
            continue
        pieces += mine
        quiet.append((start, end))
        if steady_from > start and after_work:
            tails.append((start, steady_from))
    if not pieces:
        return _unseen(rows, knots, free)
    at, level, variance = (np.array(column) for column in zip(*pieces, strict=True))
    seen = _stretches(quiet)
    shared = _shared_w2(rows, seen)
    walks = tuple(
        replace(walk, covariance=walk.covariance + shared) for walk in _walks(knots, at, level, variance)
    )
    first = _at_first(walks)
    return Idle(knots, first.mean_w, first.covariance, seen, _stretches(tails), seen, walks=walks)


def _highest(rows: Windows) -> float:
    """The most that a gauge can have shown at rest: whatever ran drew more. Glitches would show more."""
    if not len(rows) or rows.linked.any():
        return np.inf
    return BEYOND * float(np.quantile(rows.energy_j / rows.length_s, LOWEST))


def _stretches(pairs: list[tuple[int, int]]) -> Stretches:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Stretches(table[:, 0], table[:, 1])


def _knots(timeline: Timeline) -> Ints:
    first, last = int(timeline.t_ns[0]), int(timeline.t_ns[-1])
    count = int(np.clip((last - first) / 2e9, 1, KNOTS))
    return np.linspace(first, last, count + 1).astype(np.int64)


def _free(timeline: Timeline, busy: Stretches, response: Response) -> Stretches:
    """Stretches without spans in which a program does not just take a breath."""
    first, last = int(timeline.t_ns[0]) - response.lag_ns, int(timeline.t_ns[-1]) - response.lag_ns
    free = busy.complement(first, last)
    return free.where(free.end_ns - free.start_ns >= REST_NS)


def _long_stretches(timeline: Timeline, free: Stretches, response: Response) -> Stretches:
    """Those that hold at least one of the meter's windows whole."""
    least = int(1.2 * timeline.spacing_ns) + response.window_ns
    return free.where(free.end_ns - free.start_ns >= least)


def _steady(
    rows: Windows, start: int, end: int, after_work: bool
) -> tuple[int, list[tuple[float, float, float]]] | None:
    """From when on a stretch is steady, and its level in pieces: (middle, watts, variance)."""
    low, high = np.searchsorted(rows.start_ns, start), np.searchsorted(rows.end_ns, end, side="right")
    low += int(low == 0 and _waits(rows))
    if high <= low:
        return None
    mine = rows.take(slice(int(low), int(high)))
    if len(mine) >= 3 and not mine.linked.any():
        mine = mine.take(near_the_middle(mine.energy_j / mine.length_s))
    if len(mine) < 3:
        # Too few to see whether they are steady: taken with a margin, a wider one where a tail may hide.
        middle, level, variance = _piece(mine)
        return start, [(middle, level, variance + ((0.03 if after_work else 0.01) * level) ** 2)]
    skip = _tail_rows(mine) if after_work else 0
    steady = mine.take(slice(skip, None))
    steady_from = int(mine.start_ns[skip]) if skip else start
    count = int(np.clip(steady.length_s.sum() / 1.0, 1, 30))
    count = max(1, min(count, len(steady) // 4))
    cuts = np.linspace(0, len(steady), count + 1).astype(int)
    return steady_from, [_piece(steady.take(slice(a, b))) for a, b in pairwise(cuts.tolist())]


def _shared_w2(rows: Windows, quiet: Stretches) -> float:
    """The variance in W² of the error that a gauge's steps bring to all samples of a supply at rest alike."""
    if not len(rows) or rows.linked.any() or rows.quantum_j == 0:
        return 0.0
    watts = rows.energy_j / rows.length_s
    low = np.searchsorted(rows.start_ns, quiet.start_ns)
    high = np.searchsorted(rows.end_ns, quiet.end_ns, side="right")
    scatter = [float(np.var(watts[a:b])) for a, b in zip(low.tolist(), high.tolist(), strict=True) if a < b]
    # What samples scatter by beyond their steps takes the steps out of their mean.
    beyond = max(scatter, default=0.0) - (rows.quantum_j / float(np.median(rows.length_s))) ** 2 / 12
    return alike_w2(rows, max(beyond, 0.0) ** 0.5)


def _waits(rows: Windows) -> bool:
    """Whether a counter's first readings show nothing: since when it has not moved, none of them tells."""
    return bool(len(rows) > 1 and rows.linked[1] and rows.length_s[0] > UNMOVED * np.median(rows.length_s))


def _tail_rows(rows: Windows) -> int:
    """How many rows at the head of a stretch lie above what it settles to."""
    watts = rows.energy_j / rows.length_s
    settled = watts[len(watts) // 2 :]
    level = float(np.median(settled))
    scatter = 1.4826 * float(np.median(np.abs(settled - level)))
    width = min(9, max(1, len(watts) // 8))
    smooth = np.convolve(
        np.pad(watts, (width // 2, width - 1 - width // 2), mode="edge"), np.ones(width) / width, "valid"
    )
    above = smooth > level + max(4 * scatter / np.sqrt(width), 0.02 * level)
    first = int(np.argmin(above)) if not above.all() else len(above) - 1
    return min(first + (width if first else 0), len(rows) - 3)


def _piece(rows: Windows) -> tuple[float, float, float]:
    """Middle, watts and their variance, from some neighbouring rows of a steady stretch."""
    middle, length = float((rows.start_ns[0] + rows.end_ns[-1]) / 2), rows.length_s
    if not rows.linked.any():
        watts = rows.energy_j / length
        spread = float(np.var(watts, ddof=1)) if len(rows) > 1 else 0.0
        floor = (0.002 * float(watts.mean())) ** 2 + (rows.quantum_j / float(length.mean())) ** 2 / 12
        return middle, float(watts.mean()), (spread + floor) / len(rows)
    # A counter: the slope of its energy against time, whose points err independently by their stamps.
    t = np.concatenate([[0.0], np.cumsum(length)])
    energy = np.concatenate([[0.0], np.cumsum(rows.energy_j)])
    x = t - t.mean()
    slope = float(x @ energy / (x @ x))
    left = energy - energy.mean() - slope * x
    scatter = float(left @ left) / max(len(t) - 2, 1) + rows.quantum_j**2 / 12
    # Ticks that drift against the reads make stamps err alike for a while: a twentieth of a step is kept
    # for that.
    alike = (0.05 * slope * float(length.mean()) / max(float(t[-1]), 1e-9)) ** 2
    return middle, slope, scatter / float(x @ x) + alike


def _walks(knots: Ints, at: Floats, level: Floats, variance: Floats) -> tuple[Walk, ...]:
    """Idle at the knots given levels seen: a line plus a random walk, at each pace of WANDER.

    A level far above the others' line is a plateau that outlasted its stretch, and is left out; one far
    below is not.
    """
    # A level that is known no better than a plateau is high tells of none.
    tells = np.sqrt(variance) < 0.5 * PLATEAU * np.abs(level)
    usual = np.quantile(level[tells], 0.2, method="lower") if tells.any() else np.inf
    low = ~tells | (level <= (1 + PLATEAU) * usual + 1e-12)
    at, level, variance = _fewer(at[low], level[low], variance[low])
    kept = np.ones(len(at), bool)
    for _ in range(4):
        walks = _posteriors(knots, at[kept], level[kept], variance[kept])
        first, here = _at_first(walks), hats(knots, at)
        expected = here @ first.mean_w
        sigma = np.sqrt(variance + np.einsum("ij,jk,ik->i", here, first.covariance, here))
        plateau = level - expected > np.maximum(4 * sigma, 0.04 * np.abs(expected))
        plateau[np.argmin(level)] = False
        if (plateau == ~kept).all():
            break
        kept = ~plateau
    return walks


def _fewer(at: Floats, level: Floats, variance: Floats) -> tuple[Floats, Floats, Floats]:
    """The same levels, or LEVELS means of neighbours, weighed by how well each is known."""
    if len(at) <= LEVELS:
        return at, level, variance
    weight, first = (
        1 / np.maximum(variance, 1e-12),
        np.linspace(0, len(at), LEVELS, endpoint=False).astype(int),
    )
    total = np.add.reduceat(weight, first)
    return (
        np.add.reduceat(weight * at, first) / total,
        np.add.reduceat(weight * level, first) / total,
        1 / total,
    )


def _at_first(walks: tuple[Walk, ...]) -> Walk:
    """The likeliest by quiet stretches alone."""
    return max((walk for walk in walks if walk.rate >= AT_FIRST), key=lambda walk: walk.score)


def _posteriors(knots: Ints, at: Floats, level: Floats, variance: Floats) -> tuple[Walk, ...]:
    usual = max(float(np.average(level, weights=1 / np.maximum(variance, 1e-12))), 1e-6)
    rougher = [(variance * times**2, -0.5 * float(np.log(times)) ** 2) for times in ROUGHER]
    made = []
    for rate in WANDER:
        rarer = -float(np.log(rate / WANDER[0]))
        each = [_posterior(knots, at, level, wide, belief + rarer, usual, rate) for wide, belief in rougher]
        made.append(max(each, key=lambda walk: walk.score))
    return tuple(made)


def _posterior(
    knots: Ints, at: Floats, level: Floats, variance: Floats, belief: float, usual: float, rate: float
) -> Walk:
    """A Gaussian process given the levels (Rasmussen and Williams 2006, equations 2.23 and 2.24)."""

    def prior(one: Ints | Floats, other: Ints | Floats) -> Floats:
        return usual**2 * covariance_of((one - knots[0]) / 1e9, (other - knots[0]) / 1e9, run_s, rate)

    run_s = max(float(knots[-1] - knots[0]) / 1e9, 1e-9)
    factor = linalg.cho_factor(prior(at, at) + np.diag(variance + (1e-4 * usual) ** 2), lower=True)
    off, across = level - usual, prior(knots, at)
    gain = linalg.cho_solve(factor, across.T).T
    fit = -0.5 * float(off @ linalg.cho_solve(factor, off)) - float(np.log(np.diag(factor[0])).sum())
    left = prior(knots, knots) - gain @ across.T + 1e-9 * usual**2 * np.eye(len(knots))
    return Walk(rate, usual + gain @ off, left, fit + belief)


def covariance_of(one: Floats, other: Floats, run_s: float, rate: float) -> Floats:
    """Covariance (k, m) of idle at seconds ``one`` (k,) and ``other`` (m,) of a run of ``run_s``, in units of
    its square: a level anywhere near the usual, a trend of TREND over the run, a swing, and a random walk."""
    x, y = one / run_s - 0.5, other / run_s - 0.5
    walk = np.minimum(np.maximum(one, 0.0)[:, None], np.maximum(other, 0.0))
    swing = np.exp(-0.5 * ((x[:, None] - y) / SLOWLY) ** 2)
    return np.asarray(1.0 + TREND**2 * np.outer(x, y) + WAVE**2 * swing + rate**2 * walk)


def _unseen(rows: Windows, knots: Ints, rests: Stretches) -> Idle:
    """No stretch shows idle: all that is known is that it lies between nothing and the lowest power seen."""
    watts = np.maximum(rows.energy_j, 0.0) / np.maximum(rows.length_s, 1e-9)
    group = max(1, len(watts) // 50)
    smooth = np.convolve(watts, np.ones(group) / group, "valid") if len(watts) else np.zeros(1)
    ceiling = max(float(np.quantile(smooth, 0.02)), 1e-9)
    # Anywhere from 0 to the ceiling: mean and variance of the uniform distribution.
    covariance = np.full((len(knots), len(knots)), ceiling**2 / 12) + 1e-6 * ceiling**2 * np.eye(len(knots))
    note = "no stretch without spans is long enough to see idle: " + (
        "it is told by readings that hold work beside it"
        if len(rests)
        else "it lies anywhere from 0 to the lowest power seen"
    )
    nothing = Stretches(knots[:0], knots[:0])
    return Idle(knots, np.full(len(knots), ceiling / 2), covariance, nothing, nothing, rests, (note,))
