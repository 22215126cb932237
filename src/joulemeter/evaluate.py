"""Fits on one data set and tests on another: kernels by family, and whole networks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joulemeter.accuracy import Accuracy, measure
from joulemeter.dataset import Dataset
from joulemeter.errors import DatasetError
from joulemeter.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from joulemeter.models.predictor import Predictor

NETWORK = "network"
"""Whole networks stand under this name beside the families of kernels."""

NEVER_RUN = "network (never run)"
"""Their name where NETWORK is what readings of their run say: foreseen from structure alone."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy by family and over all; ``notes`` say what was left out or is doubtful."""

    families: dict[str, Accuracy]
    overall: Accuracy
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that ``joulemeter evaluate --json`` prints: fractions, null where unknown."""
        return {
            "families": {name: accuracy.to_json() for name, accuracy in self.families.items()},
            "overall": self.overall.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Tested:
    """Rows tested: the name they count under, what was measured, foreseen, and the interval's ends."""

    names: list[str]
    true: list[float]
    value: list[float]
    low: list[float]
    high: list[float]


def evaluate(train: Dataset, test: Dataset, progress: Callable[[str], None] | None = None) -> Evaluation:
    """The accuracy on ``test`` of a predictor that has seen ``train`` alone.

    Raises DatasetError where ``train`` has nothing to learn from, or ``test`` nothing to test.
    """
    from joulemeter.models import learning

    return assess(learning.fit(train.records, progress), test, train.records)


def assess(predictor: Predictor, test: Dataset, train: Sequence[Record] = ()) -> Evaluation:
    """The accuracy of ``predictor`` on the kernels and networks of ``test``.

    Where networks of ``test``, and the records in ``train``, carry readings that software took of their run,
    whole networks are predicted from those (see models/wall.py), and beside it from structure alone.
    """
    notes = [f"left out: {each}" for each in test.left_out]
    others = [name for name in test.devices if name != predictor.device]
    if others:
        notes.append(
            f"another device: learnt on '{predictor.device}', tested on {', '.join(map(repr, others))}; "
            "the errors are also those between the two"
        )
    tested = _Tested([], [], [], [], [])
    _kernels(predictor, test, tested, notes)
    ran = _runs(train, test.records, tested, notes)
    _networks(predictor, test, tested, notes, NEVER_RUN if ran else NETWORK)
    if not tested.names:
        raise DatasetError(
            f"{test.name}: holds no kernel and no network with an energy to test on",
            "--test with one that `joulemeter bench -o FOLDER` made",
        )
    return _summed(tested, notes)


def _kernels(predictor: Predictor, test: Dataset, tested: _Tested, notes: list[str]) -> None:
    from joulemeter.models.plausibility import implausible_power

    kernels = [record for record in test.records if record.level == "kernel" and record.energy_j > 0]
    left = sum(record.level == "kernel" for record in test.records) - len(kernels)
    if left:
        notes.append(f"{left} kernel(s) without an energy above zero left out")
    wrong = implausible_power(kernels)
    if wrong:
        said = ", ".join(f"{_name(kernels[i])} {kernels[i].facts.get('id', '')}".strip() for i in wrong[:5])
        notes.append(f"{len(wrong)} kernel(s) of impossible power left out: {said}")
    kernels = [record for i, record in enumerate(kernels) if i not in set(wrong)]
    if not kernels:
        return
    made = predictor.predict([r.kernel for r in kernels], [r.work for r in kernels])
    strange = sorted({_name(r) for r, own in zip(kernels, made.own, strict=True) if not own})
    if strange:
        notes.append(f"families never learnt, priced by the pooled model: {', '.join(strange)}")
    unpriced = sum(map(math.isnan, made.value))
    if unpriced:
        notes.append(f"{unpriced} kernel(s) could not be priced and are left out")
    for record, value, low, high in zip(kernels, made.value, made.low, made.high, strict=True):
        _add(tested, _name(record), record.energy_j, float(value), float(low), float(high))


def _runs(train: Sequence[Record], test: Sequence[Record], tested: _Tested, notes: list[str]) -> bool:
    """Whole networks from readings of their run; false where there are none, or none to learn from."""
    import numpy as np

    from joulemeter.models import wall

    known = [record for record in train if record.network and _was_read(record)]
    asked = [record for record in test if record.level == "model" and _was_read(record)]
    names, network = np.unique([record.network for record in known], return_inverse=True)
    if not asked or len(names) < wall.FEWEST:
        return False
    energy_j = np.array([record.energy_j for record in known])
    whole = np.array([record.level == "model" for record in known])
    found = wall.fit(_readings(known), energy_j, np.asarray(network, np.int64), whole)
    for record, value, low, high in zip(asked, *found.predict(_readings(asked)), strict=True):
        _add(tested, NETWORK, record.energy_j, float(value), float(low), float(high))
    notes.append(
        f"'{NETWORK}' is predicted from software's readings of the run (time, GPU energy, processor load), "
        f"not from the wall meter; '{NEVER_RUN}' from structure alone, and it is not in the overall figures"
    )
    return True


def _was_read(record: Record) -> bool:
    return record.energy_j > 0 and record.time_s > 0 and {"gpu_energy_mean", "cpu"} <= set(record.facts)


def _readings(records: Sequence[Record]) -> NDArray[np.float64]:
    import numpy as np

    from joulemeter.models import wall

    rows = [(r.time_s, float(r.facts["cpu"]) / 100, float(r.facts["gpu_energy_mean"])) for r in records]
    return wall.amounts(*np.array(rows).T)


def _networks(predictor: Predictor, test: Dataset, tested: _Tested, notes: list[str], name: str) -> None:
    import numpy as np

    from joulemeter.models import learning

    networks, amounts = learning.network_amounts(predictor, test.records)
    present = sum(record.level == "model" for record in test.records)
    if present > len(networks):
        notes.append(
            f"{present - len(networks)} network(s) left out: none of their kernels are in the data set"
        )
    values = predictor.overhead.predict(amounts)
    reach = float(np.exp(predictor.overhead.spread))
    for record, value in zip(networks, values, strict=True):
        _add(tested, name, record.energy_j, float(value), float(value) / reach, float(value) * reach)


def _name(record: Record) -> str:
    """The name the data set itself uses for the family."""
    return record.name or record.family


def _add(tested: _Tested, name: str, true: float, value: float, low: float, high: float) -> None:
    for column, figure in zip(
        (tested.true, tested.value, tested.low, tested.high), (true, value, low, high), strict=True
    ):
        column.append(figure)
    tested.names.append(name)


def _summed(tested: _Tested, notes: list[str]) -> Evaluation:
    import numpy as np

    columns = [np.array(c) for c in (tested.true, tested.value, tested.low, tested.high)]
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(tested.names):
        rows[name].append(i)
    families = {name: measure(*_taken(columns, mine)) for name, mine in sorted(rows.items())}
    counted = [i for i, name in enumerate(tested.names) if name != NEVER_RUN]
    return Evaluation(families, measure(*_taken(columns, counted)), tuple(notes))


def _taken(
    columns: list[NDArray[np.float64]], rows: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    true, value, low, high = (column[rows] for column in columns)
    return true, value, low, high
