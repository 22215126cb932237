"""Predictor: prices kernels and networks never run, with intervals, on one device and backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from joulemeter.accuracy import Accuracy
from joulemeter.kernel import Kernel, Work
from joulemeter.models import features
from joulemeter.models.overhead import NONE, Overhead
from joulemeter.models.regression import Regression

if TYPE_CHECKING:
    from numpy.typing import NDArray

Quantity = Literal["energy_j", "time_s"]
POOLED = "*"
"""The name of the model of all families together, which serves families without one of their own."""
_FLOOR = 0.5
"""A price below this share of the least that anything on the device cost for such work is not believed."""


@dataclass(frozen=True, slots=True)
class Family:
    """How one quantity of one family is foreseen. ``factor`` times the deviation bounds 90 % of new cases."""

    regression: Regression
    factor: float


@dataclass(frozen=True, slots=True)
class Estimates:
    """Prices of n kernels: ``value``, ``low``, ``high`` (n,), the interval at 90 %; NaN where there is none.

    ``own`` (n,) is False where the pooled model stood in for a family never measured; ``outside`` names, for
    each, the features outside the training domain.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    own: NDArray[np.bool_]
    outside: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Predictor:
    """What was learnt from one device's data set. ``least`` (3,) is the lowest price seen of a launch, a FLOP
    and a byte; ``resolution`` the rounding of the records learnt from; both by quantity.

    ``card`` is the cross-validated accuracy by family, ``network`` for whole networks, ``overall`` for all.
    """

    device: str
    backend: str
    origin: str
    families: Mapping[Quantity, Mapping[str, Family]]
    least: Mapping[Quantity, NDArray[np.float64]]
    resolution: Mapping[Quantity, float]
    overhead: Overhead = NONE
    card: Mapping[str, Accuracy] = field(default_factory=dict)
    facts: Mapping[str, str | float | int] = field(default_factory=dict)

    def knows(self, family: str) -> bool:
        """Whether ``family`` has a model of its own."""
        return family in self.families["energy_j"]

    def predict(
        self, kernels: Sequence[Kernel], works: Sequence[Work], quantity: Quantity = "energy_j"
    ) -> Estimates:
        """The price of each kernel; equal kernels are computed once. Nothing is predicted for quantities that
        were not in the data: NaN."""
        keys = {kernel.key: i for i, kernel in reversed(list(enumerate(kernels)))}
        distinct = sorted(keys.values())
        place = {kernels[i].key: at for at, i in enumerate(distinct)}
        made = self._distinct([kernels[i] for i in distinct], [works[i] for i in distinct], quantity)
        index = np.array([place[kernel.key] for kernel in kernels], np.int64)
        return Estimates(
            made.value[index],
            made.low[index],
            made.high[index],
            made.own[index],
            tuple(made.outside[i] for i in index),
        )

    def _distinct(self, kernels: Sequence[Kernel], works: Sequence[Work], quantity: Quantity) -> Estimates:
        n = len(kernels)
        value, low, high = (np.full(n, np.nan) for _ in range(3))
        own = np.zeros(n, bool)
        outside: list[tuple[str, ...]] = [()] * n
        models = self.families.get(quantity, {})
        described = [features.describe(k, w) for k, w in zip(kernels, works, strict=True)]
        floor = self._floor(works, quantity)
        for name in sorted({kernel.family for kernel in kernels}):
            model = models.get(name, models.get(POOLED))
            rows = [i for i, kernel in enumerate(kernels) if kernel.family == name]
            if model is None:
                continue
            mine = [described[i] for i in rows]
            value[rows], low[rows], high[rows] = bounded(
                model, mine, floor[rows], self.resolution.get(quantity, 0.0)
            )
            own[rows] = name in models
            for i, names in zip(rows, model.regression.outside(mine), strict=True):
                outside[i] = names
        return Estimates(value, low, high, own, tuple(outside))

    def _floor(self, works: Sequence[Work], quantity: Quantity) -> NDArray[np.float64]:
        """The physical lower bound (n,): half the least ever paid for the FLOPs, the bytes or a launch."""
        amounts = np.array([(1.0, work.flops, work.bytes) for work in works]).reshape(len(works), 3)
        least = self.least.get(quantity, np.zeros(3))
        return np.asarray(_FLOOR * np.nanmax(amounts * least, axis=1, initial=0.0), np.float64)


def bounded(
    model: Family, described: Sequence[dict[str, float]], floor: NDArray[np.float64], resolution: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Value, low and high (n,) of a family's kernels, none below ``floor`` (n,); what is lifted to it is no
    surer for that."""
    mean, deviation = model.regression.predict(described)
    value = np.exp(np.clip(mean, -700, 700))
    reach = model.factor * np.hypot(deviation, rounding(value, resolution))
    value = np.maximum(value, floor)
    return value, np.maximum(value * np.exp(-reach), floor), value * np.exp(np.minimum(reach, 700))


def rounding(value: NDArray[np.float64], resolution: float) -> NDArray[np.float64]:
    """The relative deviation (n,) that rounding to ``resolution`` adds to a reading of ``value`` (n,)."""
    # An error anywhere within half a step either way, all alike likely.
    return resolution / math.sqrt(12) / value


@dataclass(frozen=True, slots=True)
class Total:
    """The energy of a network, with its interval at 90 %."""

    energy_j: float
    low_j: float
    high_j: float


def network_total(
    predictor: Predictor, kernels: Estimates, counts: Sequence[float], beyond_bytes: float = 0.0
) -> Total:
    """A network of ``kernels``, each ``counts`` times, with its overhead.

    Its interval is that of whole networks where the predictor has seen some; else the kernels' intervals
    added up, as if all erred alike.
    """
    times = np.asarray(counts, np.float64)
    sums = [float(np.nansum(each * times)) for each in (kernels.value, kernels.low, kernels.high)]
    amounts = np.array([[sums[0], max(beyond_bytes, 0.0), times.sum(), 1.0]])
    energy_j = float(predictor.overhead.predict(amounts)[0])
    spread = predictor.overhead.spread
    if math.isnan(spread):
        scale = energy_j / sums[0] if sums[0] > 0 else 1.0
        return Total(energy_j, sums[1] * scale, sums[2] * scale)
    return Total(energy_j, energy_j * math.exp(-spread), energy_j * math.exp(spread))
