"""From the records of one device to its predictor, and to the card that says how far to trust it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.accuracy import Accuracy, measure
from joulemeter.errors import DatasetError
from joulemeter.models import conformal, features, overhead, regression
from joulemeter.models.overhead import NONE, Overhead
from joulemeter.models.plausibility import implausible_power
from joulemeter.models.predictor import POOLED, Family, Predictor, Quantity, rounding
from joulemeter.models.regression import Care
from joulemeter.models.threads import one_thread
from joulemeter.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str], None]
"""Called with the name of each family as it is learnt."""

_POOL_ROWS = 100
"""Rows of one family that enter the pooled model at most."""
_POOL_TUNE_ROWS = 300
_ALONE_ROWS = 60
"""A family with fewer configurations is also tried within the pooled model."""
_MANY = 2500
"""With more kernels hyperparameters are tuned on _MANY_TUNE_ROWS, so that 10,000 are learnt in a minute."""
_MANY_TUNE_ROWS = 150
_NORMAL_95 = 3.92
"""The width of a normal 95 % interval in standard deviations."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Configurations of one family, repeats merged: logarithms of the quantity, and known variances."""

    described: list[dict[str, float]]
    target: NDArray[np.float64]
    known_variance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.target)


def fit(records: Sequence[Record], progress: Progress | None = None, seed: int = 0) -> Predictor:
    """The predictor of what ``records`` (one device, one or more backends) show.

    Kernels whose power is impossible are left out and counted in ``facts``. Raises DatasetError where there
    is no kernel with an energy, or where there are two devices.
    """
    with one_thread():
        return _fit(records, progress, seed)


def _fit(records: Sequence[Record], progress: Progress | None, seed: int) -> Predictor:
    kernels = [record for record in records if record.level == "kernel" and record.energy_j > 0]
    _check(records, kernels)
    wrong = set(implausible_power(kernels))
    kernels = [record for i, record in enumerate(kernels) if i not in wrong]
    care = Care() if len(kernels) <= _MANY else Care(tune_rows=_MANY_TUNE_ROWS)
    families: dict[Quantity, dict[str, Family]] = {}
    least: dict[Quantity, NDArray[np.float64]] = {}
    card: dict[str, Accuracy] = {}
    quantities: tuple[Quantity, ...] = ("energy_j", "time_s")
    for quantity in quantities:
        rows = _by_family(kernels, quantity)
        if not rows:
            continue
        tried = None if quantity == "energy_j" else _chosen(families["energy_j"])
        resolution = _resolution(kernels, quantity)
        learnt = care if tried is None else replace(care, anew=False)
        families[quantity], cards = _families(rows, resolution, tried, progress, seed, learnt)
        least[quantity] = _least(kernels, quantity)
        if quantity == "energy_j":
            card = cards
    predictor = Predictor(
        device=kernels[0].device,
        backend=", ".join(sorted({record.backend for record in kernels if record.backend})),
        origin=_origin(kernels),
        families=families,
        least=least,
        resolution={quantity: _resolution(kernels, quantity) for quantity in quantities},
        card=card,
        facts={
            "kernels": len(kernels),
            "left out": len(wrong),
            "networks": len({r.network for r in records if r.level == "model"}),
        },
    )
    return with_overhead(predictor, records)


def _check(records: Sequence[Record], kernels: Sequence[Record]) -> None:
    devices = sorted({record.device for record in records})
    if len(devices) > 1:
        raise DatasetError(
            f"the data set holds {len(devices)} devices ({', '.join(devices)}); a predictor is of one",
            f"--device '{devices[0]}'",
        )
    if not kernels:
        raise DatasetError(
            "the data set holds no kernel with an energy: nothing to learn from",
            "one that `joulemeter bench -o FOLDER` made",
        )


def _origin(kernels: Sequence[Record]) -> str:
    origins = {record.origin for record in kernels}
    return origins.pop() if len(origins) == 1 else "estimated"


def _resolution(kernels: Sequence[Record], quantity: Quantity) -> float:
    if quantity == "time_s":
        return 0.0
    given = [float(record.facts.get("resolution_j", 0.0)) for record in kernels]
    return float(np.median(given))


def _by_family(kernels: Sequence[Record], quantity: Quantity) -> dict[str, _Rows]:
    merged: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in kernels:
        if getattr(record, quantity) > 0:
            merged[record.family][record.kernel.key].append(record)
    return {name: _merge(list(groups.values()), quantity) for name, groups in sorted(merged.items())}


