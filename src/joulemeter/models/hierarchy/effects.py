"""Effects: a learned correction of what physics leaves over, as a mixed model that prunes itself.

The residual is a sum of random effects in groups (shape, depth, shape × depth, …), each group with a
variance of its own found by expectation maximisation, under Student-t noise so that a run gone wrong
moves nothing (Lange, Little and Taylor 1989; Bishop, Pattern Recognition and Machine Learning,
section 9.3.4). A group that explains nothing gets the variance nothing. A label that was never seen
has the effect zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulemeter.models.hierarchy.terms import hats
from joulemeter.models.hierarchy.training import Training

Floats = NDArray[np.float64]

STUDENT = 4.0
"""Degrees of freedom of the noise."""
ROUNDS = 30
PARAMETERS = np.arange(4.0, 26.0, 2.0)
HIDDEN = np.array([0.0, 2.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0])
"""Knots, in powers of two, of effects that vary smoothly with parameters and with hidden width."""

STRUCTURE = ("shape", "depth", "shape and depth")
SMOOTH = ("parameters", "hidden width", "hidden width and depth")
PHYSICAL = ("shape", *SMOOTH)
"""Effects that another campaign would show too. Those of single depths may be the study's calendar: its jobs
ran in the order of shape and depth (docs/energy-model.md)."""


@dataclass(frozen=True)
class Effects:
    """Effects by name ``"group:label"`` and the intercept, all in log units; ``deviation`` of each group."""

    intercept: float
    values: dict[str, float]
    deviation: dict[str, float]

    def predict(self, trainings: Sequence[Training], only: Sequence[str] | None = None) -> Floats:
        """The correction of each training, in log units, shape (n,); by groups in ``only`` (None: all)."""
        groups = [group for group in self.deviation if only is None or group in only]
        return self.of_labels([labels(each, groups) for each in trainings])

    def of_labels(self, rows: Sequence[Mapping[str, float]]) -> Floats:
        """The correction of trainings given by what ``labels`` says of them, shape (n,)."""
        return np.array(
            [self.intercept + sum(w * self.values.get(name, 0.0) for name, w in row.items()) for row in rows]
        )


def labels(training: Training, groups: Sequence[str]) -> dict[str, float]:
    """The effects that a training takes part in, with their weights."""
    found: dict[str, float] = {}
    for group in groups:
        for label, weight in _LABELS[group](training):
            found[f"{group}:{label}"] = weight
    return found


def _smoothly(value: float, knots: Floats, also: str = "") -> list[tuple[str, float]]:
    weights = hats(np.array([np.log2(max(value, 1.0))]), knots)[0]
    return [(f"2^{knot:g}{also}", float(w)) for knot, w in zip(knots, weights, strict=True) if w > 0]


def _hidden(training: Training) -> int:
    # Depth-2 networks are wide beyond all others; beyond the last knot they would share its effect.
    return training.widths[1] if training.depth > 2 else training.widths[0]


def _depth_band(training: Training) -> str:
    return next((f" up to depth {d}" for d in (2, 4, 7, 10, 14) if training.depth <= d), " deeper")


_LABELS: dict[str, Callable[[Training], list[tuple[str, float]]]] = {
    "shape": lambda t: [(t.shape, 1.0)],
    "depth": lambda t: [(str(t.depth), 1.0)],
    "shape and depth": lambda t: [(f"{t.shape} {t.depth}", 1.0)],
    "parameters": lambda t: _smoothly(t.parameters, PARAMETERS),
    "hidden width": lambda t: _smoothly(_hidden(t), HIDDEN),
    "hidden width and depth": lambda t: _smoothly(_hidden(t), HIDDEN, _depth_band(t)),
}


def fit(rows: Sequence[Mapping[str, float]], residual: Floats, groups: Sequence[str]) -> Effects:
    """Effects of ``groups`` that explain ``residual`` (n,), in log units; without groups the intercept.

    ``rows`` are the ``labels`` of each training by the same groups.
    """
    if not groups:
        return Effects(float(np.median(residual)), {}, {})
    names = sorted({name for row in rows for name in row})
    place = {name: k for k, name in enumerate(names)}
    matrix = np.zeros((len(rows), len(names)))
    for n, row in enumerate(rows):
        for name, weight in row.items():
            matrix[n, place[name]] = weight
    group_of = np.array([groups.index(name.split(":", 1)[0]) for name in names])
    intercept = float(np.median(residual))
    mean, variance = _maximise(matrix, residual - intercept, group_of, len(groups))
    deviation = {group: float(np.sqrt(variance[k])) for k, group in enumerate(groups)}
    return Effects(intercept, dict(zip(names, mean.tolist(), strict=True)), deviation)


def _maximise(
    matrix: Floats, target: Floats, group_of: NDArray[np.int64], groups: int
) -> tuple[Floats, Floats]:
    """Posterior mean of the effects (p,) and variance of each group (groups,), by EM."""
    spread = max(float(np.median(np.abs(target))), 1e-6) ** 2
    variance, noise = np.full(groups, 0.3 * spread), spread
    weights, mean = np.ones(len(target)), np.zeros(matrix.shape[1])
    sizes = np.bincount(group_of, minlength=groups)
    for _ in range(ROUNDS):
        precision = (matrix.T * (weights / noise)) @ matrix + np.diag(1.0 / variance[group_of])
        covariance = np.linalg.inv(precision)
        mean = covariance @ (matrix.T @ (weights * target)) / noise
        square = (target - matrix @ mean) ** 2 + np.einsum(
            "ij,jk,ik->i", matrix, covariance, matrix, optimize=True
        )
        weights = (STUDENT + 1.0) / (STUDENT + square / noise)
        noise = max(float((weights * square).mean()), 1e-10)
        second = np.bincount(group_of, weights=mean**2 + np.diag(covariance), minlength=groups)
        variance = np.maximum(second / sizes, 1e-8)
    return mean, variance
