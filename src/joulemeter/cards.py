"""What a path holds that is no run: a data set, a predictor, an energy model or scores, as a card to show."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.errors import DatasetError
from joulemeter.record import Record
from joulemeter.units import joules, seconds

if TYPE_CHECKING:
    from joulemeter.models.hierarchy.energy import EnergyModel

MOST_POINTS = 400
"""Points of a data set's plot; of more records, evenly spaced ones are drawn."""

MOST_TOLD = 1000.0
"""The share above which only "over" is said."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of texts."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A record in a plot of energy against work; ``low_j`` and ``high_j`` bound its energy."""

    name: str
    flops: float
    energy_j: float
    low_j: float
    high_j: float


@dataclass(frozen=True, slots=True)
class Card:
    """What something holds, and how far to trust it."""

    title: str
    kind: str
    origin: str
    facts: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    points: tuple[Point, ...] = ()


def card_of(path: Path) -> Card | None:
    """The card of what ``path`` holds; None where it is nothing that has one (a run has a report).

    Raises DatasetError or PredictorError where it is one of them and damaged.
    """
    from joulemeter import dataset

    if dataset.is_dataset(path):
        return _dataset_card(path)
    if zipfile.is_zipfile(path):
        return _predictor_card(path)
    data = _json_object(path)
    if data is not None and data.get("kind") == "memory-hierarchy energy model":
        return _energy_model_card(path)
    return None


def scores_of(path: Path) -> dict[str, Any] | None:
    """The scores in ``path``, as `joulemeter score --json` printed them; None where there are none."""
    data = _json_object(path)
    if data is None or "cannot_be_told_apart" not in data:
        return None
    missing = [
        key for key in ("schema", "devices", "networks", "reference", "origin", "notes") if key not in data
    ]
    if missing:
        raise DatasetError(
            f"{path}: scores without '{missing[0]}'", "joulemeter score --json, to make them anew"
        )
    if data["schema"] != 1:
        raise DatasetError(f"{path}: scores of schema {data['schema']}, this reads 1", "a newer joulemeter")
    return data


def _json_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


# ── data sets ────────────────────────────────────────────────────────────────────────────────────────


def _dataset_card(path: Path) -> Card:
    from joulemeter import dataset

    found = dataset.read(path)
    records = found.records
    facts = [f"{len(records):,} records, {len({record.key for record in records}):,} configurations"]
    facts += [f"devices: {', '.join(found.devices)}"] if found.devices else []
    facts += [f"backends: {', '.join(sorted({r.backend for r in records if r.backend}))}"] if records else []
    throttled = sum(record.throttled is True for record in records)
    facts += [f"{throttled} records were taken while the device throttled"] if throttled else []
    facts += [f"left out: {each}" for each in found.left_out]
    origin = " and ".join(sorted({record.origin for record in records})) or "unknown"
    sheets = (_by_family(records), _by_device(records))
    if records and all(record.level == "run" for record in records):
        return Card(
            found.name, "sweep", origin, (*facts, *_sweep_facts(records)), (_by_axis(records), *sheets)
        )
    return Card(found.name, "data set", origin, tuple(facts), sheets, _points(records))


AXES = (
    "dataset", "shape", "depth", "size", "learning_rate", "batch_size", "optimizer", "threads", "dtype",
    "epochs",
)  # fmt: skip
"""The axes of a sweep, as its records name them."""


def _sweep_facts(records: Sequence[Record]) -> list[str]:
    failed = sum(record.facts.get("status") == "failed" for record in records)
    energy = _known(record.energy_j for record in records)
    said = [f"{failed} of {len(records)} runs failed"] if failed else ["no run failed"]
    said += [f"{joules(float(energy.sum()))} in all, of {len(energy)} runs with a known energy"]
    stands = sum(record.facts.get("data") == "stand-in" for record in records)
    return said + ([f"{stands} runs on stand-ins: their losses mean nothing"] if stands else [])


def _by_axis(records: Sequence[Record]) -> Sheet:
    """Energy of a run at each value of the axes that vary; how axes act together is the energy model's."""
    rows = []
    for axis in AXES:
        groups = _grouped(records, lambda r, axis=axis: (axis, str(r.facts.get(axis, "(none)"))))  # type: ignore[misc]
        if len(groups) > 1:
            rows += [
                (axis, value, *_figures(groups[axis, value])) for _, value in sorted(groups, key=_in_order)
            ]
    heads = ("Axis", "Value", "Runs", *_FIGURES[1:])
    return Sheet("Energy of one run by each axis that varies", heads, tuple(rows))


def _in_order(group: tuple[str, str]) -> tuple[float, str]:
    """Numbers by size, words by the alphabet after them."""
    try:
        return float(group[1]), ""
    except ValueError:
        return math.inf, group[1]


