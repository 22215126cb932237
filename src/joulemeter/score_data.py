"""Scores as the object that `joulemeter score --json` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from joulemeter import score_flags, scoring
from joulemeter.errors import DatasetError, UsageError
from joulemeter.ledger import number
from joulemeter.score_tables import DeviceRow
from joulemeter.scoring import Score, ScoreTable

NO_TASK_NOTE = (
    "networks without a task are labelled among each other, whatever they do: a column 'task' or --task "
    "NETWORK=TASK compares like with like"
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Everything `joulemeter score` says, in plain lists and numbers; ``data`` is the JSON object."""

    table: ScoreTable
    reference: str
    data: dict[str, Any]


def scored(
    table: ScoreTable,
    devices: Iterable[DeviceRow] = (),
    reference: str | None = None,
) -> Scores:
    """The scores of a table against ``reference`` (None: the first device that has a value)."""
    rows = {device.name: device for device in devices}
    name = reference or _first(table)
    if name not in table.devices:
        raise UsageError(f"the reference '{name}' is not in the table", f"one of {', '.join(table.devices)}")
    at = table.devices.index(name)
    if np.isnan(table.energy_j[at]).all():
        raise UsageError(f"the reference '{name}' has no energy", "--reference with a device that has")
    pcs, iecs = scoring.pcs(table), scoring.iecs(table, at)
    data = {
        "schema": 1,
        "origin": table.origin,
        "reference": name,
        "devices": _devices(table, rows, pcs, iecs, at),
        "networks": [_network(each, table) for each in scoring.networks(table)],
        "cannot_be_told_apart": {
            "pcs": [list(pair) for pair in scoring.tied(table.devices, pcs)],
            "iecs": [list(pair) for pair in scoring.tied(table.devices, iecs)],
        },
        "published": _published(table, rows, iecs, at),
        "notes": _notes(table),
    }
    return Scores(table, name, data)


def _first(table: ScoreTable) -> str:
    with_energy = ~np.isnan(table.energy_j).all(1)
    if not with_energy.any():
        raise DatasetError("no device of the table has an energy", "a table with energy_J")
    return table.devices[int(np.argmax(with_energy))]


def _notes(table: ScoreTable) -> list[str]:
    notes = [] if set(table.tasks) >= {network for network, _ in table.cells} else [NO_TASK_NOTE]
    if not table.errors_assumed:
        return notes
    worst = max(float(np.nanmax(table.power_error)), float(np.nanmax(table.energy_error)))
    return [
        *notes,
        f"cells without an interval are taken as good to ±{worst:.0%}: an assumption, set by --cell-error",
    ]


def _devices(
    table: ScoreTable, rows: Mapping[str, DeviceRow], pcs: list[Score], iecs: list[Score], at: int
) -> list[dict[str, Any]]:
    columns = zip(
        table.devices,
        pcs,
        iecs,
        scoring.coverage(table),
        score_flags.flags(table),
        scoring.ranks(pcs),
        scoring.ranks(iecs),
        scoring.leave_one_out(table, at),
        strict=True,
    )
    return [
        {
            "device": name,
            "pcs": {**_score(p), "rank": list(pcs_rank), **_tdp_sensitivity(table, row, rows.get(name))},
            "iecs": {
                **_score(i),
                "rank": list(iecs_rank),
                "leave_one_network_out": [number(x) for x in left_out],
            },
            "coverage": covered,
            "coverage_by_processor": _by_processor(table, row),
            "missing": _missing(table, row),
            "flags": [asdict(flag) for flag in [*flags, *_not_comparable(table, row, i), *_unbounded(p, i)]],
            "accuracy": number(rows[name].accuracy) if name in rows else None,
            "price": number(rows[name].price) if name in rows else None,
        }
        for row, (name, p, i, covered, flags, pcs_rank, iecs_rank, left_out) in enumerate(columns)
    ]


