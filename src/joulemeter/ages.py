"""How old what a counter shows is, told before any site's power is known: by when it shows nothing new.

A counter that ticks at about the pace of its reads shows nothing new now and then, or two ticks at once.
Between two of those its ages go up or down like a saw, by the little that its period differs from the reads';
so they are known to a tenth of a period from one power for all work. One that ticks more rarely shows nothing
new most of the time, and by the first reading that does, its age is known to a read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.stretches import Stretches
from joulemeter.ticks import Curve, Steps, Ticks, busiest, followed, paced, steps_of
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

MUTE = 1e6
"""Times the usual variance: a step near the start or the end of work says nothing of ages while the lag is
unknown."""

NEAR = 60
"""Steps before and after some readings by which their ages are as well known as from all."""


@dataclass(frozen=True, slots=True)
class Ages:
    """The pace of ``ticks``, and of each reading (n,) how old the tick is that it shows: ``mean_ns`` and
    ``sigma_ns`` (not a number where not sought)."""

    ticks: Ticks
    mean_ns: Floats
    sigma_ns: Floats


def told(timeline: Timeline, busy: Stretches, idle_w: float, reach_ns: int, at: Ints) -> Ages | None:
    """The ages of readings ``at`` (m,), in order, of a counter whose lag is at most ``reach_ns``.

    None where no steps of usual length in work (``busy``) show nothing new, so that nothing tells.
    """
    steps, energy, silent = _level(timeline, busy, idle_w, reach_ns)
    if not silent:
        return None
    spacing = float(timeline.spacing_ns)
    (ticks, *_) = paced(steps.take(busiest(steps)), energy, Ticks(0.0, spacing, 0.02), told=True, silent=True)
    mean, sigma = np.full(len(steps.t_ns), np.nan), np.full(len(steps.t_ns), np.nan)
    for first, last in _runs(at):
        low, high = max(first - NEAR, 0), min(last + NEAR + 1, len(steps.t_ns))
        found = followed(steps.take(slice(low, high)), energy, ticks)
        inner = slice(first - low, last + 1 - low)
        mean[first : last + 1], sigma[first : last + 1] = (each[inner] for each in found)
    return Ages(ticks, mean, sigma)


def _runs(at: Ints) -> list[tuple[int, int]]:
    """First and last of the readings that lie close together."""
    breaks = np.flatnonzero(np.diff(at) > NEAR)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(at) - 1)
    return list(zip(at[first].tolist(), at[last].tolist(), strict=True))


def _level(timeline: Timeline, busy: Stretches, idle_w: float, reach_ns: int) -> tuple[Steps, Curve, bool]:
    """The steps, what they would show if all work drew the same power, and whether some that lie in work show
    nothing new."""
    passed_s, joules = np.diff(timeline.t_ns) / 1e9, np.diff(timeline.energy_j)
    ran = busy.seconds_between(timeline.t_ns)
    ran_late = busy.seconds_between(timeline.t_ns - reach_ns)
    usual_w = float(joules.sum() - idle_w * passed_s.sum()) / max(float(ran.sum()), 1e-9)
    usual_w = max(usual_w, 1e-3 * idle_w, 1e-9)
    working, resting = np.minimum(ran, ran_late) > 0.9 * passed_s, np.maximum(ran, ran_late) == 0
    none = Curve(busy.start_ns[:0], np.zeros(0))
    steps = steps_of(timeline, timeline.t_ns[[0, -1]], np.full(2, idle_w), none)
    off = (joules - idle_w * passed_s - usual_w * ran)[working & steps.known & ~steps.stale]
    usual_j = 1.4826 * float(np.median(np.abs(off - np.median(off)))) if len(off) else 0.0
    usual_j = max(usual_j, 0.02 * usual_w * timeline.spacing_ns / 1e9)
    silent = replace(steps, variance=np.where(working, usual_j**2, 0.0)).silent
    variance = np.where(working, usual_j**2, np.where(resting, 0.0, MUTE * usual_j**2))
    return replace(steps, variance=variance), _spent(busy, usual_w), silent


def _spent(busy: Stretches, usual_w: float) -> Curve:
    """Joules that add up in work at one power."""
    t_ns = np.column_stack([busy.start_ns, busy.end_ns]).ravel()
    joules = np.cumsum(usual_w * (busy.end_ns - busy.start_ns) / 1e9)
    return Curve(t_ns, np.column_stack([np.append(0.0, joules[:-1]), joules]).ravel())
