"""One quantity of one family on its features: candidates, the choice among them, and what it foresees.

The quantity is learnt as a logarithm, over a physical ground where that helps: costs of a launch, of FLOPs
and of bytes that add up, none negative. Candidates are compared by cross-validation in groups of one
configuration, never by the rows they will be tested on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from joulemeter.models import features, gaussian, trees
from joulemeter.models.gaussian import Process
from joulemeter.models.trees import Trees

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDS = 5
LEAST_ROWS = 5
"""A family with fewer configurations has no model of its own."""
_SMALL_ROWS = 100
"""With fewer rows, processes of size alone are tried: each dimension has a length scale to be learnt."""
FEW_ROWS = 25
"""With fewer, what a ground adds up to is tried alone."""
_PRICED_ROUNDS = 3
"""Times that the rows of a ground are weighed anew by how far it is off them."""
_OFF_BEFORE, _OFF_LEAST = 0.2, 0.01
"""What a ground is usually off its rows, as a fraction: before it is known, and at least."""
_NORMAL_50 = 0.6745
"""The half-width of a normal 50 % interval in standard deviations."""
_BOOSTED_ROWS = 800
"""From so many rows on, boosted trees are tried: below, processes always won."""
_MEMBERS = 4
"""Regressors whose mean is taken, at most."""
_NEAR = 1.1
"""Only regressors that err no more than this many times the best one's error have a part in the mean."""
_WORST = 0.3
"""Errors beyond this count alike when candidates are compared: one wrong row must not decide."""


@dataclass(frozen=True, slots=True)
class Care:
    """How much is computed: the rows that hyperparameters are tuned on, and whether the cross-validated
    figures are of models learnt ``anew`` without each fold, or keep the hyperparameters of all the rows."""

    tune_rows: int = gaussian.TUNE_ROWS
    anew: bool = True


FULL = Care()