def _merge(groups: Sequence[Sequence[Record]], quantity: Quantity) -> _Rows:
    """Repeats of a configuration as one row: the mean logarithm."""
    target = [float(np.mean([math.log(getattr(r, quantity)) for r in group])) for group in groups]
    variance = [
        float(np.mean([_known_variance(r, quantity) for r in group])) / len(group) for group in groups
    ]
    described = [features.describe(group[0].kernel, group[0].work) for group in groups]
    return _Rows(described, np.array(target), np.array(variance))


def _known_variance(record: Record, quantity: Quantity) -> float:
    """Variance of the logarithm known beforehand: the record's own interval, and rounding."""
    value = getattr(record, quantity)
    low, high = (
        (record.energy_low_j, record.energy_high_j)
        if quantity == "energy_j"
        else (record.time_low_s, record.time_high_s)
    )
    own = (high - low) / _NORMAL_95 / value if high > low else 0.0
    resolution = float(record.facts.get("resolution_j", 0.0)) if quantity == "energy_j" else 0.0
    return float(own**2 + rounding(np.array([value]), resolution)[0] ** 2)


def _chosen(families: dict[str, Family]) -> dict[str, list[str]]:
    """The recipe that serves best for energy, to be used for time without another choice."""
    return {name: [family.regression.members[0].recipe] for name, family in families.items()}


def _families(
    rows: dict[str, _Rows],
    resolution: float,
    tried: dict[str, list[str]] | None,
    progress: Progress | None,
    seed: int,
    care: Care,
) -> tuple[dict[str, Family], dict[str, Accuracy]]:
    """A model for each family, its own or the pooled one, and the cross-validated accuracy of each."""
    launch = min(float(own.target.min()) for own in rows.values())
    pool = _pooled(rows, seed, replace(care, tune_rows=min(care.tune_rows, _POOL_TUNE_ROWS)))
    chosen: dict[str, regression.Regression] = {}
    mean: dict[str, NDArray[np.float64]] = {}
    deviation: dict[str, NDArray[np.float64]] = {}
    for name, own in rows.items():
        if progress:
            progress(name)
        fitted = _family(name, own, pool, None if tried is None else tried.get(name), seed, care, launch)
        if fitted is not None:
            chosen[name], mean[name], deviation[name] = fitted
    if not chosen:
        most = max(map(len, rows.values()))
        raise DatasetError(
            f"no family has {regression.LEAST_ROWS} configurations to learn from: the most is {most}",
            "measure more shapes of a family",
        )
    scores = {
        name: np.abs(rows[name].target - mean[name])
        / np.hypot(deviation[name], rounding(np.exp(mean[name]), resolution))
        for name in chosen
    }
    factors = conformal.calibrated(scores)
    families = {name: Family(chosen[name], factors[name]) for name in chosen}
    if pool is not None:
        unknown = np.abs(pool.target - pool.mean) / pool.deviation
        families[POOLED] = Family(pool.fitted, conformal.quantile(unknown))
    return families, _cards(rows, mean, deviation, factors, resolution)


@dataclass(frozen=True, slots=True)
class _Pool:
    """The pooled model, cross-validated: rows in the order of ``names``."""

    fitted: regression.Regression
    names: NDArray[np.str_]
    target: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def _pooled(rows: dict[str, _Rows], seed: int, care: Care) -> _Pool | None:
    """One process over all families, each with a column of its own; None where there are too few rows."""
    random = np.random.default_rng(seed)
    described: list[dict[str, float]] = []
    names, target, variance = [], [], []
    for name, own in rows.items():
        for i in np.sort(random.permutation(len(own))[: _POOL_ROWS if len(own) >= _ALONE_ROWS else len(own)]):
            described.append(own.described[int(i)])
            names.append(name)
            target.append(own.target[i])
            variance.append(own.known_variance[i])
    if len(target) < regression.LEAST_ROWS:
        return None
    groups = np.arange(len(target))
    known = np.array(variance)
    recipes = ("process/pooled/plain", "process/pooled/ground")
    fitted = regression.fit(described, np.array(target), known, groups, recipes, seed, care)
    return _Pool(fitted.regression, np.array(names), np.array(target), fitted.mean, fitted.deviation)


_Choice = tuple[regression.Regression, "NDArray[np.float64]", "NDArray[np.float64]"]


