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
_BOOSTED_ROWS = 800
"""From so many rows on, boosted trees are tried: below, processes always won."""
_MEMBERS = 4
"""Regressors whose mean is taken, at most."""
_ROUGH = 6.0
"""Times the known noise that is assumed of data whose small energies scatter more than they are rounded."""
_WORST = 0.3
"""Errors beyond this count alike when candidates are compared: one wrong row must not decide."""


@dataclass(frozen=True, slots=True)
class Member:
    """One regressor of the logarithm of a quantity. ``costs`` (8,) is its physical ground, by features.TERMS,
    all zero where it has none; ``deviation`` is the standard deviation where the regressor gives none."""

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
    """Members whose means are averaged; ``low`` and ``high`` (by column of the first) bound what was seen."""

    members: tuple[Member, ...]
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
        columns = self.members[0].columns
        values = features.table(described, columns)
        slack = 0.1 * (self.high - self.low) + 1e-9
        beyond = (values < self.low - slack) | (values > self.high + slack)
        return [tuple(columns[j] for j in np.flatnonzero(row)) for row in beyond]


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


def priced(described: Sequence[dict[str, float]], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs (8,), none negative, whose sums lie nearest exp(``target``) relative to it (least squares)."""
    table = features.terms(described) * np.exp(-target)[:, None]
    scale = table.mean(0)
    scale[scale == 0] = 1.0
    found = nnls(table / scale, np.ones(len(target)))[0] / scale
    # Every sum must be above zero: a launch costs something.
    found[0] = max(found[0], 1e-3 * float(np.exp(target.min())))
    return np.asarray(found, np.float64)


def recipes(described: Sequence[dict[str, float]]) -> list[str]:
    """The candidates for such kernels: processes on each view of them, with ground and without; trees."""
    views = ["work"]
    if len(described) < _SMALL_ROWS:
        views += ["size"]
    if all("log M" in each for each in described):
        views += ["tiles", "slices"]
    found = [f"process/{view}/{base}" for view in views for base in ("plain", "ground")]
    found += [f"rough/{view}/plain" for view in views if view in ("tiles", "slices")]
    return found + (["boosted/work/ground"] if len(described) >= _BOOSTED_ROWS else [])


def fit(
    described: Sequence[dict[str, float]],
    target: NDArray[np.float64],
    known_variance: NDArray[np.float64],
    groups: NDArray[np.int64],
    tried: Sequence[str] | None = None,
    seed: int = 0,
    anew: bool = True,
) -> Fitted:
    """The best of the candidates ``tried`` (default: ``recipes``), or the mean of the few best.

    ``target`` (n,) logarithms, ``groups`` (n,) numbers of the configuration. Without ``anew`` the
    cross-validated figures keep the hyperparameters of all the rows: five times faster, a little too good.
    """
    folds = folded(groups, seed)
    made = []
    for recipe in tried or recipes(described):
        member = member_of(recipe, described, target, known_variance, seed)
        mean, variance = _held_out(member, described, target, known_variance, folds, seed)
        if isinstance(member.regressor, Trees):
            variance[:] = np.mean((target - mean) ** 2)
            member = replace(member, deviation=float(np.sqrt(variance[0])))
        made.append((member, mean, variance))
    error = [_error(target - mean) for _, mean, _ in made]
    best = _best(made, error, target)
    # The card and the intervals: the chosen learnt anew without each fold, hyperparameters too.
    held = [(m, v) for _, m, v in best]
    if anew:
        held = [_held_out(m, described, target, known_variance, folds, seed, anew) for m, _, _ in best]
    mean = np.mean([m for m, _ in held], axis=0)
    deviation = np.sqrt(np.mean([v for _, v in held], axis=0))
    inputs = features.table(described, best[0][0].columns)
    regression = Regression(tuple(m for m, _, _ in best), inputs.min(0), inputs.max(0))
    return Fitted(
        regression, mean, deviation, {m.recipe: e for (m, _, _), e in zip(made, error, strict=True)}
    )


_Made = tuple[Member, "NDArray[np.float64]", "NDArray[np.float64]"]


def _best(made: Sequence[_Made], error: Sequence[float], target: NDArray[np.float64]) -> list[_Made]:
    """The best one, two, three or four, whichever average errs least."""
    order = np.argsort(error, kind="stable")
    sets = [[made[i] for i in order[:count]] for count in range(1, min(len(made), _MEMBERS) + 1)]
    return min(sets, key=lambda some: _error(target - np.mean([mean for _, mean, _ in some], axis=0)))


def _error(residual: NDArray[np.float64]) -> float:
    return float(np.minimum(np.abs(residual), _WORST).mean())


def folded(groups: NDArray[np.int64], seed: int = 0, count: int = FOLDS) -> NDArray[np.int64]:
    """The fold (n,) of each row, 0 to ``count`` − 1; rows of one group share it."""
    distinct, number = np.unique(groups, return_inverse=True)
    return np.asarray(np.random.default_rng(seed).permutation(len(distinct))[number] % count, np.int64)


def member_of(
    recipe: str,
    described: Sequence[dict[str, float]],
    target: NDArray[np.float64],
    known_variance: NDArray[np.float64],
    seed: int = 0,
) -> Member:
    """A member by its recipe: ``kind/view/ground or plain``."""
    kind, view, base = recipe.split("/")
    columns = features.names(described, view)
    inputs = features.table(described, columns)
    costs = priced(described, target) if base == "ground" else np.zeros(len(features.TERMS))
    rest = target - ground(costs, described)
    if kind in ("process", "rough"):
        known = known_variance * (_ROUGH**2 if kind == "rough" else 1)
        return Member(recipe, columns, costs, gaussian.fit(inputs, rest, known, seed=seed))
    grow = trees.boosted if kind == "boosted" else trees.forest
    return Member(recipe, columns, costs, grow(inputs, rest, seed))


def _held_out(
    member: Member,
    described: Sequence[dict[str, float]],
    target: NDArray[np.float64],
    known_variance: NDArray[np.float64],
    folds: NDArray[np.int64],
    seed: int,
    anew: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (n,) of each row by a member that has not seen its fold.

    To compare candidates a process keeps its hyperparameters (a dozen numbers of all the rows) and
    forgets the fold's rows; ``anew``, it is learnt anew. Trees are always grown anew.
    """
    mean, variance = np.empty(len(target)), np.empty(len(target))
    for fold in np.unique(folds):
        held = folds == fold
        rows = [each for each, out in zip(described, held, strict=True) if out]
        if isinstance(member.regressor, Process) and not anew:
            other = Member(member.recipe, member.columns, member.costs, member.regressor.without(held))
        else:
            kept = [each for each, out in zip(described, held, strict=True) if not out]
            other = member_of(member.recipe, kept, target[~held], known_variance[~held], seed)
            other = replace(other, deviation=member.deviation)
        mean[held], variance[held] = other.predict(rows)
    return mean, variance
