"""Score tables read from CSV files and from data sets."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.errors import DatasetError, UsageError
from joulemeter.scoring import ScoreTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joulemeter.record import Record

CELL_ERROR = 0.05
"""The relative half width taken for a cell that comes without an interval: the repeatability of a phone's GPU
under an external power monitor, the worst of the processors in such tables."""

NAMES = {
    "device": ("device",),
    "network": ("dnn", "network", "model", "application"),
    "processor": ("processor",),
    "power": ("average_power_w", "power_w"),
    "energy": ("energy_j", "energy_per_inference_j"),
    "task": ("task",),
    "power_low": ("average_power_low_w", "power_low_w"),
    "power_high": ("average_power_high_w", "power_high_w"),
    "energy_low": ("energy_low_j",),
    "energy_high": ("energy_high_j",),
    "time": ("time_s", "latency_s"),
    "time_ms": ("time_ms", "latency_ms"),
    "tdp": ("tdp_consistent_w", "tdp_w", "tdp_printed_w"),
}
"""The columns of a table and, in order of preference, the headings they are known by (in any case)."""

REQUIRED = ("device", "network", "processor", "power", "energy")
_EXAMPLES = {
    REQUIRED: "such as 'Phone A,MobileNetV2,CPU1,2.4,0.11'",
    ("device",): "for each device, with its tdp_w if known",
}
MISSING = {"", "nan", "na", "n/a", "-", "null", "none"}


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One row of ``devices.csv``; NaN where a column is missing. ``tdp_w`` holds every TDP column given."""

    name: str
    tdp_w: dict[str, float]
    pcs_published: float
    iecs_published: float
    accuracy: float
    price: float


@dataclass(frozen=True, slots=True)
class _Cell:
    power: float
    energy: float
    time_s: float
    power_error: float
    energy_error: float


_EMPTY = _Cell(*([math.nan] * 5))


def read_devices(path: Path) -> list[DeviceRow]:
    """The devices of a CSV with ``device`` and ``tdp…_W``; raises DatasetError naming line and column."""
    rows = _rows(path, ("device",))
    names = [row["device"].strip() for _, row in rows]
    _refuse_repeats(path, names, [line for line, _ in rows])
    return [_device(path, line, row) for line, row in rows]


def _device(path: Path, line: int, row: Mapping[str, str]) -> DeviceRow:
    tdp_w = {key: _positive(path, line, row, key) for key in NAMES["tdp"] if key in row}
    others = [
        _number(path, line, row, key) for key in ("pcs_published", "iecs_published", "accuracy", "price")
    ]
    return DeviceRow(row["device"].strip(), tdp_w, *others)


def parse_tdp(texts: Iterable[str]) -> dict[str, float]:
    """Watts by device from ``NAME=15`` or, under the empty name, ``15``; raises UsageError otherwise."""
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            watts = float(value.strip().removesuffix("W"))
        except ValueError as error:
            raise UsageError(f"--tdp '{text}' is no power", "--tdp 15 or --tdp 'NAME=15'") from error
        if not 0 < watts < math.inf:
            raise UsageError(f"--tdp '{text}' is not above zero", "the watts of the device's data sheet")
        found[name.strip()] = watts
    return found


