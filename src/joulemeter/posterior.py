"""Powers and energies of sites given the rows: means, covariances, 95 % intervals, and who can be told apart.

Rows are Gaussian given the powers; powers are not negative. Expectation propagation (Minka 2001, UAI 17,
362) finds the Gaussian closest to what both say: each power's prior is replaced by the Gaussian that gives
the same mean and variance beside what the rows and the other powers say of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, special

from joulemeter.ledger import Energy
from joulemeter.noise import Gram, Prior

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

RESTING = 0.1
"""How likely it is beforehand that a site draws next to nothing: it waits."""

RESOLVED = 0.15
"""A site is resolved where its 95 % interval reaches no further than this fraction to either side."""

GRID = 241
"""Points at which a power's prior is weighed."""


@dataclass(frozen=True, slots=True)
class PowerPrior:
    """Each power is a gamma variable of this ``mean`` and ``shape`` (c,), or, one time in ten, rests near
    zero."""

    mean: Floats
    shape: Floats

    def log_density(self, power: Floats) -> Floats:
        """Log density (c, g) at powers (c, g) above zero, up to a constant."""
        working = self.mean / (1 - RESTING * 0.75)
        awake = _log_gamma(power, self.shape, working) + np.log(1 - RESTING)
        resting = _log_gamma(power, np.ones_like(self.shape), working / 4) + np.log(RESTING)
        return np.asarray(np.logaddexp(awake, resting))

    def gaussian(self) -> tuple[Floats, Floats]:
        """Mean and variance of each power."""
        return self.mean, self.mean**2 * (1 / self.shape + 0.1)


def _log_gamma(x: Floats, shape: Floats, mean: Floats) -> Floats:
    rate = (shape / mean)[:, None]
    shape = shape[:, None]
    return np.asarray(shape * np.log(rate) - special.gammaln(shape) + (shape - 1) * np.log(x) - rate * x)


@dataclass(frozen=True, slots=True)
class Powers:
    """Posterior of the powers (c,) and idle knots (k,): ``mean`` (c + k,) and ``covariance``."""

    mean: Floats
    covariance: Floats
    columns: int

    @property
    def site(self) -> Floats:
        """Each column's power in watts (c,), not negative."""
        return np.maximum(self.mean[: self.columns], 0.0)


def powers(sums: Gram, prior: PowerPrior, idle: Prior, alike: Floats, rounds: int = 40) -> Powers:
    """The posterior by expectation propagation; ``idle`` is what is known of the idle knots, and of whatever
    else stands beside them; ``alike`` (c, c) is a precision that pulls some powers towards each other."""
    columns = sums.columns
    base = sums.part("power", "power").copy()
    base[:columns, :columns] += alike
    shift = sums.part("power", "joules")[:, 0].copy()
    base[columns:, columns:] += idle.precision
    shift[columns:] += idle.precision @ idle.mean
    mean, variance = prior.gaussian()
    tau, nu = 1 / variance, mean / variance
    for _ in range(rounds):
        centre, covariance = _combined(base, shift, tau, nu)
        fresh_tau, fresh_nu = _matched(centre[:columns], np.diag(covariance)[:columns], tau, nu, prior)
        moved = float(
            np.max(np.abs(fresh_tau - tau) / (tau + 1 / np.diag(covariance)[:columns]), initial=0.0)
        )
        tau, nu = tau + 0.7 * (fresh_tau - tau), nu + 0.7 * (fresh_nu - nu)
        if moved < 1e-4:
            break
    centre, covariance = _combined(base, shift, tau, nu)
    return Powers(centre, covariance, columns)


def _combined(base: Floats, shift: Floats, tau: Floats, nu: Floats) -> tuple[Floats, Floats]:
    precision, pull = base.copy(), shift.copy()
    at = np.arange(len(tau))
    precision[at, at] += tau
    pull[at] += nu
    # Watts squared differ by many powers of ten between columns: the scaled matrix is the one to invert.
    scale = 1 / np.sqrt(np.diag(precision))
    factor = linalg.cho_factor(precision * scale[:, None] * scale + 1e-12 * np.eye(len(scale)), lower=True)
    covariance = linalg.cho_solve(factor, np.eye(len(scale))) * scale[:, None] * scale
    return covariance @ pull, covariance


def _matched(
    mean: Floats, variance: Floats, tau: Floats, nu: Floats, prior: PowerPrior
) -> tuple[Floats, Floats]:
    """Each prior's stand-in: what takes the power without it to the moments that it has with it."""
    least = 1e-4 * tau
    outside = np.maximum(1 / variance - tau, least)
    centre = (mean / variance - nu) / outside
    sigma = 1 / np.sqrt(outside)
    low, high = _range(centre, sigma, prior.mean)
    x = low[:, None] + (high - low)[:, None] * ((np.arange(GRID) + 0.5) / GRID)
    log_weight = prior.log_density(x) - 0.5 * ((x - centre[:, None]) / sigma[:, None]) ** 2
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    new_mean = (weight * x).sum(axis=1)
    spread = (weight * (x - new_mean[:, None]) ** 2).sum(axis=1)
    fresh = np.maximum(1 / spread - outside, least)
    return fresh, new_mean * (outside + fresh) - centre * outside


