"""Pricing: a device's predictor with what whole networks taught about adding kernels up.

The price of a network is not the sum of its kernels alone:

    total = a · Σ kernels of products + b · Σ other kernels + c · launches + d + e · weights again

with a and b near 1 (what running one after the other does to caches), c what a framework spends around each
launch, d around each pass. e is paid for each byte of weights beyond the first set of a shape: layers of one
shape are timed with one set, which stays warm where a network's own come from memory. The costs and the
interval come from whole networks of the same data set, each family of networks left out in turn.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.optimize import nnls

from joulemeter import kernels
from joulemeter.errors import PredictorError
from joulemeter.kernel import Kernel
from joulemeter.ledger import number
from joulemeter.models import conformal
from joulemeter.network import Rule
from joulemeter.record import Record
from joulemeter.timing import CROWDED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joulemeter.models.predictor import Estimates, Predictor

Quantity = Literal["energy_j", "time_s"]
QUANTITIES: tuple[Quantity, ...] = ("energy_j", "time_s")
TERMS = ("products", "other kernels", "launches", "pass", "weights again")
_USUAL = (1.0, 1.0, 0.0, 0.0, 0.0)
"""What the costs are drawn towards: a network is the sum of its kernels."""
FACT = "adding up"
"""The predictor's fact that holds what whole networks taught."""
_PRODUCTS = ("conv", "dwconv", "fc", "matmul", "attention", "transposed-conv", "lstm", "gru", "rnn", "se")
_RIDGE = 0.05
"""How much weight the usual costs have beside a network's relative error of 1."""
_FEWEST = 4
_OVERHEAD = slice(2, 5)
"""The terms that are time around kernels: launches, pass, weights again."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """From kernels to networks, for one quantity: ``costs`` by TERMS; ``spread`` bounds 90 % of unseen
    networks either way (exp of it), NaN where too few were seen; ``networks`` is how many were."""

    costs: tuple[float, ...]
    spread: float
    networks: int
    view: float = math.nan
    """What a view costs, which has no shape to learn from: the median of those measured."""

    def total(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The totals (n,) of networks with ``amounts`` (n, 5)."""
        return np.asarray(amounts @ np.array(self.costs))


PLAIN = Calibration(_USUAL, math.nan, 0)
"""No network was seen: a network is the sum of its kernels."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """A predictor with what whole networks taught, and what its backend fuses."""

    predictor: Predictor
    calibrations: Mapping[Quantity, Calibration] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def calibration(self, quantity: Quantity) -> Calibration:
        """How kernels add up to networks; plainly where no network was seen."""
        return self.calibrations.get(quantity, PLAIN)


# ── learning from whole networks ─────────────────────────────────────────────────────────────────────


def amounts(
    predictor: Predictor,
    compositions: Sequence[Sequence[tuple[Kernel, float]]],
    quantity: Quantity,
    view: float = math.nan,
) -> NDArray[np.float64]:
    """What TERMS multiply, for networks given as kernels with counts: shape (n, 5). One call prices all
    kernels.
    """
    flat = [kernel for composition in compositions for kernel, _ in composition]
    values = estimates(predictor, flat, quantity, view).value
    rows, start = np.zeros((len(compositions), len(TERMS))), 0
    for i, composition in enumerate(compositions):
        rows[i] = amounts_of(composition, values[start : start + len(composition)])
        start += len(composition)
    return rows


def amounts_of(
    composition: Sequence[tuple[Kernel, float]], prices: NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    """What TERMS multiply for one network; ``prices`` (n,) of one launch of each, NaN counted as nothing."""
    counts = np.array([count for _, count in composition], np.float64)
    whole = np.nan_to_num(prices) * counts
    product = np.array([is_product(kernel) for kernel, _ in composition], bool)
    again = _weights_again(composition)
    return float(whole[product].sum()), float(whole[~product].sum()), float(counts.sum()), 1.0, again


def _weights_again(composition: Sequence[tuple[Kernel, float]]) -> float:
    """Bytes of weights beyond the first set of each shape, forward launches alone."""
    counts: dict[Kernel, float] = defaultdict(float)
    for kernel, count in composition:
        if kernel.direction == "forward":
            counts[kernel] += count
    return math.fsum(
        (count - 1) * weight.bytes
        for kernel, count in counts.items()
        for weight in kernels.form(kernel).weights
    )


def estimates(
    predictor: Predictor, made: Sequence[Kernel], quantity: Quantity, view: float = math.nan
) -> Estimates:
    """The predictor's prices of kernels; those of views are ``view`` where it is known."""
    found = predictor.predict(made, [kernels.work(each) for each in made], quantity)
    if math.isnan(view):
        return found
    views = np.array([kernel.family == "view" for kernel in made], bool)
    value, low, high = (np.where(views, view, each) for each in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high, own=found.own | views)