def parse_tasks(texts: Iterable[str]) -> dict[str, str]:
    """Tasks by network from ``DNN1=detection``; raises UsageError otherwise."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, task in pairs:
        if not (name.strip() and equals and task.strip()):
            raise UsageError(f"--task '{name}{equals}{task}' is no NETWORK=TASK", "--task DNN1=detection")
    return {name.strip(): task.strip() for name, _, task in pairs}


def _refuse_repeats(path: Path, names: list[str], lines: list[int]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DatasetError(
                f"{path}, line {lines[place]}: '{name}' stands there twice", "remove one of its rows"
            )


def read_table(
    path: Path,
    devices: Iterable[DeviceRow],
    tdp_w: Mapping[str, float] | None = None,
    cell_error: float = CELL_ERROR,
    tasks: Mapping[str, str] | None = None,
) -> ScoreTable:
    """The score table of a CSV with a row per device, network and processor.

    Blank values are missing cells, as are rows left out. ``tdp_w`` overrides the devices' own, by name or,
    under the empty name, for all. Raises DatasetError naming line and column for anything that is no positive
    number, and for cells given twice.
    """
    rows = _rows(path, REQUIRED)
    known = {device.name: device for device in devices}
    cells: dict[tuple[str, str, str], _Cell] = {}
    for line, row in rows:
        key = (
            _text(path, line, row, "device"),
            _text(path, line, row, "network"),
            _text(path, line, row, "processor"),
        )
        if key in cells:
            raise DatasetError(
                f"{path}, line {line}: {', '.join(key)} stands there twice", "remove one of the rows"
            )
        cells[key] = _cell(path, line, row)
    if not any(_has_value(cell) for cell in cells.values()):
        raise DatasetError(f"{path} holds no value at all", "a table with average_power_W and energy_J")
    given = {
        _get(row, "network").strip(): _get(row, "task").strip()
        for _, row in rows
        if _get(row, "task").strip()
    }
    accuracy = {
        _get(row, "network").strip(): value
        for line, row in rows
        if not math.isnan(value := _number(path, line, row, "accuracy"))
    }
    made = _assembled(cells, known, dict(tdp_w or {}), {**given, **(tasks or {})}, cell_error)
    return replace(made, accuracy=accuracy)


def _has_value(cell: _Cell) -> bool:
    return not (math.isnan(cell.power) and math.isnan(cell.energy))


def _assembled(
    cells: dict[tuple[str, str, str], _Cell],
    known: dict[str, DeviceRow],
    tdp_w: dict[str, float],
    tasks: dict[str, str],
    cell_error: float,
) -> ScoreTable:
    names = tuple(dict.fromkeys([*known, *(device for device, _, _ in cells)]))
    unknown = sorted(set(tdp_w) - {*names, ""})
    if unknown:
        raise UsageError(
            f"--tdp names '{unknown[0]}', which is in neither table", f"one of {', '.join(names)}"
        )
    # A column that nobody has a value in is no cell of the table: nothing is missing there.
    columns = tuple(dict.fromkeys((n, p) for (_, n, p), cell in cells.items() if _has_value(cell)))
    grid = [[cells.get((device, *column), _EMPTY) for column in columns] for device in names]
    arrays = {
        key: np.array([[getattr(cell, key) for cell in row] for row in grid]) for key in _Cell.__slots__
    }
    here = ~(np.isnan(arrays["power"]) & np.isnan(arrays["energy"]))
    assumed = here & (np.isnan(arrays["power_error"]) | np.isnan(arrays["energy_error"]))
    return ScoreTable(
        devices=names,
        cells=columns,
        power_w=arrays["power"],
        energy_j=arrays["energy"],
        time_s=arrays["time_s"],
        power_error=np.where(np.isnan(arrays["power_error"]), cell_error, arrays["power_error"]),
        energy_error=np.where(np.isnan(arrays["energy_error"]), cell_error, arrays["energy_error"]),
        tdp_w=np.array([tdp_w.get(name, tdp_w.get("", _tdp(known.get(name)))) for name in names]),
        tasks=tasks,
        errors_assumed=bool(assumed.any()),
    )


def _tdp(device: DeviceRow | None) -> float:
    return next(iter(device.tdp_w.values()), math.nan) if device else math.nan


def _cell(path: Path, line: int, row: Mapping[str, str]) -> _Cell:
    power, energy = (_positive(path, line, row, key) for key in ("power", "energy"))
    time_s = _positive(path, line, row, "time")
    if math.isnan(time_s):
        time_s = _positive(path, line, row, "time_ms") / 1e3
    errors = (_error(path, line, row, key, value) for key, value in (("power", power), ("energy", energy)))
    return _Cell(power, energy, time_s, *errors)


def _error(path: Path, line: int, row: Mapping[str, str], key: str, value: float) -> float:
    """Half width over value; NaN where the table gives no interval."""
    low, high = (_number(path, line, row, f"{key}_{end}") for end in ("low", "high"))
    if math.isnan(low) or math.isnan(high) or math.isnan(value):
        return math.nan
    if not low <= value <= high:
        raise DatasetError(
            f"{path}, line {line}: {key} {value:g} lies outside its interval {low:g} to {high:g}",
            "the ends of a 95 % interval around the value, or blank",
        )
    return (high - low) / 2 / value


def _rows(path: Path, required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows with lower-case headings; raises DatasetError if the file is no such table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error})", "the path of a CSV file in UTF-8") from error
    reader = csv.reader(text.splitlines())
    heading = [name.strip().lower() for name in next(reader, [])]
    if not any(heading):
        raise DatasetError(
            f"{path} is empty", f"the heading {_usual(required)} and a row {_EXAMPLES[required]}"
        )
    lacking = [key for key in required if not any(name in heading for name in NAMES[key])]
    if lacking:
        names = ", ".join(f"'{NAMES[key][0]}'" for key in lacking)
        raise DatasetError(f"{path} lacks the column {names}", f"a heading such as {_usual(required)}")
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) > len(heading):
            raise DatasetError(
                f"{path}, line {reader.line_num}: {len(values)} values under {len(heading)} headings",
                "quotes around a value that holds a comma",
            )
        rows.append((reader.line_num, dict(zip(heading, values, strict=False))))
    if not rows:
        raise DatasetError(f"{path} has headings but no rows", f"a row {_EXAMPLES[required]}")
    return rows


def _usual(keys: tuple[str, ...]) -> str:
    return ",".join(NAMES[key][0] for key in keys)


def _get(row: Mapping[str, str], key: str) -> str:
    return next((row[name] for name in NAMES.get(key, (key,)) if name in row), "")


def _text(path: Path, line: int, row: Mapping[str, str], key: str) -> str:
    value = _get(row, key).strip()
    if not value:
        raise DatasetError(f"{path}, line {line}: no {key}", "a name in every row")
    return value


def _number(path: Path, line: int, row: Mapping[str, str], key: str) -> float:
    text = _get(row, key).strip()
    if text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError as error:
        raise DatasetError(
            f"{path}, line {line}: {key} is '{text}', no number", "a number, or blank"
        ) from error
    if math.isinf(value):
        raise DatasetError(f"{path}, line {line}: {key} is infinite", "a number, or blank")
    return value


def _positive(path: Path, line: int, row: Mapping[str, str], key: str) -> float:
    value = _number(path, line, row, key)
    if value <= 0:
        raise DatasetError(
            f"{path}, line {line}: {key} is {value:g}", "a number above zero, or blank if not measured"
        )
    return value


def from_datasets(
    folders: Iterable[Path],
    devices: Iterable[DeviceRow] = (),
    tdp_w: Mapping[str, float] | None = None,
    cell_error: float = CELL_ERROR,
    tasks: Mapping[str, str] | None = None,
) -> ScoreTable:
    """The score table of data sets: their applications, or where there are none, their whole networks.

    A record's backend is its processor. Repeats become one cell: the mean, with an interval no narrower than
    the records' own and than their scatter allows. Raises DatasetError where there is nothing to score.
    """
    from joulemeter import dataset

    records = [record for folder in folders for record in dataset.read(folder).records]
    usable = [r for level in ("application", "model") for r in records if r.level == level]
    top = usable[0].level if usable else ""
    grouped: dict[tuple[str, str, str], list[Record]] = {}
    for record in (r for r in usable if r.level == top):
        key = (record.device, record.network or record.name or record.family, record.backend or "default")
        grouped.setdefault(key, []).append(record)
    cells = {key: _cell_of(repeats) for key, repeats in grouped.items()}
    if not any(_has_value(cell) for cell in cells.values()):
        raise DatasetError(
            "no energy of an application or a network stands in these data sets", "joulemeter bench"
        )
    known = {device.name: device for device in devices}
    families = {key[1]: repeats[0].family for key, repeats in grouped.items() if repeats[0].family}
    made = _assembled(cells, known, dict(tdp_w or {}), {**families, **(tasks or {})}, cell_error)
    return replace(made, origin=" and ".join(sorted({r.origin for r in usable if r.level == top})))


def _cell_of(repeats: list[Record]) -> _Cell:
    energies = np.array([record.energy_j for record in repeats])
    powers = np.array([_power(record) for record in repeats])
    times = np.array([record.time_s for record in repeats])
    own = np.array([(record.energy_high_j - record.energy_low_j) / 2 / record.energy_j for record in repeats])
    energy_error = _error_of(energies, own)
    power_error = _error_of(powers, np.where(np.isnan(powers), np.nan, energy_error))
    return _Cell(_mean(powers), _mean(energies), _mean(times), power_error, energy_error)


def _power(record: Record) -> float:
    return record.energy_j / record.time_s if math.isnan(record.power_w) else record.power_w


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _error_of(values: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """Relative half width: the repeats' own on average, or their scatter's 95 % (Student) if wider."""
    from scipy.stats import t

    known, bounds = values[~np.isnan(values)], own[~np.isnan(own)]
    given = float(bounds.mean()) if len(bounds) else math.nan
    if len(known) < 2:
        return given
    scatter = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)) / known.mean())
    return scatter if math.isnan(given) else max(given, scatter)
