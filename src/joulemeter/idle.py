"""Idle power, steady state, tails and drift: found in the stretches in which no span runs, never a constant.

Idle power is a straight line plus a random walk over the run (a machine warms up, a fan turns on), pinned by
what the meter saw in the stretches long enough for it. A device that stays up after its last span
(clocks, queues) shows as a stretch that begins higher than it ends: that part is a tail, not idle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg

from joulemeter.design import Response, Stretches, Windows, hats, windows
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

TREND = 0.1
"""How far idle may drift in a straight line over a run, as a fraction of itself: one standard deviation."""

WANDER = (6e-3, 1.2e-2, 2e-2)
"""How far idle may wander besides, as a fraction of itself per square root of a second
(2 % in ten seconds): the likeliest is taken."""

CALMER = (2.5e-3,)
"""What it may wander less, if the readings of the work itself show that it does."""

UNUSUAL = 2.0
"""How much likelier, as a logarithm, readings have to be for each of those before it is believed as much."""

PLATEAU = 0.15
"""A level this far above the lower ones is no drift: a device that stayed up, or work that no span shows."""

UNMOVED = 3.0
"""Times as long as the usual one a counter's first row is if its first readings showed nothing."""

KNOTS = 12
"""The most straight pieces that idle is made of."""


@dataclass(frozen=True, slots=True)
class Calm:
    """What quiet stretches say of idle if it wanders so much: ``mean_w`` (k,), ``covariance`` (k, k), and how
    likely they and experience find that, a logarithm."""

    mean_w: Floats
    covariance: Floats
    score: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Idle power in watts at ``knots_ns`` (k,): ``mean_w`` (k,) and ``covariance`` (k, k).

    ``quiet`` are the stretches it was seen in, ``tails`` those in which a device stayed up after its last
    span, ``calmer`` what it may be instead, if the work's own readings show so calm an idle.
    """

    knots_ns: Ints
    mean_w: Floats
    covariance: Floats
    quiet: Stretches
    tails: Stretches
    notes: tuple[str, ...] = ()
    calmer: tuple[Calm, ...] = ()

    def settled(self, mean_w: Floats, covariance: Floats, factor: float) -> Floats:
        """The covariance (k, k) of idle once the work's readings have shown how much it wanders.

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
        each = (Calm(self.mean_w, self.covariance, 0.0), *self.calmer)
        scores = np.array([one.score + _evidence(one, told, pull) for one in each])
        weights = np.exp(scores - scores.max())
        return np.asarray(np.tensordot(weights / weights.sum(), [one.covariance for one in each], 1))

    def energy(self, seen: Stretches) -> tuple[float, float, Floats]:
        """Joules over the stretches seen, their standard deviation, and the seconds by knot (k,)."""
        weights = knot_seconds(self.knots_ns, seen)
        return (
            float(weights @ self.mean_w),
            float(np.sqrt(max(float(weights @ self.covariance @ weights), 0.0))),
            weights,
        )


