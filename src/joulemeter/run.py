"""The run folder: raw readings and spans, written and read.

While a run is recorded, its folder holds ``run.json`` (state ``recording``) and ``raw/``: files that only
grow, so that whatever was written outlives the death of whoever wrote it (``rawfiles`` reads them).
``finish`` turns them into ``readings.parquet`` and ``spans.parquet``; ``load`` reads either form, and any
folder of the documented layout, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter.errors import RunFolderError
from joulemeter.reading import Rail, rank_of
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from joulemeter.attribution import Progress
    from joulemeter.ledger import Ledger
    from joulemeter.timeline import Timeline

SCHEMA = 1
HEADER, READINGS, SPANS, RAW = "run.json", "readings.parquet", "spans.parquet", "raw"
UNFINISHED = "unfinished"
"""The state of a run that ended, but whose tables found no room: its raw records are all there."""

_READING_COLUMNS = ("rail", "t_ns", "value")
_SPAN_COLUMNS = ("site", "lane", "start_ns", "end_ns", "parent")

LOADERS = 2
"""Columns of a table that are read at once."""

_WHOLE = "a whole copy of the folder, or record the run again"
_LAYOUT = "what a run folder holds: docs/architecture.md"


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was recorded. ``header`` is ``run.json`` less rails and sites.

    ``reading_rail`` int16 (m,), ``reading_t_ns`` int64 (m,), ``reading_value`` float64 (m,): joules of a
    counter, watts of a gauge, NaN where the meter did not answer.
    """

    folder: Path
    header: dict[str, Any]
    rails: tuple[Rail, ...]
    sites: tuple[Site, ...]
    spans: Spans
    reading_rail: NDArray[np.int16]
    reading_t_ns: NDArray[np.int64]
    reading_value: NDArray[np.float64]

    @property
    def interrupted(self) -> bool:
        """Whether the run died before its end could be written."""
        return bool(self.header.get("interrupted", False))

    @property
    def end_ns(self) -> int | None:
        """When the program had ended; None where the folder does not say."""
        end = self.header.get("end")
        found = end.get("monotonic_ns") if isinstance(end, dict) else None
        return found if isinstance(found, int) else None

    @property
    def lanes(self) -> tuple[str, ...]:
        """The names of lanes, as far as the folder tells them."""
        return tuple(map(str, self.header.get("lanes", ())))

    def lane_name(self, lane: int) -> str:
        """What a lane is called."""
        return self.lanes[lane] if 0 <= lane < len(self.lanes) else f"lane {lane}"

    def timelines(self) -> list[Timeline]:
        """One timeline a rail, in the order of ``rails``."""
        from joulemeter import feeds, timeline

        made = []
        for rail in self.rails:
            mine = self.reading_rail == rail.id
            read = timeline.from_readings(rail, self.reading_t_ns[mine], self.reading_value[mine])
            if rail.source in feeds.PROCESSORS:
                read = replace(read, others=self.others)
            made.append(read if self.end_ns is None else read.until(self.end_ns))
        return made

    @property
    def others(self) -> float:
        """The share of the processors that other programs took; 0 where the folder does not tell."""
        program = self.header.get("program")
        share = program.get("others", 0.0) if isinstance(program, dict) else 0.0
        return float(share) if isinstance(share, int | float) and 0 <= share <= 1 else 0.0

    def ledger(self, progress: Progress | None = None) -> Ledger:
        """Where the joules went, with what befell the recording among the ledger's notes."""
        from joulemeter import ranks
        from joulemeter.attribution import attribute

        if ranks.several(self):
            ledger = ranks.ledger_by_host(self, progress)
        else:
            ledger = attribute(self.timelines(), self.sites, self.spans, progress, self.lanes)
        return replace(ledger, notes=(*ledger.notes, *self.header.get("notes", ())))


# ── a folder to record into ──────────────────────────────────────────────────────────────────────────


def create(folder: Path | None, argv: Sequence[str], *, force: bool = False) -> Path:
    """Makes a run folder that is ready to be recorded into, and returns it.

    Without ``folder``: ``joulemeter-run-1`` here, or the first number that is free. An existing folder
    is refused; with ``force`` it is replaced, but only when it is a run folder or empty.
    """
    made = _numbered() if folder is None else _named(folder, force)
    (made / RAW).mkdir()
    header = {
        "schema": SCHEMA,
        "state": "recording",
        "host": host(),
        "argv": list(argv),
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "start": {"wall_ns": time.time_ns(), "monotonic_ns": time.monotonic_ns()},
        "rails": [],
        "sites": [],
        "notes": [],
    }
    if (rank := rank_of(os.environ)) is not None:
        header["rank"] = rank
    write_header(made, header)
    return made


def _numbered() -> Path:
    for number in range(1, 1_000_000):
        folder = Path(f"joulemeter-run-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise RunFolderError(
                f"{folder}: cannot be made here ({error.strerror})", "-o with a writable place"
            ) from None
        return folder
    raise RunFolderError("a million run folders are here already", "-o RUN")


