"""Runs read from files: the layout of the published study's table, or a sweep's Parquet data set.

Columns are known by either name: ``energy_j`` or ``std_energy_J``, ``time_s`` or ``run_time_s``. Inputs,
outputs and rows may be missing where ``dataset`` is one of the study's. What cannot be used is left out
and counted, never guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import butter, dataset, storage, topology
from joulemeter.device import MemoryLevel
from joulemeter.errors import DatasetError, UsageError
from joulemeter.models.hierarchy.training import Runs, Training
from joulemeter.record_columns import Column, column_of, combinations, flat
from joulemeter.storage import Where
from joulemeter.training_data import STAND_IN

if TYPE_CHECKING:
    import pyarrow

Array = np.ndarray[Any, Any]
Levels = dict[str, tuple[MemoryLevel, ...]]

ENERGY = ("std_energy_J", "energy_j")
TIME = ("run_time_s", "time_s")
LOSS = ("test_loss", "loss")
FINISHED = ("", "done", "ok", "finished", "complete", "completed", "success")
CONFIGURATION = (
    "dataset",
    "shape",
    "size",
    "depth",
    "inputs",
    "outputs",
    "rows",
    "batch_size",
    "epochs",
    "widths",
)
READ = (*CONFIGURATION, *ENERGY, *TIME, *LOSS, "device", "threads", "dtype", "status", "origin", "data")


@dataclass(frozen=True)
class Table:
    """Runs, and whether they are in the study's layout, hence on the study's nodes."""

    runs: Runs
    published: bool


def read(path: Where) -> Table:
    """The runs in a CSV or Parquet file, or in a data set or folder of Parquet parts; data sets may be URLs.

    Raises DatasetError where the file is not there, lacks a column or holds no usable run.
    """
    table = _arrow(path)
    if not table.num_rows:
        raise DatasetError(f"{path}: holds no runs", "joulemeter sweep PLAN -o DATASET")
    names = set(table.column_names)
    missing = [name for name in ("device", "dataset", "shape", "size", "depth") if name not in names]
    missing += [ENERGY[1]] if not names & set(ENERGY) else []
    if missing:
        raise DatasetError(
            f"{path}: lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            "a file in the layout of docs/energy-model.md",
        )
    columns = {name: column_of(table, name) for name in table.column_names if name in READ}
    runs = _runs(columns, table.num_rows)
    if not len(runs):
        raise DatasetError(
            f"{path}: no usable run ({'; '.join(runs.left_out)})",
            "runs that finished, have an energy, and name a known data set or its rows, inputs and outputs",
        )
    return Table(runs, ENERGY[0] in names)


def levels_of(table: Table, given: Sequence[str] = ()) -> Levels:
    """Memory levels of each device: given as ``DEVICE=L1:32768,…,DRAM``, the study's node, or this host.

    Raises UsageError where a description does not parse.
    """
    found: Levels = dict(parse_levels(text) for text in given)
    for device in table.runs.devices:
        if device in found:
            continue
        if table.published and device in butter.NODES:
            found[device] = butter.NODES[device]
        else:
            found[device] = _of_this_host(device)
    return found


def parse_levels(text: str) -> tuple[str, tuple[MemoryLevel, ...]]:
    """``cpu=L1:32768,L2:1048576,DRAM`` as a device and its levels; the last level needs no size."""
    device, _, rest = text.partition("=")
    try:
        parts = [part.partition(":") for part in rest.split(",")]
        levels = [MemoryLevel(name.strip(), float(size)) for name, _, size in parts[:-1]]
    except ValueError:
        raise UsageError(f"'{text}' does not say memory levels", "cpu=L1:32768,L2:1048576,DRAM") from None
    if not device or not parts[-1][0].strip():
        raise UsageError(f"'{text}' does not say memory levels", "cpu=L1:32768,L2:1048576,DRAM")
    return device.strip(), (*levels, MemoryLevel(parts[-1][0].strip(), float("inf")))


def _of_this_host(device: str) -> tuple[MemoryLevel, ...]:
    from joulemeter import host

    own = device.startswith("cuda")
    levels = host.device(device if own else "cpu", measure=False).levels
    return (*levels[:-1], MemoryLevel("device memory" if own else "DRAM", math.inf))


def _arrow(where: Where) -> pyarrow.Table:
    import pyarrow
    import pyarrow.csv

    if storage.is_url(where) or dataset.is_dataset(where):
        return flat(dataset.table(where), READ)
    path = Path(where)
    try:
        if path.is_dir():
            parts = [_parquet(part) for part in sorted(path.rglob("*.parquet"))]
            if not parts:
                raise DatasetError(f"{path}: has no Parquet part", "the folder that a sweep wrote")
            return flat(pyarrow.concat_tables(parts, promote_options="permissive"), READ)
        if path.suffix == ".parquet":
            return flat(_parquet(path), READ)
        return pyarrow.csv.read_csv(path)
    except FileNotFoundError:
        raise DatasetError(f"{path}: is not there", "joulemeter sweep PLAN -o DATASET") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error})", "a CSV or Parquet file, or the folder that a sweep wrote"
        ) from error


Columns = dict[str, Column]


def _parquet(path: Path) -> pyarrow.Table:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read(use_threads=False)  # apache/arrow#34314


def _number(columns: Columns, names: Sequence[str], length: int) -> Array:
    for name in names:
        if name in columns:
            column = columns[name]
            values = column.distinct
            if values.dtype.kind == "U":
                values = np.array([float(text) if text else np.nan for text in values])
            return np.asarray(values.astype(float)[column.codes])
    return np.full(length, np.nan)


def _runs(columns: Columns, length: int) -> Runs:
    energy, time = _number(columns, ENERGY, length), _number(columns, TIME, length)
    finished = np.ones(length, dtype=bool)
    if "status" in columns:
        finished = np.isin(columns["status"].distinct, FINISHED)[columns["status"].codes]
    counted = np.isfinite(energy) & (energy > 0)
    trainings, which, unknown = _trainings(columns, length)
    known = which >= 0
    keep = finished & counted & known
    loss, meaningless = _losses(columns, keep)
    left_out = [
        *_saying(~finished, "did not finish"),
        *_saying(finished & ~counted, "have no energy above zero"),
        *[f"{count} runs: {reason}" for reason, count in sorted(unknown.items())],
        *([f"the losses of {meaningless} runs on stand-in data: they mean nothing"] if meaningless else []),
    ]
    origins = np.unique(columns["origin"].rows[keep]) if "origin" in columns else np.array([])
    used, index = np.unique(which[keep], return_inverse=True)
    return Runs(
        tuple(trainings[int(k)] for k in used),
        index.astype(np.int64),
        _devices(columns)[keep],
        energy[keep],
        np.where(time > 0, time, np.nan)[keep],
        loss[keep],
        "+".join(str(origin) for origin in origins)
        or ("measured" if ENERGY[0] in columns else "unknown origin"),
        tuple(left_out),
    )


def _losses(columns: Columns, keep: Array) -> tuple[Array, int]:
    """The loss of each row, and how many of those that are kept were taken away: they are of made-up rows."""
    loss = _number(columns, LOSS, len(keep))
    if "data" not in columns:
        return loss, 0
    stand_in = columns["data"].rows == STAND_IN
    return np.where(stand_in, np.nan, loss), int((stand_in & keep & np.isfinite(loss)).sum())


def _devices(columns: Columns) -> Array:
    """The device of each row; where threads or dtypes differ, one device each: ``cpu, 2 threads``."""
    names = columns["device"].rows.astype(str)
    for column, ending in (("threads", " threads"), ("dtype", "")):
        if column not in columns or len(np.unique(columns[column].codes)) < 2:
            continue
        values = columns[column].distinct
        texts = [
            f", {value:g}{ending}" if values.dtype.kind == "f" else f", {value}{ending}" for value in values
        ]
        names = np.char.add(names, np.array(texts)[columns[column].codes])
    return np.asarray(names)


def _saying(rows: Array, reason: str) -> list[str]:
    return [f"{int(rows.sum())} runs {reason}"] if rows.any() else []


def _trainings(columns: Columns, length: int) -> tuple[list[Training], Array, dict[str, int]]:
    """The distinct trainings, each row's index into them (−1: not one), and why rows are not one."""
    first, which = combinations([columns[name] for name in CONFIGURATION if name in columns], length)
    counts = np.bincount(which, minlength=len(first))
    trainings: list[Training] = []
    place = np.full(len(first), -1)
    unknown: dict[str, int] = {}
    for k, row in enumerate(first):
        values = {
            name: columns[name].distinct[columns[name].codes[row]]
            for name in CONFIGURATION
            if name in columns
        }
        try:
            training = _training(values)
        except (UsageError, ValueError, OverflowError) as error:
            reason = error.fact if isinstance(error, UsageError) else str(error)
            unknown[reason] = unknown.get(reason, 0) + int(counts[k])
            continue
        place[k] = len(trainings)
        trainings.append(training)
    return trainings, place[which], unknown