def _evidence(one: Calm, told: Floats, pull: Floats) -> float:
    """The logarithm of the integral of exp(−½ x·told·x + pull·x) over the normal distribution ``one``."""
    off = pull - told @ one.mean_w
    wide = np.eye(len(off)) + told @ one.covariance
    middle = (pull - 0.5 * told @ one.mean_w) @ one.mean_w
    return float(
        middle - 0.5 * np.linalg.slogdet(wide)[1] + 0.5 * off @ one.covariance @ np.linalg.solve(wide, off)
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
    stretches = _long_stretches(timeline, busy, response)
    pieces, tails, quiet = [], [], []
    for start, end in zip(stretches.start_ns.tolist(), stretches.end_ns.tolist(), strict=True):
        after_work = bool(len(busy) and start >= busy.end_ns[0])
        found = _steady(rows, start, end, after_work)
        if found is None:
            continue
        steady_from, mine = found
        pieces += mine
        quiet.append((start, end))
        if steady_from > start and after_work:
            tails.append((start, steady_from))
    if not pieces:
        return _unseen(rows, knots)
    at, level, variance = (np.array(column) for column in zip(*pieces, strict=True))
    mean, covariance, calmer = _walk(knots, at, level, variance)
    return Idle(knots, mean, covariance, _stretches(quiet), _stretches(tails), calmer=calmer)


def _stretches(pairs: list[tuple[int, int]]) -> Stretches:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Stretches(table[:, 0], table[:, 1])


def _knots(timeline: Timeline) -> Ints:
    first, last = int(timeline.t_ns[0]), int(timeline.t_ns[-1])
    count = int(np.clip((last - first) / 2e9, 1, KNOTS))
    return np.linspace(first, last, count + 1).astype(np.int64)


def _long_stretches(timeline: Timeline, busy: Stretches, response: Response) -> Stretches:
    """Stretches without spans that hold at least one of the meter's windows whole."""
    first, last = int(timeline.t_ns[0]) - response.lag_ns, int(timeline.t_ns[-1]) - response.lag_ns
    free = busy.complement(first, last)
    least = max(int(1.2 * timeline.spacing_ns) + response.window_ns, 50_000_000)
    return free.where(free.end_ns - free.start_ns >= least)


def _steady(
    rows: Windows, start: int, end: int, after_work: bool
) -> tuple[int, list[tuple[float, float, float]]] | None:
    """From when on a stretch is steady, and its level in pieces: (middle, watts, variance)."""
    low, high = np.searchsorted(rows.start_ns, start), np.searchsorted(rows.end_ns, end, side="right")
    if high <= low:
        return None
    low += int(low == 0 and _waits(rows))
    mine = rows.take(slice(int(low), int(high)))
    if high - low < 3:
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


def _walk(
    knots: Ints, at: Floats, level: Floats, variance: Floats
) -> tuple[Floats, Floats, tuple[Calm, ...]]:
    """Idle at the knots given levels seen: a line plus a random walk, whose pace is the likeliest of WANDER;
    and the same for each of CALMER.

    A level far above the others' line is a plateau that outlasted its stretch, and is left out; one far
    below is not.
    """
    kept = level <= (1 + PLATEAU) * np.quantile(level, 0.2, method="lower") + 1e-12
    high = ~kept
    for _ in range(4):
        mean, covariance, calmer = _likeliest(knots, at[kept], level[kept], variance[kept])
        expected = hats(knots, at) @ mean
        sigma = np.sqrt(variance + np.einsum("ij,jk,ik->i", hats(knots, at), covariance, hats(knots, at)))
        plateau = level - expected > np.maximum(4 * sigma, 0.04 * np.abs(expected))
        lowest = np.argmin(level)
        plateau[lowest] = False
        plateau |= high
        if (plateau == ~kept).all():
            break
        kept = ~plateau
    return mean, covariance, calmer


def _likeliest(
    knots: Ints, at: Floats, level: Floats, variance: Floats
) -> tuple[Floats, Floats, tuple[Calm, ...]]:
    usual = max(float(np.average(level, weights=1 / np.maximum(variance, 1e-12))), 1e-6)
    best, *calmer = (
        max(
            (_posterior(knots, at, level, variance, usual, rate) for rate in rates),
            key=lambda made: made.score,
        )
        for rates in (WANDER, *((rate,) for rate in CALMER))
    )
    below = [one.score - best.score - UNUSUAL * (step + 1) for step, one in enumerate(calmer)]
    return (
        best.mean_w,
        best.covariance,
        tuple(replace(one, score=score) for one, score in zip(calmer, below, strict=True)),
    )


def _posterior(knots: Ints, at: Floats, level: Floats, variance: Floats, usual: float, rate: float) -> Calm:
    prior = prior_covariance(knots, usual, rate)
    weights = hats(knots, at)
    seen = weights @ prior @ weights.T + np.diag(variance + (1e-4 * usual) ** 2)
    factor = linalg.cho_factor(seen, lower=True)
    off = level - usual
    gain = linalg.cho_solve(factor, weights @ prior).T
    score = -0.5 * float(off @ linalg.cho_solve(factor, off)) - float(np.log(np.diag(factor[0])).sum())
    return Calm(usual + gain @ off, prior - gain @ weights @ prior, score)


def prior_covariance(knots: Ints, usual: float, rate: float) -> Floats:
    """Covariance (k, k) of a level anywhere near ``usual``, a trend of TREND over the run, and a random
    walk."""
    seconds = (knots - knots[0]) / 1e9
    x = seconds / max(float(seconds[-1]), 1e-9) - 0.5
    walk = np.minimum(seconds[:, None], seconds[None, :])
    return np.asarray(
        usual**2 * (1.0 + TREND**2 * np.outer(x, x) + rate**2 * walk) + 1e-9 * usual**2 * np.eye(len(x))
    )


def _unseen(rows: Windows, knots: Ints) -> Idle:
    """No stretch shows idle: all that is known is that it lies between nothing and the lowest power seen."""
    watts = np.maximum(rows.energy_j, 0.0) / np.maximum(rows.length_s, 1e-9)
    group = max(1, len(watts) // 50)
    smooth = np.convolve(watts, np.ones(group) / group, "valid") if len(watts) else np.zeros(1)
    ceiling = max(float(np.quantile(smooth, 0.02)), 1e-9)
    # Anywhere from 0 to the ceiling: mean and variance of the uniform distribution.
    covariance = np.full((len(knots), len(knots)), ceiling**2 / 12) + 1e-6 * ceiling**2 * np.eye(len(knots))
    note = (
        "no stretch without spans is long enough to see idle: "
        "it lies anywhere from 0 to the lowest power seen"
    )
    nothing = Stretches(knots[:0], knots[:0])
    return Idle(knots, np.full(len(knots), ceiling / 2), covariance, nothing, nothing, (note,))