def _named(folder: Path, force: bool) -> Path:
    if folder.exists():
        if not force:
            raise RunFolderError(
                f"{folder}: exists already, and is not overwritten", "another -o, or --force"
            )
        is_run = folder.is_dir() and ((folder / HEADER).is_file() or not any(folder.iterdir()))
        if not is_run:
            raise RunFolderError(
                f"{folder}: exists and is no run folder; --force replaces only run folders", "another -o"
            )
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made ({error.strerror})", "-o with a writable place"
        ) from None
    return folder


def host() -> dict[str, Any]:
    """What machine this is: name, system, processor and Python."""
    return {
        "name": socket.gethostname(),
        "boot_id": _boot_id(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "executable": sys.executable,
    }


def _boot_id() -> str | None:
    """What one machine's runs share until it boots anew, in whatever containers; None where Linux does not
    say (proc(5), /proc/sys/kernel/random)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.processor())


def write_header(folder: Path, header: dict[str, Any]) -> None:
    """Writes ``run.json`` so that a reader sees the old one or the new one, never half of it."""
    partial = folder / (HEADER + ".partial")
    partial.write_text(json.dumps(header, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(folder / HEADER)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────


def finish(folder: Path, facts: dict[str, Any]) -> Run:
    """Turns the raw files of ``folder`` into the documented form, adding ``facts`` to ``run.json``.

    The raw files go only when everything that replaces them is on disk: a failure here (a full disk)
    raises RunFolderError and loses nothing.
    """
    header = _header(folder)
    facts = {**facts, "notes": [*header.get("notes", ()), *facts.get("notes", ())]}
    run = _from_raw(folder, {**header, **facts, "state": "finished"})
    try:
        save(run)
    except OSError as error:
        with contextlib.suppress(OSError):  # small enough, it may find room yet
            write_header(folder, {**header, **facts, "state": UNFINISHED})
        raise RunFolderError(
            f"{folder}: could not be finished ({error.strerror or error}); its raw records are kept",
            f"make room, then: joulemeter report {folder}",
        ) from error
    shutil.rmtree(folder / RAW)
    return run


def keep(run: Run, *, force: bool = False) -> None:
    """Writes ``run`` into a folder of its own, which must not exist; ``force`` replaces a run folder."""
    _named(run.folder, force)
    save(run)


def save(run: Run) -> None:
    """Writes ``run`` into its folder, ``run.json`` last; the folder must exist."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spans = run.spans
    tables = {
        READINGS: pa.table(
            [run.reading_rail, run.reading_t_ns, run.reading_value], names=list(_READING_COLUMNS)
        ),
        SPANS: pa.table([getattr(spans, name) for name in _SPAN_COLUMNS], names=list(_SPAN_COLUMNS)),
    }
    for name, table in tables.items():
        partial = run.folder / (name + ".partial")
        pq.write_table(table, partial, compression="zstd", compression_level=1)
        partial.replace(run.folder / name)
    places = {"rails": [r.to_json() for r in run.rails], "sites": [s.to_json() for s in run.sites]}
    write_header(run.folder, {**run.header, **places})


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────


def load(folder: Path | str) -> Run:
    """Reads a run folder, finished, interrupted or still being recorded; a folder of ranks as one run.

    Raises RunFolderError, with the remedy, for a folder that is missing, not a run folder, truncated,
    or of a newer schema.
    """
    folder = Path(folder)
    if not folder.exists():
        raise RunFolderError(
            f"{folder}: there is no such run folder", "joulemeter run -o RUN script.py makes one"
        )
    if not (folder / HEADER).is_file():
        from joulemeter import ranks

        if ranks.is_ranks(folder):
            return ranks.load(folder)
        raise RunFolderError(
            f"{folder}: is not a run folder (it has no {HEADER})", "the folder that `joulemeter run` named"
        )
    header = _header(folder)
    if (folder / RAW).is_dir() and header.get("state") != "finished":
        return _load_raw(folder, header)
    return _load_finished(folder, header)


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / HEADER}: cannot be read ({error})", _WHOLE) from error
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise RunFolderError(f"{folder / HEADER}: names no schema, so this is not a run folder", _LAYOUT)
    if header["schema"] > SCHEMA:
        raise RunFolderError(
            f"{folder}: has schema {header['schema']}, newer than this joulemeter reads ({SCHEMA})",
            "pip install --upgrade joulemeter",
        )
    return header


def _load_raw(folder: Path, header: dict[str, Any]) -> Run:
    notes = header.get("notes", [])
    if header.get("state") == UNFINISHED:
        return _from_raw(folder, {**header, "notes": [*notes, "the disk was full when the run ended"]})
    if _alive(header):
        return _from_raw(folder, {**header, "notes": [*notes, "still being recorded"]})
    notes = [*notes, "interrupted: the recording ended before its end was written"]
    return _from_raw(folder, {**header, "interrupted": True, "notes": notes})


