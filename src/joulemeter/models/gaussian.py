"""Gaussian-process regression: ARD Matérn 5/2 plus a linear kernel, with known and unknown noise.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): equations 2.25, 2.26 (prediction),
5.8, 5.9 (marginal likelihood and its gradient), 5.12 (leave-one-out). Written on numpy so that a stored
process is arrays and a loaded one predicts by arithmetic alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

from joulemeter.errors import PredictorError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TUNE_ROWS = 400
"""Rows that the hyperparameters are tuned on; more would cost cubically and change them little."""
KEEP_ROWS = 1500
"""Rows a process is conditioned on at most."""
STUDENT_NU = 4.0
"""Degrees of freedom of the noise: 4 keeps a variance yet lets a wrong row be wrong."""
_JITTER = 1e-8
# Priors on log hyperparameters (mean, standard deviation), in units of standardised inputs and target:
# length scales of a few standard deviations, so that a feature earns its place; noise of a few per cent.
_PRIOR_LENGTH = (np.log(3.0), 1.0)
_PRIOR_AMPLITUDE = (0.0, 1.0)
_PRIOR_LINEAR = (-2.0, 1.5)
_PRIOR_NOISE = (np.log(0.02), 1.5)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Logs: variance of the Matérn part, length scales (d,), variance of the linear part, of the noise."""

    amplitude: float
    lengths: NDArray[np.float64]
    linear: float
    noise: float

    def vector(self) -> NDArray[np.float64]:
        """As one array (d + 3,)."""
        return np.concatenate([[self.amplitude], self.lengths, [self.linear, self.noise]])

    @staticmethod
    def of(vector: NDArray[np.float64]) -> Hyperparameters:
        """From one array (d + 3,)."""
        return Hyperparameters(float(vector[0]), vector[1:-2], float(vector[-2]), float(vector[-1]))


