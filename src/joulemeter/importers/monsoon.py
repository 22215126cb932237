"""A power monitor's log beside a log of inferences, both on a phone: ``…power.csv`` and ``…inference.csv``.

What such logs get wrong is mended here, and said: stamps in another unit than their column says, stamps of
the host's reads (bursts) in place of the samples', empty columns, two clocks that differ, warm-up blocks.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

from joulemeter.errors import DatasetError
from joulemeter.importers import TABLE, Imported, head, number
from joulemeter.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAYOUT = "Monsoon power log (Time, Main(mA), Main Voltage(V))"
_BURST = 10.0
"""A step this many times the mean step is the host's pause between two reads."""
_STEP_S = 0.005
_REACH_S = 2.0
"""The two clocks are taken to differ by no more than this: one was set to whole seconds."""


def recognises(path: Path) -> bool:
    """A CSV with a column of milliamperes and one of volts."""
    columns = head(path).split("\n")[0]
    return "(mA)" in columns and "(V)" in columns


def read(path: Path) -> Imported:
    """One record an inference of the last (timed) block; what was mended stands in the notes."""
    import numpy as np

    notes: list[str] = []
    t_s, power_w = _samples(path, notes)
    start_s, end_s, first = _inferences(path, notes)
    lag_s = _lag(t_s, power_w, start_s, end_s, first)
    notes.append(
        f"the power log runs {lag_s * 1e3:.0f} ms after the inference log (estimated); moved by that"
    )
    energy_j = np.concatenate([[0.0], np.cumsum(power_w[1:] * np.diff(t_s))])
    idle_w = _idle(t_s - lag_s, power_w, start_s, end_s)
    timed = slice(first, None)
    spent = np.interp(np.array([start_s[timed], end_s[timed]]) + lag_s, t_s, energy_j)
    pairs = zip(start_s[timed], end_s[timed], spent[1] - spent[0], strict=True)
    records = [_record(path, end - start, joules, idle_w) for start, end, joules in pairs if end > start]
    return Imported(tuple(records), notes=tuple(notes))


def _record(path: Path, time_s: float, energy_j: float, idle_w: float) -> Record:
    return Record(
        level="model",
        family="network",
        name="network",
        network=path.name.split("_power")[0],
        origin="measured",
        time_s=float(time_s),
        power_w=float(energy_j / time_s),
        idle_power_w=idle_w,
        energy_j=float(energy_j),
        net_energy_j=float(energy_j - idle_w * time_s),
        source=path.name,
    )


def _rows(path: Path) -> list[list[str]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: is not there", "put the log of inferences beside the power log"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error})", TABLE) from error