@dataclass(frozen=True, slots=True)
class Member:
    """One regressor of the logarithm of a quantity. ``costs`` (33,) is its physical ground, by TERMS of
    ``features``, all zero where it has none; ``deviation`` is the standard deviation where the regressor
    gives none."""

    recipe: str
    columns: tuple[str, ...]
    costs: NDArray[np.float64]
    regressor: Process | Trees
    deviation: float = 0.0

    def predict(
        self, described: Sequence[dict[str, float]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance (n,) of the logarithm."""
        inputs = features.table(described, self.columns)
        base = ground(self.costs, described)
        if isinstance(self.regressor, Trees):
            return base + self.regressor.predict(inputs), np.full(len(inputs), self.deviation**2)
        mean, variance = self.regressor.predict(inputs)
        return base + mean, variance


@dataclass(frozen=True, slots=True)
class Regression:
    """Members whose means are averaged; ``low`` and ``high`` (by column) bound what was seen."""

    members: tuple[Member, ...]
    columns: tuple[str, ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def predict(
        self, described: Sequence[dict[str, float]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (n,) of the logarithm."""
        both = [member.predict(described) for member in self.members]
        mean = np.mean([m for m, _ in both], axis=0)
        return mean, np.sqrt(np.mean([v for _, v in both], axis=0))

    def outside(self, described: Sequence[dict[str, float]]) -> list[tuple[str, ...]]:
        """For each row the features that lie outside what was seen, by more than a tenth of its range."""
        values = features.table(described, self.columns)
        slack = 0.1 * (self.high - self.low) + 1e-9
        beyond = (values < self.low - slack) | (values > self.high + slack)
        return [tuple(self.columns[j] for j in np.flatnonzero(row)) for row in beyond]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A regression with the cross-validated ``mean`` and ``deviation`` (n,) of the rows it was fitted on."""

    regression: Regression
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    scores: dict[str, float]
    """The mean error of each candidate tried, by recipe."""


def ground(costs: NDArray[np.float64], described: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    """The logarithm (n,) of what the costs add up to; 0 where there are none."""
    if not costs.any():
        return np.zeros(len(described))
    return np.log(features.terms(described) @ costs)


def priced(
    described: Sequence[dict[str, float]],
    target: NDArray[np.float64],
    launch: float = np.nan,
    base: str = "ground",
    known_variance: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Costs (33,), none negative, whose sums lie nearest exp(``target``) relative to it (least squares);
    those that are no part of ``base`` (one of features.GROUNDS) are 0.

    ``launch`` is the logarithm of what the cheapest kernel of the device costs: a family whose small kernels
    were not measured still costs about that for nothing. From _SMALL_ROWS rows on each counts by how exactly
    it is read (``known_variance`` (n,) of the logarithm), and less where the others contradict it (Student's
    t by reweighting); of fewer, the one that stands apart may be the only one that shows a cost, and they
    cannot tell which caches operands come out of.
    """
    many = len(target) >= _SMALL_ROWS
    counted = features.GROUNDS[base] - frozenset(() if many else features.FETCHED)
    part = [name in counted for name in features.TERMS]
    table = features.terms(described) * part * np.exp(-target)[:, None]
    anchor = np.zeros((int(np.isfinite(launch)), len(features.TERMS)))
    anchor[:, 0] = np.exp(-launch)
    scale = np.vstack([table, anchor]).mean(0)
    scale[scale == 0] = 1.0
    rows, anchor = table / scale, anchor / scale
    least = 1e-3 * float(np.exp(np.fmin(target.min(), launch))) * scale[0]
    rounds = _PRICED_ROUNDS if many else 0
    known = np.zeros(len(target)) if known_variance is None or not rounds else known_variance
    weights = _OFF_BEFORE / np.sqrt(_OFF_BEFORE**2 + known)
    for step in range(rounds + 1):
        sums = np.vstack([rows * weights[:, None], anchor])
        found = nnls(sums, np.append(weights, np.ones(len(anchor))))[0]
        # Every sum must be above zero: a launch costs something.
        found[0] = max(found[0], least)
        if step < rounds:
            weights = _trust(np.log(rows @ found), known)
    return np.asarray(found / scale, np.float64)


def _trust(off: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each row counts (n,), 1 at most, where the ground is ``off`` (n,), and readings by ``known``."""
    usual = max(float(np.median(np.abs(off))) / _NORMAL_50, _OFF_LEAST) ** 2
    variance = usual + known
    nu = gaussian.STUDENT_NU
    doubt = np.maximum((nu + off**2 / variance) / (nu + 1), 1.0)
    return np.asarray(np.sqrt(usual / variance / doubt), np.float64)


def recipes(described: Sequence[dict[str, float]]) -> list[str]:
    """The candidates for such kernels: processes on each view of them, with ground and without; the ground
    alone for few; trees for many."""
    views = ["work"]
    if len(described) < _SMALL_ROWS:
        views += ["size"]
    if all("log M" in each for each in described):
        views += ["tiles", "slices"]
    walked = all("log strode" in each for each in described)
    few = len(described) < FEW_ROWS
    # What a walk costs is seen at large images alone, of which few rows hold one or two: physics must say it.
    bases = ["walk"] if walked and few else ["plain", "ground"] + (["walk"] if walked else [])
    found = [f"process/{view}/{base}" for view in views for base in bases]
    if few:
        found.append(f"process/none/{bases[-1]}")
    return found + (["boosted/work/ground"] if len(described) >= _BOOSTED_ROWS else [])


def fit(
    described: Sequence[dict[str, float]],
    target: NDArray[np.float64],
    known_variance: NDArray[np.float64],
    groups: NDArray[np.int64],
    tried: Sequence[str] | None = None,
    seed: int = 0,
    care: Care = FULL,
    launch: float = np.nan,
) -> Fitted:
    """The best of the candidates ``tried`` (default: ``recipes``), or the mean of the few best.

    ``target`` (n,) logarithms, ``groups`` (n,) numbers of the configuration, ``launch`` as for ``priced``.
    """
    rows = _Rows(described, target, known_variance, launch, seed, care.tune_rows)
    folds = folded(groups, seed)
    # A ground of many costs explains a few rows by itself: to be compared it is learnt anew as well.
    small = care.anew and len(target) < _SMALL_ROWS
    made = []
    for recipe in tried or recipes(described):
        member = rows.member(recipe)
        mean, variance = _held_out(member, rows, folds, anew=small)
        if isinstance(member.regressor, Trees):
            variance[:] = np.mean((target - mean) ** 2)
            member = replace(member, deviation=float(np.sqrt(variance[0])))
        made.append((member, mean, variance))
    errors = [error(target - mean, target) for _, mean, _ in made]
    best = _best(made, errors, target)
    # The card and the intervals: the chosen learnt anew without each fold, hyperparameters too.
    held = [(m, v) for _, m, v in best]
    if care.anew and not small:
        held = [_held_out(m, rows, folds, anew=True) for m, _, _ in best]
    mean = np.mean([m for m, _ in held], axis=0)
    deviation = np.sqrt(np.mean([v for _, v in held], axis=0))
    columns = best[0][0].columns or features.names(described, "work")
    inputs = features.table(described, columns)
    regression = Regression(tuple(m for m, _, _ in best), columns, inputs.min(0), inputs.max(0))
    return Fitted(
        regression, mean, deviation, {m.recipe: e for (m, _, _), e in zip(made, errors, strict=True)}
    )


_Made = tuple[Member, "NDArray[np.float64]", "NDArray[np.float64]"]


def _best(made: Sequence[_Made], errors: Sequence[float], target: NDArray[np.float64]) -> list[_Made]:
    """The best one, or the mean of the few that are hardly worse, whichever errs least."""
    order = [i for i in np.argsort(errors, kind="stable") if errors[i] <= _NEAR * min(errors)]
    sets = [[made[i] for i in order[:count]] for count in range(1, min(len(order), _MEMBERS) + 1)]
    return min(sets, key=lambda some: error(target - np.mean([mean for _, mean, _ in some], axis=0), target))


def error(residual: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The mean error, half by rows and half by what they cost: a model must serve kernels and the bill."""
    errs = np.minimum(np.abs(residual), _WORST)
    share = np.exp(target - target.max())
    return float(0.5 * errs.mean() + 0.5 * (errs * share).sum() / share.sum())


def folded(groups: NDArray[np.int64], seed: int = 0, count: int = FOLDS) -> NDArray[np.int64]:
    """The fold (n,) of each row, 0 to ``count`` − 1; rows of one group share it."""
    distinct, number = np.unique(groups, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(distinct))[number] % count, np.int64)


@dataclass(frozen=True, slots=True)
class _Rows:
    """What members are learnt from: n rows, and how."""

    described: Sequence[dict[str, float]]
    target: NDArray[np.float64]
    known_variance: NDArray[np.float64]
    launch: float
    seed: int
    tune_rows: int

    def only(self, keep: NDArray[np.bool_]) -> _Rows:
        """The rows for which ``keep`` (n,) is true."""
        described = [each for each, kept in zip(self.described, keep, strict=True) if kept]
        return replace(
            self, described=described, target=self.target[keep], known_variance=self.known_variance[keep]
        )

    def member(self, recipe: str, like: Member | None = None) -> Member:
        """A member by its recipe, ``kind/view/base``, the base ``plain`` or one of features.GROUNDS; its
        hyperparameters are sought from those of the one that is ``like`` it."""
        kind, view, base = recipe.split("/")
        columns = features.names(self.described, view) if like is None else like.columns
        inputs = features.table(self.described, columns)
        costs = np.zeros(len(features.TERMS))
        if base != "plain":
            costs = priced(self.described, self.target, self.launch, base, self.known_variance)
        rest = self.target - ground(costs, self.described)
        if kind != "process":
            grow = trees.boosted if kind == "boosted" else trees.forest
            return Member(recipe, columns, costs, grow(inputs, rest, self.seed))
        start = like.regressor.hyper if like and isinstance(like.regressor, Process) else None
        made = gaussian.fit(
            inputs, rest, self.known_variance, seed=self.seed, tune_rows=self.tune_rows, start=start
        )
        return Member(recipe, columns, costs, made)


def _held_out(
    member: Member, rows: _Rows, folds: NDArray[np.int64], anew: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (n,) of each row by a member that has not seen its fold.

    To compare candidates a process keeps its hyperparameters (a dozen numbers of all the rows) and
    forgets the fold's rows; ``anew``, it is learnt anew. Trees are always grown anew.
    """
    mean, variance = np.empty(len(folds)), np.empty(len(folds))
    for fold in np.unique(folds):
        held = folds == fold
        if isinstance(member.regressor, Process) and not anew:
            other = replace(member, regressor=member.regressor.without(held))
        else:
            other = replace(rows.only(~held).member(member.recipe, member), deviation=member.deviation)
        mean[held], variance[held] = other.predict(rows.only(held).described)
    return mean, variance
