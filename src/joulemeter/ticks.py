"""When a counter last ticked before each reading, where it ticks about as often as it is read.

Such a counter shows energy up to its last tick, up to a whole period ago, and how long ago that was drifts slowly
and jumps now and then: a reading holds two ticks' energy, or none. Errors of that kind are neither small nor
independent, but given the powers they can be read off the energies: a hidden Markov chain over the age of
what is shown (Rabiner 1989, Proc. IEEE 77, 257), whose forward and backward passes run side by side over many stretches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.design import Response, Windows, spacing_ns
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

AGES = 24
"""Ages of a shown value that are told apart, from none to one period."""

STRETCH = 250
"""Readings of one stretch; stretches overlap by WARM on either side."""

WARM = 40

WANDER = 0.05
"""How far an age wanders from one reading to the next, as a fraction of the period."""

JUMP = 0.02
"""How likely it jumps to anywhere."""

MOST = 150_000
"""Readings beyond which ages are not sought."""


def misfits(energy_j: Floats, expected_j: Floats) -> float:
    """The fraction of rows that hold nothing, or double, of what they should: the mark of ticks that come and go."""
    some = expected_j > 0.2 * float(np.median(expected_j)) if len(expected_j) else np.zeros(0, bool)
    ratio = energy_j[some] / expected_j[some]
    return float(((ratio < 0.3) | (ratio > 1.7)).mean()) if some.any() else 0.0


def aged(
    timeline: Timeline, response: Response, expected: Callable[[Ints], Floats], row_variance: float
) -> Windows:
    """The rows of a counter, each reading moved back to the tick that it shows.

    ``expected`` gives the cumulative joules expected at any machine times (n,); ``row_variance`` is what calls add to a
    row's variance, in joules².
    """
    t_ns, step = timeline.t_ns, np.diff(timeline.energy_j)
    period = spacing_ns(timeline)
    ages = (np.arange(AGES) + 0.5) / AGES * period
    grid = expected((t_ns[:, None] - response.lag_ns - ages.astype(np.int64)).ravel()).reshape(len(t_ns), AGES)
    known = ~timeline.unknown
    power = float(np.median(np.diff(grid[:, 0])) / period)
    variance = row_variance + 2 * (power * period / AGES) ** 2 / 12
    age = _ages(grid, step, known, np.diff(t_ns) / period, variance) * period
    edges = t_ns - response.lag_ns - age.astype(np.int64)
    edges = np.maximum.accumulate(edges)
    fresh = np.append(True, np.diff(edges) > period // 50)
    fresh[-1] = True
    kept = np.flatnonzero(fresh)
    whole = np.diff(np.concatenate([[0], np.cumsum(~known)])[kept]) == 0
    whole &= np.diff(edges[kept]) > 0
    first, last = kept[:-1][whole], kept[1:][whole]
    linked = np.append(False, first[1:] == last[:-1]) if len(first) else np.empty(0, bool)
    return Windows(edges[first], edges[last], timeline.energy_j[last] - timeline.energy_j[first], linked, 0.0)


def _ages(grid: Floats, step: Floats, known: NDArray[np.bool_], elapsed: Floats, variance: float) -> Floats:
    """The likely age of each reading's value (n,), as a fraction of the period."""
    count = len(grid)
    starts = np.arange(0, count, STRETCH) - WARM
    length = STRETCH + 2 * WARM
    place = np.clip(starts[:, None] + np.arange(length)[None, :], 0, count - 1)
    moved = place[:, 1:] != place[:, :-1]
    row = np.minimum(place[:, :-1], count - 2)
    seen = moved & known[row]
    kernel = _kernel()
    forward = np.full((length, len(starts), AGES), 1.0 / AGES)
    for at in range(1, length):
        joint = _joint(grid, place, row, step, seen, elapsed, variance, kernel, at)
        joint[~moved[:, at - 1]] = np.eye(AGES)
        fresh = np.einsum("bs,bst->bt", forward[at - 1], joint)
        forward[at] = fresh / np.maximum(fresh.sum(axis=1, keepdims=True), 1e-300)
    backward = np.full((len(starts), AGES), 1.0)
    mean = np.empty((length, len(starts)))
    middle = (np.arange(AGES) + 0.5) / AGES
    for at in range(length - 1, -1, -1):
        weight = forward[at] * backward
        mean[at] = (weight @ middle) / np.maximum(weight.sum(axis=1), 1e-300)
        if at:
            joint = _joint(grid, place, row, step, seen, elapsed, variance, kernel, at)
            joint[~moved[:, at - 1]] = np.eye(AGES)
            backward = np.einsum("bst,bt->bs", joint, backward)
            backward /= np.maximum(backward.max(axis=1, keepdims=True), 1e-300)
    return np.asarray(mean[WARM : WARM + STRETCH].T.ravel()[:count])


def _kernel() -> Floats:
    """How likely an age becomes another, by their distance around the period (AGES,)."""
    distance = (np.arange(AGES) / AGES + 0.5) % 1.0 - 0.5
    near = np.exp(-0.5 * (distance / WANDER) ** 2)
    return np.asarray((1 - JUMP) * near / near.sum() + JUMP / AGES)


def _joint(
    grid: Floats, place: Ints, row: Ints, step: Floats, seen: NDArray[np.bool_], elapsed: Floats, variance: float,
    kernel: Floats, at: int,
) -> Floats:
    """The weight of going from each age to each, times how well the row's energy fits: (stretches, from, to)."""
    mine = row[:, at - 1]
    before, after = grid[place[:, at - 1]], grid[place[:, at]]
    off = step[mine][:, None, None] - (after[:, None, :] - before[:, :, None])
    fit = -0.5 * off**2 / variance
    fit -= fit.max(axis=(1, 2), keepdims=True)
    fit = np.where(seen[:, at - 1][:, None, None], np.exp(np.maximum(fit, -60.0)), 1.0)
    # A reading that came late by part of a period finds its value older by as much.
    shift = np.round((elapsed[mine] % 1.0) * AGES).astype(np.int64)
    number = np.arange(AGES)
    turn = (number[None, None, :] - number[None, :, None] - shift[:, None, None]) % AGES
    return np.asarray(fit * kernel[turn])