def _training(values: dict[str, Any]) -> Training:
    dataset = str(values["dataset"])
    facts = butter.DATASETS.get(dataset)
    have = {name: _integer(values.get(name)) for name in ("inputs", "outputs", "rows")}
    if None in have.values():
        if facts is None:
            raise UsageError(
                f"the data set '{dataset}' is not known and its inputs, outputs or rows are not given",
                "the columns inputs, outputs and rows",
            )
        have = {name: value or getattr(facts, name) for name, value in have.items()}
    inputs, outputs, rows = (int(have[name] or 0) for name in ("inputs", "outputs", "rows"))
    shape, depth, size = str(values["shape"]), int(values["depth"]), int(values["size"])
    text = str(values.get("widths") or "")
    widths = json.loads(text) if text else None
    if widths is None:
        widths = topology.solve(shape, depth=depth, size=size, inputs=inputs, outputs=outputs).widths
    return Training(
        dataset=dataset,
        shape=shape,
        size=size,
        depth=depth,
        inputs=inputs,
        outputs=outputs,
        widths=tuple(int(width) for width in widths),
        rows=rows,
        batch_size=_integer(values.get("batch_size")) or butter.BATCH_SIZE,
        epochs=_integer(values.get("epochs")) or butter.EPOCHS,
    )


def _integer(value: Any) -> int | None:
    if value is None or value == "" or math.isnan(float(value)):
        return None
    return int(float(value))