_FIGURES = ("Records", "With energy", "Median energy", "From", "To", "Median interval", "Median time")


def _by_family(records: Sequence[Record]) -> Sheet:
    groups = _grouped(records, lambda r: (r.level, r.family or "(none)"))
    rows = tuple((level, family, *_figures(group)) for (level, family), group in sorted(groups.items()))
    heads = ("Level", "Family", *_FIGURES)
    return Sheet("Energy of one execution by level and family", heads, rows)


def _by_device(records: Sequence[Record]) -> Sheet:
    groups = _grouped(records, lambda r: (r.device or "(none)", r.origin))
    rows = tuple((device, origin, *_figures(group)) for (device, origin), group in sorted(groups.items()))
    heads = ("Device", "Origin", *_FIGURES)
    return Sheet("Energy of one execution by device and origin", heads, rows)


def _grouped(
    records: Iterable[Record], key: Callable[[Record], tuple[str, str]]
) -> dict[tuple[str, str], list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _figures(group: Sequence[Record]) -> tuple[str, ...]:
    energy = _known(record.energy_j for record in group)
    half = _known(
        (record.energy_high_j - record.energy_low_j) / 2 / record.energy_j
        for record in group
        if record.energy_j
    )
    times = _known(record.time_s for record in group)
    spread = (joules(float(f(energy))) if len(energy) else "unknown" for f in (np.median, np.min, np.max))
    width = f"±{_percent(float(np.median(half)))}" if len(half) else "unknown"
    took = seconds(float(np.median(times))) if len(times) else "unknown"
    return f"{len(group):,}", f"{len(energy):,}", *spread, width, took


def _known(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([value for value in values if not math.isnan(value)], np.float64)


def _points(records: Sequence[Record]) -> tuple[Point, ...]:
    usable = [r for r in records if r.flops > 0 and r.energy_j > 0]
    step = max(1, math.ceil(len(usable) / MOST_POINTS))
    return tuple(
        Point(f"{r.network or r.family} on {r.device}", r.flops, r.energy_j, r.energy_low_j, r.energy_high_j)
        for r in usable[::step]
    )


# ── predictors ───────────────────────────────────────────────────────────────────────────────────────

_ACCURACY = (
    ("Predictions", "n"),
    ("RMSPE", "rmspe"),
    ("MAPE", "mape"),
    ("Median error", "median_ape"),
    ("Within 10 %", "within_10"),
    ("90 % intervals hold", "coverage_90"),
    ("Their width", "width_90"),
    ("Error by energy", "energy_weighted_mape"),
)


def _predictor_card(path: Path) -> Card:
    from joulemeter import predictor_file, pricing

    predictor = predictor_file.load(path)
    facts = [f"of device {predictor.device}, backend {predictor.backend or 'unknown'}"]
    facts += [f"{key}: {value}" for key, value in predictor.facts.items() if key != pricing.FACT]
    rows = tuple(
        (name, *(_accuracy(accuracy.to_json()[key], key) for _, key in _ACCURACY))
        for name, accuracy in predictor.card.items()
    )
    heads = ("Family", *(name for name, _ in _ACCURACY))
    sheet = Sheet("Cross-validated: each configuration was predicted without having been seen", heads, rows)
    return Card(
        path.name, "predictor", f"predicted, from {predictor.origin} energies", tuple(facts), (sheet,)
    )


def _accuracy(value: float | None, key: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if key == "n" else _percent(value)


def _percent(share: float) -> str:
    """A share as it is printed; far beyond the double nobody needs the digits."""
    if share > MOST_TOLD:
        return f"over {100 * MOST_TOLD:,.0f} %"
    return f"{100 * share:,.{0 if share >= 10 else 1}f} %"


def _energy_model_card(path: Path) -> Card:
    from joulemeter import energy_model

    fitted = energy_model.load(path)
    rows = tuple(
        (
            name,
            f"{model.runs:,}",
            ", ".join(level.name for level in model.levels),
            f"{100 * math.expm1(model.low):+.0f} % to {100 * math.expm1(model.high):+.0f} %",
        )
        for name, model in fitted.models.items()
    )
    heads = ("Device", "Runs", "Memory levels", "90 % of errors")
    facts = tuple(f"left out: {each}" for each in fitted.left_out)
    sheets = (Sheet("Fitted", heads, rows), _choices(fitted.models))
    return Card(path.name, "energy model", f"predicted, from {fitted.origin} energies", facts, sheets)


def _choices(models: Mapping[str, EnergyModel]) -> Sheet:
    """What each form of the model would have erred by; the best of a device was taken."""
    rows = tuple(
        (name, choice, _percent(error))
        for name, model in models.items()
        for choice, error in sorted(model.validated.items(), key=lambda each: each[1])
    )
    return Sheet("Validated in folds within the fitted runs", ("Device", "Choice", "Mean error"), rows)