def is_product(kernel: Kernel) -> bool:
    """Whether most of what ``kernel`` does is products of matrices."""
    return kernel.family.removesuffix("-backward").startswith(_PRODUCTS)


def learn(predictor: Predictor, records: Sequence[Record], rules: Sequence[Rule] = ()) -> Pricing:
    """``predictor`` with how the whole networks among ``records`` relate to their kernels.

    Networks are records of the level ``model`` whose ``facts["kernels"]`` says what they are made of.
    """
    networks = [each for each in records if each.level == "model" and each.facts.get("kernels")]
    networks = [each for each in networks if each.direction == "forward"]
    made = [
        [(Kernel.from_json(kernel), float(count)) for kernel, count in r.facts["kernels"]] for r in networks
    ]
    calibrations: dict[Quantity, Calibration] = {}
    floor = np.zeros(len(TERMS))
    for quantity in reversed(QUANTITIES):
        target = np.array([getattr(each, quantity) for each in networks])
        known = np.isfinite(target) & (target > 0)
        if known.sum() >= _FEWEST and quantity in predictor.families:
            view = _view(records, quantity)
            table = amounts(predictor, [m for m, k in zip(made, known, strict=True) if k], quantity, view)
            names = np.array([each.family for each in networks])[known]
            found = calibrate(table, target[known], names, floor)
            calibrations[quantity] = replace(found, view=view)
            floor[_OVERHEAD] = (
                _idle_w(networks) * np.array(found.costs)[_OVERHEAD]
            )  # of energy, which is next
    return Pricing(predictor, calibrations, tuple(rules))


def _idle_w(records: Sequence[Record]) -> float:
    """The device's idle power: the median of what the records say; 0 where none says it."""
    said = np.array([each.idle_power_w for each in records])
    said = said[np.isfinite(said) & (said > 0)]
    return float(np.median(said)) if len(said) else 0.0


def _view(records: Sequence[Record], quantity: Quantity) -> float:
    """The price of a view: the median over calls, most of which were in networks that are full of views."""
    rows = [(getattr(r, quantity), r.repeats) for r in records if r.level == "kernel" and r.family == "view"]
    seen = sorted((value, max(repeats, 1)) for value, repeats in rows if value > 0)
    if not seen:
        return math.nan
    passed = np.cumsum([repeats for _, repeats in seen])
    return float(seen[int(np.searchsorted(passed, passed[-1] / 2))][0])


def calibrate(
    table: NDArray[np.float64],
    target: NDArray[np.float64],
    names: NDArray[Any],
    floor: NDArray[np.float64] | None = None,
) -> Calibration:
    """Costs from amounts (n, 5) and totals (n,); the spread from leaving out each of the ``names`` (n,) in
    turn. No cost is below its ``floor`` (5,): what takes time takes idle power meanwhile.
    """
    least = np.zeros(len(TERMS)) if floor is None else floor
    kinds = np.unique(names)
    error = np.full(len(target), np.nan)
    for kind in kinds if len(kinds) > 1 else ():
        held = names == kind
        error[held] = np.log(
            np.maximum(table[held] @ _costs(table[~held], target[~held], least), 1e-300) / target[held]
        )
    spread = float(conformal.quantile(np.abs(error))) if np.isfinite(error).any() else math.nan
    return Calibration(tuple(float(c) for c in _costs(table, target, least)), spread, len(target))