def _from_raw(folder: Path, header: dict[str, Any]) -> Run:
    import numpy as np

    from joulemeter import rawfiles

    records = rawfiles.read(folder / RAW)
    rest = {key: value for key, value in header.items() if key not in ("rails", "sites")}
    rest |= {"notes": [*header.get("notes", ()), *records.notes], "lanes": records.lanes}
    columns = (np.ascontiguousarray(records.readings[name]) for name in _READING_COLUMNS)
    return Run(folder, rest, records.rails, records.sites, records.spans, *columns)


def _alive(header: dict[str, Any]) -> bool:
    if header.get("host", {}).get("name") != socket.gethostname():
        return False
    try:
        os.kill(int(header["pid"]), 0)
    except (KeyError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _load_finished(folder: Path, header: dict[str, Any]) -> Run:
    rails = tuple(Rail.from_json(each) for each in _objects(folder, header, "rails"))
    sites = tuple(_site(folder, each) for each in _objects(folder, header, "sites"))
    readings = _columns(folder / READINGS, _READING_COLUMNS, ("int16", "int64", "float64"))
    spans = Spans(*_columns(folder / SPANS, _SPAN_COLUMNS, ("int32", "int32", "int64", "int64", "int64")))
    rest = {key: value for key, value in header.items() if key not in ("rails", "sites")}
    run = Run(folder, rest, rails, sites, spans, *readings)
    _check(run)
    return run


def _objects(folder: Path, header: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = header.get(key)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RunFolderError(f"{folder / HEADER}: has no list of {key}", _LAYOUT)
    return found


def _site(folder: Path, data: dict[str, Any]) -> Site:
    try:
        return Site.from_json(data)
    except TypeError as error:
        raise RunFolderError(f"{folder / HEADER}: a site lacks a key ({error})", _LAYOUT) from error


def _columns(path: Path, names: Sequence[str], dtypes: Sequence[str]) -> list[NDArray[Any]]:
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            for name in names:
                _must_hold(file.schema_arrow, path, name)
        # Column beside column, each straight into its place: ten million spans are 320 MB as it is.
        with ThreadPoolExecutor(LOADERS) as loaders:
            columns = list(loaders.map(lambda name, dtype: _column(path, name, dtype), names, dtypes))
        pa.default_memory_pool().release_unused()
        return columns
    except FileNotFoundError:
        raise RunFolderError(f"{path}: is missing; the run folder is truncated", _WHOLE) from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise RunFolderError(
            f"{path}: cannot be read, it is truncated or no Parquet file of this layout ({first})", _WHOLE
        ) from error


def _must_hold(schema: pa.Schema, path: Path, name: str) -> None:
    if name not in schema.names:
        raise RunFolderError(f"{path}: has no column '{name}'", _LAYOUT)


def _column(path: Path, name: str, dtype: str) -> NDArray[Any]:
    """One column of a table, a group of rows at a time."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True) as file:
        made, at = np.empty(file.metadata.num_rows, dtype), 0
        for group in range(file.num_row_groups):
            for chunk in file.read_row_group(group, columns=[name], use_threads=False).column(0).chunks:
                part = chunk.to_numpy(zero_copy_only=False)
                if dtype != "float64" and part.dtype.kind not in "iu":
                    raise RunFolderError(
                        f"{path}: column '{name}' must hold whole numbers without nulls, not {part.dtype}",
                        _LAYOUT,
                    )
                made[at : at + len(part)] = part
                at += len(part)
    return made


def _check(run: Run) -> None:
    """Refuses what no attribution could make sense of."""

    spans, n = run.spans, len(run.spans)
    place = run.folder / SPANS
    if len({rail.id for rail in run.rails}) < len(run.rails):
        raise RunFolderError(f"{run.folder / HEADER}: two rails share an id", _LAYOUT)
    if n and not _all_among(spans.site, [site.id for site in run.sites]):
        raise RunFolderError(f"{place}: names sites that {HEADER} does not have", _LAYOUT)
    if len(run.reading_rail) and not _all_among(run.reading_rail, [rail.id for rail in run.rails]):
        raise RunFolderError(f"{run.folder / READINGS}: names rails that {HEADER} does not have", _LAYOUT)
    if n and (spans.end_ns < spans.start_ns).any():
        backwards = int((spans.end_ns < spans.start_ns).sum())
        raise RunFolderError(f"{place}: {backwards} spans end before they start", _LAYOUT)
    if n and ((spans.parent < -1) | (spans.parent >= n)).any():
        raise RunFolderError(f"{place}: a parent is not a row of the table", _LAYOUT)


def _all_among(numbers: NDArray[Any], known: Sequence[int]) -> bool:
    """Whether all of ``numbers`` (not empty) are ``known``; by a table, as ids are small."""
    import numpy as np

    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 4 * len(numbers) + max(known, default=0):
        return bool(np.isin(numbers, known).all())
    table = np.zeros(high + 1, bool)
    table[[each for each in known if 0 <= each <= high]] = True
    return bool(table[numbers].all())