def _range(centre: Floats, sigma: Floats, usual: Floats) -> tuple[Floats, Floats]:
    low = np.maximum(centre - 8 * sigma, 0.0)
    wide = np.minimum(centre + 8 * sigma, np.maximum(20 * usual, centre + 2 * sigma))
    squeezed = 30 * sigma**2 / np.maximum(np.abs(centre), 0.1 * sigma)
    high = np.where(centre < -4 * sigma, np.minimum(squeezed, 20 * usual), np.maximum(wide, 0.5 * sigma))
    return low, np.maximum(high, low + 1e-9 * usual)


@dataclass(frozen=True, slots=True)
class Energies:
    """What each column really spent while it was seen: ``mean`` (c,) in joules and ``covariance`` (c, c)."""

    mean: Floats
    covariance: Floats

    def of(self, weights: Floats) -> tuple[float, float]:
        """Mean and standard deviation of a weighted sum."""
        return float(weights @ self.mean), float(
            np.sqrt(max(float(weights @ self.covariance @ weights), 0.0))
        )


def energies(sums: Gram, found: Powers, seconds: Floats, work_variance: Floats) -> Energies:
    """Powers times seconds (c,), plus what the rows say of this run's own deviations from them.

    ``work_variance`` (c,) is the variance in joules² of each column's deviations over all that was seen.
    Given the powers, the deviations w have mean W'V⁻¹(y − Xθ) and covariance diag(work_variance) − W'V⁻¹W.
    """
    pull, on_power = sums.part("work", "joules")[:, 0], sums.part("work", "power")
    mean = seconds * found.mean[: sums.columns] + pull - on_power @ found.mean
    to_power = -on_power
    to_power[np.arange(sums.columns), np.arange(sums.columns)] += seconds
    left = np.diag(work_variance) - sums.part("work", "work")
    covariance = to_power @ found.covariance @ to_power.T + left
    return Energies(mean, _positive(covariance))


def _positive(matrix: Floats) -> Floats:
    """A symmetric matrix whose variances are not negative."""
    matrix = (matrix + matrix.T) / 2
    at = np.arange(len(matrix))
    matrix[at, at] = np.maximum(matrix[at, at], 0.0)
    return np.asarray(matrix)


def bounded(mean_j: float, sigma_j: float, gain: float = 0.0) -> Energy:
    """A 95 % interval that is not negative: a gamma variable's of this mean and variance, so that it is a
    bell curve where the mean is far from zero; down to zero where the mean is within two sigma of it.

    ``gain`` is the half width of the meter's own 95 % interval, as a fraction.
    """
    sigma_j = float(np.hypot(sigma_j, gain / 1.96 * mean_j))
    if mean_j <= 0:
        return Energy(0.0, 0.0, 1.96 * sigma_j)
    if sigma_j <= 1e-12 * mean_j:
        return Energy(mean_j, mean_j, mean_j)
    if sigma_j < 0.05 * mean_j:
        return Energy(mean_j, mean_j - 1.96 * sigma_j, mean_j + 1.96 * sigma_j)
    shape = (mean_j / sigma_j) ** 2
    low, high = special.gammaincinv(shape, np.array([0.025, 0.975])) * mean_j / shape
    return Energy(mean_j, 0.0 if shape < 4 else min(float(low), mean_j), max(float(high), mean_j))


def is_resolved(energy: Energy, limit: float = RESOLVED) -> bool:
    """Whether an interval is narrow enough for its figure to mean something."""
    reach = max(energy.high_j - energy.energy_j, energy.energy_j - energy.low_j)
    return energy.energy_j > 0 and reach <= limit * energy.energy_j


def confounded(found: Energies, alone: NDArray[np.bool_], limit: float = RESOLVED) -> list[list[int]]:
    """Groups of columns whose sum is known where the single ones are not; ``alone`` (c,) are those that
    need company.

    The two groups whose errors cancel most are joined, until a group's sum is known to ``limit`` or nothing
    cancels.
    """
    groups = [[int(each)] for each in np.flatnonzero(alone)]
    if not groups:
        return []
    some = np.flatnonzero(alone)
    cov, mean = found.covariance[np.ix_(some, some)].copy(), found.mean[some].copy()
    active, known = np.ones(len(groups), bool), np.zeros(len(groups), bool)
    while True:
        sigma = np.sqrt(np.maximum(np.diag(cov), 1e-300))
        alone_yet = np.array([len(group) == 1 for group in groups])
        known = active & (1.96 * sigma <= limit * mean) & ~alone_yet
        apart = active & ~known
        correlation = cov / sigma[:, None] / sigma
        correlation[~apart] = 0.0
        correlation[:, ~active] = 0.0
        np.fill_diagonal(correlation, 0.0)
        i, j = np.unravel_index(np.argmin(correlation), correlation.shape)
        if correlation[i, j] > -0.02:
            break
        groups[i] += groups[j]
        mean[i] += mean[j]
        cov[i] += cov[j]
        cov[:, i] += cov[:, j]
        cov[j], cov[:, j], active[j] = 0.0, 0.0, False
    return [sorted(groups[at]) for at in np.flatnonzero(active) if len(groups[at]) > 1 and known[at]]
