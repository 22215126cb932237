"""What is believed of powers before the rows speak: of sites, their long calls, idle and the response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.columns import Columns
from joulemeter.idle import Idle
from joulemeter.noise import Prior
from joulemeter.posterior import PowerPrior, Powers
from joulemeter.response import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ALIKE = 0.15
"""Long calls of one site draw powers that scatter by about this fraction."""

SHAPE = 4.0
"""Powers of sites lie within about a factor of two of each other (a gamma shape), until the rows say
otherwise."""

UNLIKE = 0.6
"""The same where a device's kernels and their host's calls share a rail: one may draw twenty times the
other."""


@dataclass(frozen=True, slots=True)
class Beliefs:
    """``power`` is each column's prior, ``others`` that of the idle knots and of how far the response is off,
    and
    ``alike`` (c, c) a precision that pulls some powers towards each other."""

    power: PowerPrior
    others: Prior
    alike: Floats


def believed(idle: Idle, guess: Found, counter: bool) -> Prior:
    """What is known of the idle knots, and of how far the lag and (of a gauge) the window are off, in
    seconds."""
    sigma = np.array([guess.lag_sigma_ns, guess.window_sigma_ns][: 1 if counter else 2]) / 1e9
    count = len(idle.mean_w)
    precision = np.zeros((count + len(sigma),) * 2)
    precision[:count, :count] = np.linalg.inv(idle.covariance)
    precision[count:, count:] = np.diag(1 / np.maximum(sigma, 1e-7) ** 2)
    return Prior(np.append(idle.mean_w, np.zeros(len(sigma))), precision)


def alike(kept: Columns) -> Floats:
    """What pulls the long calls of one site towards each other: a precision (c, c) in units of the usual
    power."""
    count, usual = len(kept.site) + 1, kept.single & ~kept.unusual
    pull = np.zeros((count, count))
    for site in np.unique(kept.site[usual]):
        mine = np.flatnonzero(usual & (kept.site == site))
        pull[np.ix_(mine, mine)] = (np.eye(len(mine)) - 1 / len(mine)) / ALIKE**2
    return pull


def power_prior(usual_w: float, shape: float, kept: Columns) -> PowerPrior:
    """The prior of each column: the program as a whole, and what no span explains, may well draw nothing.

    The long calls of one site share its prior, so each has the n-th part of its weight.
    """
    ran = np.bincount(kept.occupancy.column, minlength=len(kept.occupancy.sites)) > 0
    kinds = {each.kind for each, some in zip(kept.occupancy.sites, ran, strict=True) if some} - {"run"}
    shape = min(shape, UNLIKE) if "kernel" in kinds and len(kinds) > 1 else shape
    shapes = np.array([1.0 if each.kind == "run" else shape for each in kept.occupancy.sites] + [1.0])
    usual = kept.single & ~kept.unusual
    for site in np.unique(kept.site[usual]):
        mine = np.flatnonzero(usual & (kept.site == site))
        shapes[mine] = np.maximum(shapes[mine] / len(mine), 0.5)
    means = np.full(len(shapes), usual_w)
    means[-1] /= 2
    return PowerPrior(means, shapes)


def scatter_shape(found: Powers, usual_w: float, seconds: Floats) -> float:
    """The scatter of the sites' powers as a gamma shape: theirs, and four more sites' of the usual
    scatter."""
    some = seconds[:-1] > 0
    apart = (found.site[:-1][some] / usual_w - 1) ** 2 + np.diag(found.covariance)[: found.columns - 1][
        some
    ] / usual_w**2
    return float(np.clip((4 + len(apart)) / (4 / SHAPE + apart.sum()), 0.5, 25.0))


def joint(prior: PowerPrior, idle: Prior) -> Prior:
    """The Gaussian over powers (c,) and what stands beside them (k,): each known without the other."""
    mean, variance = prior.gaussian()
    count = len(mean)
    precision = np.zeros((count + len(idle.mean),) * 2)
    precision[:count, :count] = np.diag(1 / variance)
    precision[count:, count:] = idle.precision
    return Prior(np.append(mean, idle.mean), precision)
