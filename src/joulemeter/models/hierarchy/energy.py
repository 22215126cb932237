"""The energy model of one device: physics, an optional learned correction, and calibrated intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulemeter.device import MemoryLevel
from joulemeter.errors import PredictorError
from joulemeter.models.hierarchy import effects, jackknife, physics
from joulemeter.models.hierarchy.effects import Effects
from joulemeter.models.hierarchy.jackknife import Jackknife
from joulemeter.models.hierarchy.physics import Physics
from joulemeter.models.hierarchy.terms import design
from joulemeter.models.hierarchy.training import Runs, Training

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FEWEST_RUNS = 8
COVERAGE = 0.9
FOLDS = 8
MOST_FOLDS = 16
KEPT = 1500
"""Runs that validation and effects look at; the physics is fitted to all."""
WATTS = effects.STRUCTURE + effects.SMOOTH
"""Effects that a run's mean power is made of."""


@dataclass(frozen=True)
class Choices:
    """What a model is made of: whether time × power stands beside joules, and which effects correct it."""

    through_time: bool
    correction: tuple[str, ...]

    @property
    def words(self) -> str:
        """As a person would say it."""
        ways = "joules, averaged with seconds × watts" if self.through_time else "joules"
        return f"{ways}; correction by {', '.join(self.correction) or 'nothing'}"


@dataclass(frozen=True)
class Base:
    """Physics of joules, and where times are known, physics of seconds with effects on the watts."""

    joules: Physics
    seconds: Physics | None
    watts: Effects | None

    def log_energy(
        self, trainings: Sequence[Training], counts: Floats, only: Sequence[str] | None = None
    ) -> Floats:
        """Log of the energy in joules, shape (n,): the mean of both ways where both exist."""
        groups = WATTS if only is None else tuple(group for group in WATTS if group in only)
        labels = [] if self.watts is None else [effects.labels(each, groups) for each in trainings]
        return self.of_counts(counts, labels)

    def of_counts(self, counts: Floats, labels: Sequence[Mapping[str, float]]) -> Floats:
        """The same of trainings given by their counts, and their labels for the watts."""
        direct = np.log(np.maximum(self.joules.predict(counts), 1e-12))
        if self.seconds is None or self.watts is None:
            return direct
        time = np.log(np.maximum(self.seconds.predict(counts), 1e-12))
        return np.asarray(0.5 * (direct + time + self.watts.of_labels(labels)))


