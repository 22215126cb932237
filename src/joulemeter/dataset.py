"""Parquet data sets: append, filter, split, card.

A data set is a folder:

    DATASET/
    ├── dataset.json          {"schema": 1, "name": …}
    ├── part-<stamp>-<random>.parquet   rows of ``record.Record``; one file an append
    └── card.json             Croissant JSON-LD, written by ``write_card``

A part appears whole or not at all (``storage``), so a killed append leaves the data set as it was.
``compact`` joins the parts into one that names those it replaces: whoever dies in between leaves rows that
are counted once. A data set may lie at any URL that fsspec knows.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from joulemeter import storage
from joulemeter.errors import DatasetError
from joulemeter.record import SCHEMA, Record
from joulemeter.storage import Place, Where

if TYPE_CHECKING:
    import pyarrow

HEADER = "dataset.json"
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
    folder: Where, records: Sequence[Record], name: str | None = None, part: str | None = None
) -> Where:
    """Adds ``records`` as one Parquet part, creating the data set where there is none; returns the part.

    Atomic: readers see all of the records or none. A part that says its name (``part``) replaces one of that
    name. ``folder`` may be a URL (see ``storage``). Raises DatasetError where it is something else.
    """
    place = storage.place(folder)
    if not place.holds(HEADER):
        _create(folder, name or storage.name_of(folder))
    return place.put(_part_name(part), _content(table_of(records)))


def read(folder: Where) -> Dataset:
    """The data set in ``folder``. Raises DatasetError where it is not one, newer, or torn."""
    called = name(folder)
    rows = [row for _, table in _current_parts(folder) for row in table.to_pylist()]
    return Dataset(called, tuple(Record.from_row(row) for row in rows))


def name(folder: Where) -> str:
    """What the data set in ``folder`` is called."""
    return str(_header(folder).get("name", storage.name_of(folder)))


def table(folder: Where) -> pyarrow.Table:
    """The rows of the data set in ``folder`` in the columns of ``Record``, oldest first."""
    _header(folder)
    return _joined(_current_parts(folder))


def _joined(parts: Iterable[tuple[str, pyarrow.Table]]) -> pyarrow.Table:
    import pyarrow

    schema = _arrow_schema()
    tables = [schema.empty_table(), *(each for _, each in parts)]
    return pyarrow.concat_tables(tables, promote_options="permissive").select(schema.names).cast(schema)


def parts(folder: Where) -> set[str]:
    """Names of the parts in ``folder``, without ``part-`` and ending; nothing is read."""
    names = storage.place(folder).names()
    return {name[5:-8] for name in names if name.startswith("part-") and name.endswith(".parquet")}


def part(folder: Where, name: str) -> tuple[Record, ...] | None:
    """The records of one part, None where there is none of that name."""
    place, file = storage.place(folder), f"part-{name}.parquet"
    if not place.holds(file):
        return None
    rows = _table(f"{folder}/{file}", place.read(file)).to_pylist()
    return tuple(Record.from_row(row) for row in rows)


def is_dataset(path: Where) -> bool:
    """Whether a data set lies at ``path``."""
    return storage.place(path).holds(HEADER)


def refuse_other(folder: Where) -> None:
    """Raises DatasetError where ``folder`` holds something that is no data set."""
    if not is_dataset(folder) and storage.place(folder).exists():
        raise DatasetError(f"{folder}: exists and is not a data set", "a folder that is empty or new")


def write(folder: Where, dataset: Dataset) -> None:
    """A new data set of one part, with its card. Raises DatasetError where ``folder`` already holds one."""
    write_table(folder, dataset.name, table_of(dataset.records), dataset.left_out)


def write_table(folder: Where, name: str, rows: pyarrow.Table, left_out: Sequence[str] = ()) -> None:
    """The same from rows in the columns of ``Record``."""
    if is_dataset(folder):
        raise DatasetError(f"{folder}: there is a data set already", "another folder, or remove it first")
    _create(folder, name)
    part = _part_name()
    storage.place(folder).put(part, _content(rows))
    _put_card(folder, name, rows, [part], left_out)


def compact(folder: Where) -> Where:
    """Joins all parts into one; rows keep their order. Returns the new part."""
    _header(folder)
    place, parts = storage.place(folder), _current_parts(folder)
    names = [name for name, _ in parts]
    made = place.put(_part_name(), _content(_joined(parts), names))
    for name in names:
        place.remove(name)
    return made


def write_card(folder: Where, left_out: Sequence[str] = ()) -> Where:
    """Writes ``card.json``, the data set's Croissant description; returns its path.

    ``left_out`` says what an import could not take.
    """
    called, parts = name(folder), _current_parts(folder)
    return _put_card(folder, called, _joined(parts), sorted(part for part, _ in parts), left_out)


def _put_card(
    folder: Where, called: str, rows: pyarrow.Table, parts: Sequence[str], left_out: Sequence[str]
) -> Where:
    from joulemeter import dataset_card

    place = storage.place(folder)
    contents = dict(zip(parts, place.read_all(parts), strict=True))
    card = dataset_card.croissant(called, rows, contents, left_out)
    return place.put("card.json", json.dumps(card, indent=2, ensure_ascii=False).encode())


def _create(folder: Where, name: str) -> None:
    place = storage.place(folder)
    refuse_other(folder)
    place.put(HEADER, json.dumps({"schema": SCHEMA, "name": name}).encode())


def _header(folder: Where) -> dict[str, Any]:
    try:
        header = json.loads(storage.place(folder).read(HEADER))
    except FileNotFoundError:
        raise DatasetError(f"{folder}: no data set (no dataset.json)", "joulemeter bench -o FOLDER") from None
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder}/dataset.json: cannot be read ({error})", "the folder of a data set"
        ) from error
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise DatasetError(f"{folder}/dataset.json: says no schema version", "the folder of a data set")
    if header["schema"] > SCHEMA:
        raise _newer(folder, header["schema"])
    return header


def _write_part(
    place: Place, records: Sequence[Record], replaces: Iterable[str] = (), part: str | None = None
) -> Where:
    return place.put(_part_name(part), _content(table_of(records), replaces))


def _part_name(part: str | None = None) -> str:
    return f"part-{part or f'{time.time_ns():020d}-{secrets.token_hex(4)}'}.parquet"


def table_of(records: Sequence[Record]) -> pyarrow.Table:
    """Records as rows in the columns of ``Record``."""
    import pyarrow

    return pyarrow.Table.from_pylist([record.to_row() for record in records], schema=_arrow_schema())


def _content(table: pyarrow.Table, replaces: Iterable[str] = ()) -> bytes:
    import pyarrow
    import pyarrow.parquet

    said = {_SCHEMA: str(SCHEMA).encode(), _REPLACES: json.dumps(sorted(replaces)).encode()}
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.replace_schema_metadata(said), sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _current_parts(folder: Where) -> list[tuple[str, pyarrow.Table]]:
    """Every part by name with its rows, oldest first, less those that another part replaces."""
    place = storage.place(folder)
    names = [name for name in place.names() if name.startswith("part-") and name.endswith(".parquet")]
    contents = zip(names, place.read_all(names), strict=True)
    tables = [(name, _table(f"{folder}/{name}", content)) for name, content in contents]
    replaced: set[str] = set()
    for _, table in tables:
        replaced.update(json.loads((table.schema.metadata or {}).get(_REPLACES, b"[]")))
    return [(name, table) for name, table in tables if name not in replaced]


def _table(path: str, content: bytes) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        # Without Arrow's pool of threads: one of them, still at work when Python ends, aborts the process
        # (apache/arrow#34314).
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read(use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as Parquet ({error})", "remove that part") from error
    version = int((table.schema.metadata or {}).get(_SCHEMA, b"1"))
    if version > SCHEMA:
        raise _newer(path, version)
    return table


def _newer(path: Where, version: int) -> DatasetError:
    return DatasetError(f"{path}: has schema {version}, this reads up to {SCHEMA}", "a newer joulemeter")


def _arrow_schema() -> pyarrow.Schema:
    import pyarrow

    kinds = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool | None": pyarrow.bool_()}
    columns = [(each.name, kinds.get(str(each.type), pyarrow.string())) for each in fields(Record)]
    return pyarrow.schema(columns)