def _costs(
    table: NDArray[np.float64], target: NDArray[np.float64], floor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least squares of relative errors, no cost below its floor, drawn a little towards the usual ones."""
    relative = table / target[:, None]
    scale = np.maximum(np.sqrt((relative**2).mean(0)), 1e-30)
    pull = math.sqrt(_RIDGE * len(target)) * np.eye(len(TERMS))
    wanted, least = np.array(_USUAL) * scale, floor * scale
    left = 1 - relative @ floor
    weight = np.ones(len(target))
    solution = wanted
    for _ in range(10):  # Huber's weights: a network timed in a bad moment must not bend all others
        rows = np.vstack([relative / scale * weight[:, None], pull])
        solution = least + nnls(rows, np.concatenate([weight * left, pull @ (wanted - least)]))[0]
        miss = np.abs(relative / scale @ solution - 1)
        weight = np.sqrt(np.minimum(1.0, 0.1 / np.maximum(miss, 1e-9)))
    return np.asarray(solution / scale)


# ── kept with the predictor ──────────────────────────────────────────────────────────────────────────


def kept(pricing: Pricing) -> Predictor:
    """The predictor with what whole networks taught among its facts, so that one file holds both."""
    content = {
        "calibrations": {
            quantity: {
                "costs": list(each.costs),
                "spread": number(each.spread),
                "networks": each.networks,
                "view": number(each.view),
            }
            for quantity, each in pricing.calibrations.items()
        },
        "rules": [list(rule) for rule in pricing.rules],
    }
    return replace(pricing.predictor, facts={**pricing.predictor.facts, FACT: json.dumps(content)})


def pricing_of(predictor: Predictor) -> Pricing:
    """What ``kept`` put among the facts; the predictor alone where nothing is there. Raises PredictorError
    where it cannot be read."""
    text = predictor.facts.get(FACT)
    if text is None:
        return Pricing(predictor)
    try:
        data = json.loads(str(text))
        calibrations: dict[Quantity, Calibration] = {}
        for quantity in QUANTITIES:
            each = data["calibrations"].get(quantity)
            if each is not None:
                spread, view = (math.nan if each[n] is None else float(each[n]) for n in ("spread", "view"))
                costs = tuple(float(cost) for _, cost in zip(TERMS, each["costs"], strict=True))
                calibrations[quantity] = Calibration(costs, spread, int(each["networks"]), view)
        rules = tuple((str(a), str(b), str(c)) for a, b, c in data["rules"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PredictorError(
            f"the predictor's networks cannot be read ({error!r})", "fit it again"
        ) from error
    return Pricing(predictor, calibrations, rules)


def taught(folder: str | Path, backend: str | None = None) -> Pricing:
    """A predictor learnt from the data set in ``folder``: kernels, then networks, then what the backend
    fuses.

    Raises DatasetError where there are two devices, PredictorError where ``backend`` was not benched.
    """
    from joulemeter import dataset
    from joulemeter.models import learning

    records = dataset.read(folder).records
    benched = sorted({record.backend for record in records if record.level == "kernel"})
    backend = backend or next((each for each in ("torch", *benched) if each in benched), None)
    if backend not in benched:
        raise PredictorError(
            f"{folder}: nothing was benched with '{backend}'", f"one of {', '.join(benched)}"
        )
    mine = undisturbed([record for record in records if record.backend == backend])
    return learn(learning.fit(mine), mine, _rules(folder, backend))


def with_networks(predictor: Predictor, folder: str | Path, records: Sequence[Record]) -> Predictor:
    """``predictor``, learnt from ``records`` of the data set in ``folder``, with what its networks and its
    fusion tests taught; as it was where there is neither."""
    pricing = learn(predictor, records, _rules(folder, predictor.backend))
    return kept(pricing) if pricing.calibrations or pricing.rules else predictor


def undisturbed(records: Sequence[Record]) -> list[Record]:
    """The records during which others had no large part of the machine; all where hardly half would be left,
    as on a machine that is always shared."""
    calm = [each for each in records if not float(each.facts.get("others_share") or 0.0) > CROWDED]
    return calm if 2 * len(calm) > len(records) else list(records)


def _rules(folder: str | Path, backend: str) -> list[Rule]:
    from joulemeter import bench, fusion

    if not (Path(folder) / bench.DEVICE_FILE).is_file():
        return []
    return fusion.rules(bench.read_device(folder)[1].get(backend, []))


def opened(source: str | Path, backend: str | None = None) -> Pricing:
    """The pricing in a predictor's file, or learnt from a data set's folder.

    Raises PredictorError or DatasetError where it is neither.
    """
    from joulemeter import dataset, predictor_file

    if dataset.is_dataset(source):
        return taught(source, backend)
    pricing = pricing_of(predictor_file.load(Path(source)))
    if backend is not None and backend not in pricing.predictor.backend.split(", "):
        raise PredictorError(
            f"{source}: is of the backend '{pricing.predictor.backend}', not '{backend}'",
            f"joulemeter bench --backends {backend} -o FOLDER, or leave --backend out",
        )
    return pricing