def _samples(path: Path, notes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times in seconds, one uniform step apart, and watts."""
    import numpy as np

    names, *rows = _rows(path)
    if "" in names:
        notes.append("an empty column (a trailing comma) was left out")
    at = [i for i, name in enumerate(names) if name][:3]
    table = np.array([[number(row[i]) if i < len(row) else math.nan for i in at] for row in rows])
    good = np.isfinite(table).all(1)
    if good.sum() < 2:
        raise DatasetError(f"{path}: holds no samples", "a power log with rows of time, mA and V")
    if not good.all():
        notes.append(f"{int((~good).sum())} sample(s) that are no numbers were left out")
    stamp, milliamperes, volts = table[good].T
    return _uniform(_seconds(stamp, names[at[0]], notes), notes), milliamperes * volts / 1e3


def _seconds(stamp: NDArray[np.float64], name: str, notes: list[str]) -> NDArray[np.float64]:
    """Stamps since 1970 tell their unit by their size: seconds are 10 digits, milliseconds 13, and so on."""
    digits = math.floor(math.log10(max(abs(float(stamp[0])), 1.0))) + 1
    units = {10: ("s", 1.0), 13: ("ms", 1e-3), 16: ("µs", 1e-6), 19: ("ns", 1e-9)}
    said = next((unit for unit in ("ms", "us", "µs", "ns") if f"({unit})" in name), "s")
    unit, scale = units.get(digits, (said, {"ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "s": 1.0}[said]))
    if unit != said:
        notes.append(f"the column '{name}' holds {unit}, not {said}")
    return stamp * scale


def _uniform(t_s: NDArray[np.float64], notes: list[str]) -> NDArray[np.float64]:
    """A uniform time base where the stamps come in bursts; the stamps themselves where they do not."""
    import numpy as np

    step = np.diff(t_s)
    pauses = int((step > _BURST * step.mean()).sum())
    if pauses == 0 or float(np.median(step)) > 0.5 * step.mean():
        return t_s
    index = np.arange(len(t_s))
    slope, first = np.polyfit(index, t_s - t_s[0], 1)
    notes.append(
        f"the stamps are those of {pauses + 1} reads by the host (bursts of {len(t_s) / (pauses + 1):.0f}): "
        f"spread evenly, {1 / slope:.0f} samples a second"
    )
    return np.asarray(t_s[0] + first + slope * index, np.float64)


def _inferences(path: Path, notes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Starts and ends in seconds, and the first row of the timed block: where the index starts again."""
    import numpy as np

    beside = path.with_name(path.name.removesuffix(".gz").replace("power", "inference"))
    names, *rows = _rows(beside)
    try:
        at = [names.index(name) for name in ("inference_index", "start_us", "end_us")]
    except ValueError as error:
        raise DatasetError(
            f"{beside}: lacks inference_index, start_us or end_us", "a log with these three in its first line"
        ) from error
    table = np.array([[number(row[i]) for i in at] for row in rows if len(row) > max(at)]).reshape(-1, 3)
    table = table[np.isfinite(table).all(1)]
    if len(table) == 0:
        raise DatasetError(f"{beside}: holds no inference", "a log with a row for each inference")
    first = int(np.flatnonzero(table[:, 0] == table[0, 0])[-1])
    if first:
        notes.append(f"{first} inference(s) of a warm-up block were left out")
    return table[:, 1] * 1e-6, table[:, 2] * 1e-6, first


def _lag(
    t_s: NDArray[np.float64],
    power_w: NDArray[np.float64],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    timed: int,
) -> float:
    """How far the power log is behind, in steps of 5 ms: where one level before, one in the warm-up block and
    one in the timed block (from row ``timed`` on) explain the power best (least squares)."""
    import numpy as np

    width = max(1, round(_STEP_S / float(np.mean(np.diff(t_s)))))
    count = len(t_s) // width
    centre = t_s[: count * width].reshape(count, width).mean(1)
    power = power_w[: count * width].reshape(count, width).mean(1)
    blocks = (
        [(start_s[0], end_s[-1])]
        if timed == 0
        else [(start_s[0], start_s[timed]), (start_s[timed], end_s[-1])]
    )

    def misfit(lag_s: float) -> float:
        """Squares left over where the stamps lag by ``lag_s``."""
        inside = [(centre - lag_s >= low) & (centre - lag_s < high) for low, high in blocks]
        after = centre - lag_s >= blocks[-1][1]
        design = np.stack([np.ones(count), *inside, after], 1).astype(float)
        return float(((power - design @ np.linalg.lstsq(design, power, rcond=None)[0]) ** 2).sum())

    lags = np.arange(-_REACH_S, _REACH_S, _STEP_S)
    whole = [lag for lag in lags if t_s[0] <= start_s[0] + lag and end_s[-1] + lag <= t_s[-1]]
    if not whole:
        raise DatasetError("the power log does not cover the inferences", "a longer log of the same run")
    return float(min(whole, key=misfit))


def _idle(
    t_s: NDArray[np.float64],
    power_w: NDArray[np.float64],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
) -> float:
    """The low power outside all inferences: the tenth percentile of before the first and after the last."""
    import numpy as np

    outside = (t_s < start_s.min() - 0.1) | (t_s > end_s.max() + 0.1)
    return float(np.percentile(power_w[outside], 10)) if outside.any() else math.nan