@dataclass(frozen=True)
class EnergyModel:
    """A device's energy model. ``low`` and ``high`` are log offsets that bound 90 % of validated errors.

    They are those of a training like the fitted ones; one that is priced by a few data sets alone has them
    times ``stretch``: √(scatter² + spread²)/scatter, ``scatter`` being the errors' own and the spread how far
    fits without each data set disagree on it.

    ``shift`` is taken off the log energy so that the mean relative error, which punishes too much more
    than too little, is smallest. ``validated`` holds the mean relative error of each choice that was
    tried, from folds within the fitted runs.
    """

    device: str
    levels: tuple[MemoryLevel, ...]
    base: Base
    correction: Effects | None
    choices: Choices
    shift: float
    low: float
    high: float
    scatter: float
    apart: Jackknife
    runs: int
    validated: dict[str, float]

    def predict(
        self, trainings: Sequence[Training], *, only: Sequence[str] | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Energy, and the bounds of its 90 % interval, in joules, each of shape (n,).

        ``only`` names the groups of effects to correct by, None being all that were learned.
        """
        counts = design(trainings, self.levels)
        log = self.base.log_energy(trainings, counts, only) - self.shift
        if self.correction is not None:
            log = log + self.correction.predict(trainings, only)
        wider = stretch(self.apart.spread(counts), self.scatter)
        return np.exp(log), np.exp(log + self.low * wider), np.exp(log + self.high * wider)

    def spread(self, trainings: Sequence[Training]) -> Floats:
        """How far fits without each data set disagree on each training, in log units, shape (n,)."""
        return self.apart.spread(design(trainings, self.levels))


def fit(runs: Runs, levels: Sequence[MemoryLevel], *, bootstrap: int = 0, seed: int = 0) -> EnergyModel:
    """The model of one device's ``runs``. Raises PredictorError where there are too few.

    The choices (``CANDIDATES``) are compared on folds of the given runs alone: whole data sets left out
    where there are four or more, random eighths otherwise. The best one's errors there calibrate the
    interval. With ``bootstrap`` the costs get intervals from that many resamplings.
    """
    devices = runs.devices
    if len(devices) != 1 or len(runs) < FEWEST_RUNS:
        raise PredictorError(
            f"{len(runs)} runs on {', '.join(devices) or 'no device'} make no energy model",
            f"at least {FEWEST_RUNS} runs of one device",
        )
    pooled = runs.pooled()
    return _Fit(pooled, tuple(levels), seed).model(bootstrap)


CANDIDATES = (
    Choices(False, ()),
    Choices(False, effects.STRUCTURE),
    Choices(True, ()),
    Choices(True, effects.STRUCTURE),
    Choices(True, effects.STRUCTURE + effects.SMOOTH),
)


class _Fit:
    """One fit at work: the runs with their counts, and a sample of them for validation and effects."""

    def __init__(self, runs: Runs, levels: tuple[MemoryLevel, ...], seed: int) -> None:
        self.runs, self.levels, self.seed = runs, levels, seed
        random = np.random.default_rng(seed)
        self.counts = design(runs.trainings, levels)[runs.which]
        self.log_energy = np.log(runs.energy_j)
        self.kept = np.sort(random.permutation(len(runs))[:KEPT])
        self.folds = folds(runs.groups[self.kept], random)
        self.labels = {
            groups: self._labels(groups) for groups in {WATTS, *(c.correction for c in CANDIDATES)}
        }

    def _labels(self, groups: tuple[str, ...]) -> Any:
        """The labels of the kept runs, as an array of objects so that masks select them."""
        found = np.empty(len(self.kept), dtype=object)
        found[:] = [effects.labels(self.runs.trainings[int(self.runs.which[k])], groups) for k in self.kept]
        return found

    def base(self, rows: Rows, inside: NDArray[np.bool_], through_time: bool) -> Base:
        """The base fitted to ``rows``; the watts' effects to the kept runs that are ``inside``."""
        joules = physics.fit(self.counts[rows], self.runs.energy_j[rows])
        if not through_time:
            return Base(joules, None, None)
        kept = self.kept[inside]
        watts = self.log_energy[kept] - np.log(self.runs.time_s[kept])
        return Base(
            joules,
            physics.fit(self.counts[rows], self.runs.time_s[rows]),
            effects.fit(self.labels[WATTS][inside], watts, WATTS),
        )

    def unseen_residual(self, through_time: bool) -> Floats:
        """Log energy less the base's, each kept run predicted by a base that never saw its fold."""
        residual = np.zeros(len(self.kept))
        for fold in range(self.folds.max() + 1):
            out = self.folds == fold
            base = self.base(self.kept[~out], ~out, through_time)
            predicted = base.of_counts(self.counts[self.kept[out]], self.labels[WATTS][out])
            residual[out] = self.log_energy[self.kept[out]] - predicted
        return residual

    def unseen_correction(self, residual: Floats, groups: tuple[str, ...]) -> Floats:
        """The correction of each kept run, learned from the residuals of the other folds."""
        corrected, labels = np.zeros(len(residual)), self.labels[groups]
        for fold in range(self.folds.max() + 1):
            out = self.folds == fold
            corrected[out] = effects.fit(labels[~out], residual[~out], groups).of_labels(labels[out])
        return corrected

    def model(self, bootstrap: int) -> EnergyModel:
        """The model by the choices that err least on data sets held out, with its calibrated interval."""
        timed = bool(np.isfinite(self.runs.time_s).all())
        tried: dict[Choices, Floats] = {}
        residuals = {way: self.unseen_residual(way) for way in ([False, True] if timed else [False])}
        for choices in CANDIDATES:
            if choices.through_time in residuals:
                residual = residuals[choices.through_time]
                tried[choices] = residual - self.unseen_correction(residual, choices.correction)
        scores = {choices: relative_error(errors - best_shift(errors)) for choices, errors in tried.items()}
        best = min(scores, key=lambda choices: scores[choices])
        shift = best_shift(tried[best])
        apart, spread = self.jackknife(best.through_time)
        scatter = robust_scatter(tried[best] + shift)
        low, high = interval((tried[best] + shift) / stretch(spread, scatter))
        everything = np.arange(len(self.runs))
        base = self.base(everything, np.ones(len(self.kept), dtype=bool), best.through_time)
        if bootstrap:
            base = self.with_intervals(base, bootstrap)
        return EnergyModel(
            device=self.runs.devices[0],
            levels=self.levels,
            base=base,
            correction=effects.fit(
                self.labels[best.correction], residuals[best.through_time], best.correction
            ),
            choices=best,
            shift=shift,
            low=low,
            high=high,
            scatter=scatter,
            apart=apart,
            runs=len(self.runs),
            validated={choices.words: score for choices, score in scores.items()},
        )

    def jackknife(self, through_time: bool) -> tuple[Jackknife, Floats]:
        """The jackknife over the folds of the kept runs, and its spread at each of them."""
        values = [self.runs.energy_j, self.runs.time_s] if through_time else [self.runs.energy_j]
        return jackknife.fit(self.counts[self.kept], tuple(v[self.kept] for v in values), self.folds)

    def with_intervals(self, base: Base, repeats: int) -> Base:
        joules = physics.with_intervals(
            base.joules, self.counts, self.runs.energy_j, repeats=repeats, seed=self.seed
        )
        return Base(joules, base.seconds, base.watts)


def folds(groups: NDArray[np.str_], random: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each run, shape (n,): its data set where there are four or more, else a random eighth.

    Of more than ``MOST_FOLDS`` data sets several share a fold.
    """
    names, number = np.unique(groups, return_inverse=True)
    if len(names) >= 4:
        return np.asarray(number % MOST_FOLDS, dtype=np.int64)
    return np.asarray(random.permutation(len(groups)) % min(FOLDS, len(groups)), dtype=np.int64)


def interval(log_error: Floats) -> tuple[float, float]:
    """Bounds that the next error keeps with probability ``COVERAGE``.

    n errors of before know their quantiles to one part in n + 1 (Vovk, Gammerman and Shafer 2005, split
    conformal prediction); few of them are bounded by their extremes.
    """
    count = len(log_error)
    reach = min(1.0, np.ceil((count + 1) * (1 + COVERAGE) / 2) / count)
    low, high = np.quantile(log_error, [1 - reach, reach])
    return float(low), float(high)


def stretch(spread: Floats, scatter: float) -> Floats:
    """How many times wider an interval is where fits disagree by ``spread``."""
    return np.asarray(np.hypot(scatter, spread) / scatter)


def robust_scatter(log_error: Floats) -> float:
    """The standard deviation of a normal with the same median absolute error, at least 0.1 %."""
    return max(1.4826 * float(np.median(np.abs(log_error))), 1e-3)


def relative_error(log_error: Floats) -> float:
    """Mean |predicted / true − 1| where ``log_error`` is log(true) − log(predicted)."""
    return float(np.abs(np.expm1(-log_error)).mean())


def best_shift(log_error: Floats) -> float:
    """What to take off the log predictions so that their mean relative error is smallest, within ±0.2."""
    shifts = np.linspace(-0.2, 0.2, 161)
    return float(shifts[np.argmin([relative_error(log_error + shift) for shift in shifts])])
