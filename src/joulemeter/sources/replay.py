"""Readings that were recorded before, given out again at the pace they were taken.

``replay:RUN`` replays a run folder, finished or torn (``run.json`` with ``readings.parquet``, or the
``raw`` files of a run that was killed); ``replay:FILE.csv`` a table of another meter. The first reading is
given at the moment the source is opened, every other one as much later as it was recorded later, on the
clock of the replaying run.

The table has a header and one line a reading moment. Its first column is ``t_ns`` or ``t_s``; every other
column is a rail, named with its unit: ``package-0_j`` is a counter of joules, ``gpu_w`` a gauge of watts.
An empty cell is a read that did not answer.
"""

from __future__ import annotations

import csv
import json
import math
import struct
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from joulemeter.errors import RunFolderError, SourceUnavailable
from joulemeter.reading import Kind, Rail, Reading

_RECORD = struct.Struct("<hqd")
_WHAT_CAN_BE = "a run folder, or a CSV table as `joulemeter.sources.replay` tells"
_UNITS: dict[str, Kind] = {"j": "counter", "w": "gauge"}


def open(argument: str) -> Replay:
    """Readings of the run folder or CSV table ``argument``; raises SourceUnavailable if there is none."""
    path = Path(argument)
    if not argument or not path.exists():
        what = f"replay: there is no {path}" if argument else "replay: nothing was named"
        raise SourceUnavailable(what, "--source replay:RUN or replay:readings.csv")
    try:
        rails, readings = _run_folder(path) if path.is_dir() else _table(path)
    except (OSError, ValueError, KeyError, RunFolderError) as error:
        why = error.fact if isinstance(error, RunFolderError) else error
        raise SourceUnavailable(f"replay: {path} cannot be read ({why})", _WHAT_CAN_BE) from error
    if not readings:
        raise SourceUnavailable(f"replay: {path} holds no readings", _WHAT_CAN_BE)
    return Replay(argument, rails, readings)


class Replay:
    """``readings`` of ``rails``, in time. ``clock`` is told the time, in ns."""

    def __init__(
        self,
        argument: str,
        rails: Iterable[Rail],
        readings: Iterable[Reading],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._argument = argument
        self._clock = clock
        ordered = sorted(readings, key=lambda reading: reading.t_ns)
        shift_ns = clock() - ordered[0].t_ns
        self._readings = [reading._replace(t_ns=reading.t_ns + shift_ns) for reading in ordered]
        self._stamps = [reading.t_ns for reading in self._readings]
        self._given = 0
        self.rails = tuple(_replayed(rail) for rail in rails)

    @property
    def spec(self) -> str:
        """``replay:`` and the path."""
        return f"replay:{self._argument}"

    @property
    def ended(self) -> bool:
        """Whether every reading has been given out."""
        return self._given == len(self._readings)

    def read(self) -> list[Reading]:
        """Every reading that has become due since the last call; none at all after the last one."""
        first, self._given = self._given, bisect_right(self._stamps, self._clock())
        return self._readings[first : self._given]

    def close(self) -> None:
        """Holds nothing."""


def _replayed(rail: Rail) -> Rail:
    note = "; ".join(filter(None, (f"recorded as {rail.origin}", rail.note)))
    return rail if rail.origin == "replayed" else replace(rail, origin="replayed", note=note)


def _run_folder(folder: Path) -> tuple[tuple[Rail, ...], list[Reading]]:
    header = json.loads((folder / "run.json").read_text("utf-8"))
    table, raw = folder / "readings.parquet", folder / "raw"
    described = header.get("rails") or json.loads((raw / "rails.json").read_text("utf-8"))
    readings = _parquet(table) if table.exists() else _raw(raw)
    return _renumbered([Rail.from_json(rail) for rail in described], readings)


def _renumbered(rails: list[Rail], readings: list[Reading]) -> tuple[tuple[Rail, ...], list[Reading]]:
    """Rails with ids from 0, as a source promises, whatever the recording's were."""
    place = {rail.id: number for number, rail in enumerate(rails)}

    def moved(rail: Rail) -> Rail:
        """The rail under its new number, inside the one that its container became."""
        inside = None if rail.inside is None else place.get(rail.inside)
        return replace(rail, id=place[rail.id], inside=inside)

    kept = [Reading(place[r.rail], r.t_ns, r.value) for r in readings if r.rail in place]
    return tuple(map(moved, rails)), kept


def _parquet(file: Path) -> list[Reading]:
    # Only the standard library is in the meter's way unless a finished run is replayed.
    import pyarrow.parquet

    columns = ["rail", "t_ns", "value"]
    table: Any = pyarrow.parquet.ParquetFile(file).read(columns, use_threads=False)  # apache/arrow#34314
    rows = zip(*(table.column(name).to_pylist() for name in ("rail", "t_ns", "value")), strict=True)
    return [Reading(rail, t_ns, math.nan if value is None else value) for rail, t_ns, value in rows]


def _raw(folder: Path) -> list[Reading]:
    """The readings of a run that did not end; a record torn in two by its end is left out."""
    readings: list[Reading] = []
    for file in sorted(folder.glob("readings-*.bin")):
        data = file.read_bytes()
        whole = len(data) - len(data) % _RECORD.size
        readings += [Reading(*fields) for fields in _RECORD.iter_unpack(data[:whole])]
    return readings


def _table(file: Path) -> tuple[tuple[Rail, ...], list[Reading]]:
    with file.open(newline="", encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    scale = {"t_ns": 1, "t_s": 1_000_000_000}.get(header[0].strip())
    if scale is None:
        raise ValueError(f"the first column is '{header[0]}', not t_ns or t_s")
    stamps = [round(float(row[0]) * scale) if scale > 1 else int(row[0]) for row in rows]
    rails = tuple(_column_rail(number, name.strip(), stamps) for number, name in enumerate(header[1:]))
    return rails, [
        Reading(number, t_ns, float(cell) if cell.strip() else math.nan)
        for row, t_ns in zip(rows, stamps, strict=True)
        for number, cell in enumerate(row[1:])
    ]


def _column_rail(number: int, name: str, stamps: list[int]) -> Rail:
    label, _, unit = name.rpartition("_")
    if not label or unit.lower() not in _UNITS:
        raise ValueError(f"column '{name}' does not end in _j (a counter) or _w (a gauge)")
    steps = sorted(later - earlier for earlier, later in pairwise(stamps))
    return Rail(
        id=number,
        name=label,
        kind=_UNITS[unit.lower()],
        origin="replayed",
        period_ns=steps[len(steps) // 2] if steps else 0,
        source="replay",
        note="recorded by another meter",
    )