def _family(
    name: str,
    own: _Rows,
    pool: _Pool | None,
    tried: list[str] | None,
    seed: int,
    care: Care,
    launch: float,
) -> _Choice | None:
    """A family's own model or the pooled one, whichever errs less on its rows when they are held out."""
    shared: _Choice | None = None
    if pool is not None and len(own) < _ALONE_ROWS:
        mine = pool.names == name
        shared = pool.fitted, pool.mean[mine], pool.deviation[mine]
    if len(own) < regression.LEAST_ROWS:
        return shared
    options = [recipe for recipe in tried or () if "/pooled/" not in recipe] or None
    groups = np.arange(len(own))
    fitted = regression.fit(
        own.described, own.target, own.known_variance, groups, options, seed, care, launch
    )
    alone: _Choice = fitted.regression, fitted.mean, fitted.deviation
    if shared is None:
        return alone
    return min((alone, shared), key=lambda choice: regression.error(own.target - choice[1], own.target))


def _cards(
    rows: dict[str, _Rows],
    mean: dict[str, NDArray[np.float64]],
    deviation: dict[str, NDArray[np.float64]],
    factors: dict[str, float],
    resolution: float,
) -> dict[str, Accuracy]:
    """Cross-validated accuracy by family, and of all together as ``overall``."""
    columns: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    cards = {}
    for name, centre in mean.items():
        value = np.exp(centre)
        reach = factors[name] * np.hypot(deviation[name], rounding(value, resolution))
        quad = [np.exp(rows[name].target), value, value * np.exp(-reach), value * np.exp(reach)]
        cards[name] = measure(*quad)
        for column, part in zip(("true", "value", "low", "high"), quad, strict=True):
            columns[column].append(part)
    cards["overall"] = measure(*(np.concatenate(columns[c]) for c in ("true", "value", "low", "high")))
    return cards


def _least(kernels: Sequence[Record], quantity: Quantity) -> NDArray[np.float64]:
    """The least ever paid for a launch, a FLOP and a byte (3,)."""
    rows = [
        (getattr(r, quantity), 1.0, r.work.flops, r.work.bytes) for r in kernels if getattr(r, quantity) > 0
    ]
    table = np.array(rows, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        paid = table[:, :1] / table[:, 1:]
    paid[~np.isfinite(paid)] = np.inf
    least = paid.min(0)
    return np.asarray(np.where(np.isfinite(least), least, 0.0), np.float64)


def with_overhead(predictor: Predictor, records: Sequence[Record]) -> Predictor:
    """``predictor`` with the overhead that the whole networks among ``records`` show, where kernels of theirs
    are among them too; as it was where there are none."""
    networks, amounts = network_amounts(predictor, records)
    if len(networks) < 2:
        return predictor
    energy_j = np.array([record.energy_j for record in networks])
    _, number = np.unique([record.network for record in networks], return_inverse=True)
    found, held_out = overhead.fit(amounts, energy_j, np.asarray(number, np.int64))
    low, high = held_out * np.exp(-found.spread), held_out * np.exp(found.spread)
    card = dict(predictor.card)
    if np.isfinite(held_out).any():
        card["network"] = measure(energy_j, held_out, low, high)
    return replace(predictor, overhead=found if _usable(found) else NONE, card=card)


def _usable(found: Overhead) -> bool:
    return bool(found.costs.any())


def network_amounts(
    predictor: Predictor, records: Sequence[Record]
) -> tuple[list[Record], NDArray[np.float64]]:
    """Networks among ``records`` whose kernels are there too, and their amounts (n, 4) by overhead.TERMS.

    Kernels belong to the network of the same name, batch and ``facts["pass"]`` or shape's ``sequence``. Their
    energies are predicted, never read.
    """
    parts: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.level == "kernel" and record.network:
            parts[_pass(record)].append(record)
    networks = [r for r in records if r.level == "model" and r.energy_j > 0 and parts.get(_pass(r))]
    if not networks:
        return [], np.empty((0, len(overhead.TERMS)))
    members = [parts[_pass(network)] for network in networks]
    flat = [record for group in members for record in group]
    prices = predictor.predict([r.kernel for r in flat], [r.work for r in flat]).value
    ends = np.cumsum([len(group) for group in members])
    rows = []
    for network, group, end in zip(networks, members, ends, strict=True):
        own = float(np.nansum([r.work.bytes for r in group]))
        beyond = max(network.work.bytes - own, 0.0) if network.work.bytes > 0 else 0.0
        rows.append((float(np.nansum(prices[end - len(group) : end])), beyond, float(len(group)), 1.0))
    return networks, np.array(rows)


def _pass(record: Record) -> tuple[object, ...]:
    mark = record.facts.get("pass", record.shape.get("sequence", ""))
    return record.device, record.backend, record.network, record.batch, str(mark)