def _not_comparable(table: ScoreTable, row: int, iecs: Score) -> list[scoring.Flag]:
    """Why a device that has energies has no IECS."""
    if not math.isnan(iecs.value) or np.isnan(table.energy_j[row]).all():
        return []
    return [
        scoring.Flag("no-common-cell", "", "", "shares no cell with the reference, not even through others")
    ]


def _unbounded(pcs: Score, iecs: Score) -> list[scoring.Flag]:
    """Why a device that has a score has no interval."""
    names = [name for name, score in (("PCS", pcs), ("IECS", iecs)) if _has_no_ends(score)]
    detail = f"cells are missing, and too few are shared to say how far they would move {' and '.join(names)}"
    return [scoring.Flag("no-interval", "", "", detail)] if names else []


def _has_no_ends(score: Score) -> bool:
    return not math.isnan(score.value) and math.isnan(score.low)


def _score(score: Score) -> dict[str, float | int | None]:
    value = number(score.value)
    whole = int(value) if value is not None and value == int(value) else value
    return {"value": whole, "low": number(score.low), "high": number(score.high)}


def _tdp_sensitivity(table: ScoreTable, row: int, device: DeviceRow | None) -> dict[str, Any]:
    if math.isnan(table.tdp_w[row]) or np.isnan(table.power_w[row]).all():
        return {"tdp_w": number(float(table.tdp_w[row]))}
    tdp_w = float(table.tdp_w[row])
    others = {
        key: value
        for key, value in (device.tdp_w if device else {}).items()
        if value not in (tdp_w, math.nan)
    }
    return {
        "exact": scoring.pcs_exact(table, row, 1.0),
        "tdp_w": tdp_w,
        "tdp_minus_10_percent": scoring.pcs_exact(table, row, 0.9),
        "tdp_plus_10_percent": scoring.pcs_exact(table, row, 1.1),
        "other_tdp": {
            key: {"tdp_w": value, "value": scoring.pcs_exact(table, row, value / tdp_w)}
            for key, value in others.items()
            if not math.isnan(value)
        },
    }


def _by_processor(table: ScoreTable, row: int) -> dict[str, dict[str, int]]:
    both = ~np.isnan(table.power_w[row]) & ~np.isnan(table.energy_j[row])
    counts: dict[str, dict[str, int]] = {}
    for (_, processor), here in zip(table.cells, both, strict=True):
        entry = counts.setdefault(processor, {"cells": 0, "missing": 0})
        entry["cells"] += 1
        entry["missing"] += int(not here)
    return counts


def _missing(table: ScoreTable, row: int) -> list[dict[str, Any]]:
    return [
        {"network": network, "processor": processor, "lacks": lacks}
        for column, (network, processor) in enumerate(table.cells)
        if (lacks := [k for k in ("power_w", "energy_j") if math.isnan(getattr(table, k)[row, column])])
    ]


def _network(network: scoring.Network, table: ScoreTable) -> dict[str, Any]:
    return {
        "network": network.name,
        "task": network.task,
        "energy_per_inference": network.energy.to_json(),
        "times_task_mean": number(network.ratio),
        "accuracy": table.accuracy.get(network.name),
        "label": network.label,
        "label_best": network.best,
        "label_worst": network.worst,
    }


def _published(
    table: ScoreTable, rows: Mapping[str, DeviceRow], iecs: list[Score], at: int
) -> dict[str, Any] | None:
    """How the scores agree with published ones; None where the devices' table gives none."""
    ours = np.array([score.value for score in iecs])
    mended = np.array([score.value for score in scoring.iecs(score_flags.mended(table), at)])
    theirs = np.array([rows[name].iecs_published if name in rows else math.nan for name in table.devices])
    if np.isnan(theirs).all():
        return None
    return {
        "iecs_pearson": number(scoring.pearson(ours, theirs)),
        "iecs_pearson_misprints_mended": number(scoring.pearson(mended, theirs)),
        "pcs": {name: number(rows[name].pcs_published) for name in table.devices if name in rows},
        "iecs": {name: number(rows[name].iecs_published) for name in table.devices if name in rows},
    }