@dataclass(frozen=True)
class Process:
    """A process conditioned on rows: ``inputs`` (n, d) and ``target`` (n,) standardised, ``noise`` (n,) known
    beforehand. ``rows`` (n,) are the numbers of the rows it was conditioned on, of those given to ``fit``.

    What costs cubically is computed when first asked for: of the hundreds of processes in a file a
    network needs a few.
    """

    hyper: Hyperparameters
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    offset: float
    unit: float
    inputs: NDArray[np.float64]
    target: NDArray[np.float64]
    noise: NDArray[np.float64]
    rows: NDArray[np.int64]

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """The lower Cholesky factor (n, n) of K; raises PredictorError where the rows make no covariance."""
        matrix = covariance(self.hyper, self.inputs, self.inputs)
        matrix[np.diag_indices_from(matrix)] += self.noise + np.exp(self.hyper.noise) + _JITTER
        try:
            return np.asarray(cholesky(matrix, lower=True), np.float64)
        except np.linalg.LinAlgError as error:
            raise PredictorError(
                f"a predictor's rows make no covariance ({error})", "joulemeter fit, to make it anew"
            ) from error

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """K⁻¹y (n,)."""
        return np.asarray(cho_solve((self.factor, True), self.target), np.float64)

    @staticmethod
    def conditioned(
        hyper: Hyperparameters,
        centre: NDArray[np.float64],
        spread: NDArray[np.float64],
        offset: float,
        unit: float,
        inputs: NDArray[np.float64],
        target: NDArray[np.float64],
        noise: NDArray[np.float64],
        rows: NDArray[np.int64],
    ) -> Process:
        """The process of these rows; raises PredictorError where they make no covariance."""
        made = Process(hyper, centre, spread, offset, unit, inputs, target, noise, rows)
        assert made.weights is not None  # computed here, so that it is here that they are found wrong
        return made

    def without(self, held: NDArray[np.bool_]) -> Process:
        """The process that has not seen the rows for which ``held`` (by row number) is true."""
        keep = ~held[self.rows]
        return Process.conditioned(
            self.hyper, self.centre, self.spread, self.offset, self.unit,
            self.inputs[keep], self.target[keep], self.noise[keep], self.rows[keep],
        )  # fmt: skip

    def predict(self, features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (m,) and variance (m,) of new targets, noise of a usual row included; ``features`` (m, d)."""
        inputs = (features - self.centre) / self.spread
        cross = covariance(self.hyper, inputs, self.inputs)
        mean = cross @ self.weights
        solved = solve_triangular(self.factor, cross.T, lower=True)
        own = np.exp(self.hyper.amplitude) + np.exp(self.hyper.linear) * (1 + (inputs**2).sum(1))
        variance = np.maximum(own - (solved**2).sum(0), 0) + np.exp(self.hyper.noise)
        return self.offset + self.unit * mean, self.unit**2 * variance

    def leave_one_out(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance (n,) of each row's target from all the others; equation 5.12."""
        inverse = _inverse(self.factor)
        variance = 1 / np.diag(inverse)
        mean = self.target - self.weights * variance
        return self.offset + self.unit * mean, self.unit**2 * variance


def covariance(hyper: Hyperparameters, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prior covariance (n, m) of standardised inputs ``a`` (n, d) and ``b`` (m, d), noise left out."""
    radius = np.sqrt(5 * _squared(hyper, a, b))
    matern = np.exp(hyper.amplitude) * (1 + radius + radius**2 / 3) * np.exp(-radius)
    return np.asarray(matern + np.exp(hyper.linear) * (1 + a @ b.T), np.float64)


def _squared(hyper: Hyperparameters, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = np.exp(-hyper.lengths)
    a, b = a * scale, b * scale
    return np.asarray(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0))


def fit(
    features: NDArray[np.float64],
    target: NDArray[np.float64],
    known_variance: NDArray[np.float64] | None = None,
    robust: int = 1,
    seed: int = 0,
    tune_rows: int = TUNE_ROWS,
    start: Hyperparameters | None = None,
) -> Process:
    """The process of ``target`` (n,) on ``features`` (n, d), its hyperparameters sought from ``start``.

    ``known_variance`` (n,) is noise known beforehand (rounding, a record's own interval), in the target's
    unit squared. ``robust`` times, the rows that their neighbours do not foresee are given more noise
    (Student's t by reweighting). Hyperparameters are at the maximum of the posterior.
    """
    centre, spread = features.mean(0), features.std(0)
    spread = np.where(spread > 1e-9 * (1 + np.abs(centre)), spread, 1.0)
    offset = float(np.median(target))
    unit = float(np.std(target)) or 1.0
    inputs, scaled = (features - centre) / spread, (target - offset) / unit
    known = np.zeros(len(target)) if known_variance is None else known_variance / unit**2
    order = np.random.default_rng(seed).permutation(len(target))
    rows, tuned = np.sort(order[:KEEP_ROWS]), np.sort(order[:tune_rows])

    def condition(hyper: Hyperparameters, noise: NDArray[np.float64]) -> Process:
        """The process on the kept rows."""
        return Process.conditioned(
            hyper, centre, spread, offset, unit, inputs[rows], scaled[rows], noise[rows], rows
        )

    first = _start(inputs.shape[1]) if start is None else start.vector()
    process = condition(_tune(inputs[tuned], scaled[tuned], known[tuned], first), known)
    for _ in range(robust):
        noise = known.copy()
        noise[rows] += _student(process, known[rows])
        hyper = _tune(inputs[tuned], scaled[tuned], noise[tuned], process.hyper.vector())
        process = condition(hyper, noise)
    return process


def _start(dimensions: int) -> NDArray[np.float64]:
    return np.concatenate([[_PRIOR_AMPLITUDE[0]], np.full(dimensions, _PRIOR_LENGTH[0]), [-2.0, -4.0]])


def _student(process: Process, known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extra noise (n,) of rows far from what the others say: E-step of a t distribution's scale mixture."""
    mean, variance = process.leave_one_out()
    deviation = (process.offset + process.unit * process.target - mean) / np.sqrt(variance)
    factor = np.maximum((STUDENT_NU + deviation**2) / (STUDENT_NU + 1), 1.0)
    return np.asarray((factor - 1) * (known + np.exp(process.hyper.noise)), np.float64)


def _tune(
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    noise: NDArray[np.float64],
    start: NDArray[np.float64],
) -> Hyperparameters:
    bounds = [(-6, 4)] + [(-3, 6)] * inputs.shape[1] + [(-9, 4), (-12, 1)]
    found = minimize(
        _negative_posterior,
        start,
        args=(inputs, target, noise),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 60},
    )
    return Hyperparameters.of(np.asarray(found.x, np.float64))


def _negative_posterior(
    vector: NDArray[np.float64],
    inputs: NDArray[np.float64],
    target: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Minus log marginal likelihood and log prior, with its gradient (equations 5.8 and 5.9)."""
    hyper = Hyperparameters.of(vector)
    radius = np.sqrt(5 * _squared(hyper, inputs, inputs))
    decay = np.exp(hyper.amplitude - radius)
    matern = (1 + radius + radius**2 / 3) * decay
    line = np.exp(hyper.linear) * (1 + inputs @ inputs.T)
    matrix = matern + line
    matrix[np.diag_indices_from(matrix)] += noise + np.exp(hyper.noise) + _JITTER
    factor = cholesky(matrix, lower=True)
    weights = cho_solve((factor, True), target)
    value = 0.5 * target @ weights + np.log(np.diag(factor)).sum() + 0.5 * len(target) * np.log(2 * np.pi)
    # ∂ log p / ∂θ = ½ tr((αα′ − K⁻¹) ∂K/∂θ); for a length: ∂K/∂log ℓ = 5/3 (1 + √5 r) e^(−√5 r) Δ²/ℓ².
    lead = np.outer(weights, weights) - _inverse(factor)
    pull = lead * (5 / 3) * (1 + radius) * decay
    by_length = ((inputs**2).T @ pull.sum(1) - np.einsum("nd,nd->d", inputs, pull @ inputs)) * np.exp(
        -2 * hyper.lengths
    )
    gradient = -np.concatenate(
        [
            [0.5 * (lead * matern).sum()],
            by_length,
            [0.5 * (lead * line).sum(), 0.5 * np.exp(hyper.noise) * np.trace(lead)],
        ]
    )
    mean, deviation = _priors(inputs.shape[1])
    away = (vector - mean) / deviation
    return float(value + 0.5 * away @ away), gradient + away / deviation


def _inverse(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """K⁻¹ (n, n) from the lower Cholesky factor of K: LAPACK's potri, which fills the lower half."""
    half = np.asarray(dpotri(factor, lower=1)[0], np.float64)
    half = np.tril(half)
    return half + np.tril(half, -1).T


def _priors(dimensions: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = [_PRIOR_AMPLITUDE, *[_PRIOR_LENGTH] * dimensions, _PRIOR_LINEAR, _PRIOR_NOISE]
    table = np.array(rows, np.float64)
    return table[:, 0], table[:, 1]
