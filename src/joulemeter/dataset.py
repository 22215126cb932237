"""Parquet data sets: append, filter, split, card.

A data set is a folder:

    DATASET/
    ├── dataset.json          {"schema": 1, "name": …}
    ├── part-<stamp>-<random>.parquet   rows of ``record.Record``; one file an append
    └── card.json             Croissant JSON-LD, written by ``write_card``

An append writes its part under another name and renames it, so a killed append leaves the data set
as it was. ``compact`` joins the parts into one that names those it replaces: whoever dies in between
leaves rows that are counted once.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter.errors import DatasetError
from joulemeter.record import SCHEMA, Record

if TYPE_CHECKING:
    import pyarrow

_REPLACES = b"joulemeter.replaces"
_SCHEMA = b"joulemeter.schema"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Records with a name. ``left_out`` says in words what the reader could not take, with counts."""

    name: str
    records: tuple[Record, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices present, sorted."""
        return tuple(sorted({record.device for record in self.records}))

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels present, sorted."""
        return tuple(sorted({record.level for record in self.records}))

    def filter(self, keep: Callable[[Record], bool]) -> Dataset:
        """The records for which ``keep`` is true."""
        return Dataset(self.name, tuple(record for record in self.records if keep(record)), self.left_out)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two data sets, about ``fraction`` of the configurations in the first.

        Repeats of one configuration (``Record.key``) never stand on both sides.
        """
        keys = sorted({record.key for record in self.records})
        random.Random(seed).shuffle(keys)
        first = set(keys[: round(fraction * len(keys))])
        return self.filter(lambda r: r.key in first), self.filter(lambda r: r.key not in first)


def append(
    folder: str | Path, records: Sequence[Record], name: str | None = None, part: str | None = None
) -> Path:
    """Adds ``records`` as one Parquet part, creating the data set where there is none; returns the part.

    Atomic: readers see all of the records or none. A part that says its name (``part``) replaces one of that
    name. Raises DatasetError where ``folder`` is something else.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").exists():
        _create(folder, name or folder.name)
    return _write_part(folder, records, part=part)


def read(folder: str | Path) -> Dataset:
    """The data set in ``folder``. Raises DatasetError where it is not one, newer, or torn."""
    folder = Path(folder)
    header = _header(folder)
    rows = [row for _, table in _current_parts(folder) for row in table.to_pylist()]
    return Dataset(str(header.get("name", folder.name)), tuple(Record.from_row(row) for row in rows))


def is_dataset(path: str | Path) -> bool:
    """Whether ``path`` is a data set's folder."""
    return (Path(path) / "dataset.json").is_file()


def write(folder: str | Path, dataset: Dataset) -> None:
    """A new data set of one part, with its card. Raises DatasetError where ``folder`` already holds one."""
    if is_dataset(folder):
        raise DatasetError(f"{folder}: there is a data set already", "another folder, or remove it first")
    append(folder, dataset.records, dataset.name)
    write_card(folder)


def compact(folder: str | Path) -> Path:
    """Joins all parts into one; rows keep their order. Returns the new part."""
    folder = Path(folder)
    parts = _current_parts(folder)
    records = [Record.from_row(row) for _, table in parts for row in table.to_pylist()]
    made = _write_part(folder, records, replaces=[path.name for path, _ in parts])
    for path, _ in parts:
        path.unlink(missing_ok=True)
    return made


def write_card(folder: str | Path) -> Path:
    """Writes ``card.json``, the data set's Croissant description; returns its path."""
    from joulemeter import dataset_card

    folder = Path(folder)
    parts = sorted(path for path, _ in _current_parts(folder))
    card = dataset_card.croissant(read(folder), parts)
    path = folder / "card.json"
    _write_whole(path, json.dumps(card, indent=2, ensure_ascii=False).encode())
    return path


def _create(folder: Path, name: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(p.suffix != ".partial" for p in folder.iterdir())):
        raise DatasetError(f"{folder}: exists and is not a data set", "a folder that is empty or new")
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / "dataset.json", json.dumps({"schema": SCHEMA, "name": name}).encode())


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / "dataset.json").read_text())
    except FileNotFoundError:
        raise DatasetError(f"{folder}: no data set (no dataset.json)", "joulemeter bench -o FOLDER") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder}/dataset.json: cannot be read ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise DatasetError(f"{folder}/dataset.json: says no schema version")
    if header["schema"] > SCHEMA:
        raise _newer(folder, header["schema"])
    return header


def _write_part(
    folder: Path, records: Sequence[Record], replaces: Iterable[str] = (), part: str | None = None
) -> Path:
    import pyarrow
    import pyarrow.parquet

    schema = _arrow_schema().with_metadata(
        {_SCHEMA: str(SCHEMA).encode(), _REPLACES: json.dumps(sorted(replaces)).encode()}
    )
    table = pyarrow.Table.from_pylist([record.to_row() for record in records], schema=schema)
    path = folder / f"part-{part or f'{time.time_ns():020d}-{secrets.token_hex(4)}'}.parquet"
    partial = path.with_name(f"{path.stem}-{secrets.token_hex(4)}.partial")
    pyarrow.parquet.write_table(table, partial, compression="zstd")
    _rename_durably(partial, path)
    return path


def _current_parts(folder: Path) -> list[tuple[Path, pyarrow.Table]]:
    """Every part with its rows, oldest first, less those that another part replaces."""
    tables = [(path, _read_part(path)) for path in sorted(folder.glob("part-*.parquet"))]
    replaced: set[str] = set()
    for _, table in tables:
        replaced.update(json.loads((table.schema.metadata or {}).get(_REPLACES, b"[]")))
    return [(path, table) for path, table in tables if path.name not in replaced]


def _read_part(path: Path) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet ({error})", "remove that part") from error
    version = int((table.schema.metadata or {}).get(_SCHEMA, b"1"))
    if version > SCHEMA:
        raise _newer(path, version)
    return table


def _newer(path: Path, version: int) -> DatasetError:
    return DatasetError(f"{path}: has schema {version}, this reads up to {SCHEMA}", "a newer joulemeter")


def _arrow_schema() -> pyarrow.Schema:
    import pyarrow

    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool | None": pyarrow.bool_()}
    columns = [(each.name, kinds.get(str(each.type), pyarrow.string())) for each in fields(Record)]
    return pyarrow.schema(columns)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    partial.write_bytes(content)
    _rename_durably(partial, path)


def _rename_durably(partial: Path, path: Path) -> None:
    # The bytes must be on disk before the name is: a rename alone may outlive its content in a power cut.
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
