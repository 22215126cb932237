"""Records in columns: a data set of a million runs as one table, its facts among the columns.

A fact is a value of the JSON object that a record keeps in its column ``facts``. They are parsed by Arrow,
some ten thousand records at a time; where Arrow cannot (a fact that is a number here and a word there), by
Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.errors import DatasetError
from joulemeter.record import OBJECT

if TYPE_CHECKING:
    import pyarrow

Array = np.ndarray[Any, Any]

WORDS = ("dataset", "shape", "device", "dtype", "status", "origin", "data", "host", "error", "optimizer")
"""Facts that are words whatever they look like: Arrow would read ``2026-01-01`` as a time."""
ROWS, BYTES = 50_000, 2**26
"""Records, and bytes of their facts, that are parsed at a time."""
BLOCK_BYTES = 2**24
"""Facts of one record longer than this are left to Python's parser."""


@dataclass(frozen=True)
class Column:
    """A column as its distinct values and each row's index into them: a million rows repeat few words."""

    distinct: Array
    codes: Array

    @property
    def rows(self) -> Array:
        """The value of each row."""
        return np.asarray(self.distinct[self.codes])

    def at(self, row: int) -> Any:
        """The value of one row."""
        return self.distinct[self.codes[row]]


def column_of(table: pyarrow.Table, name: str) -> Column:
    """A column of ``table``; what is null is "" among words and NaN among numbers."""
    import pyarrow

    values = _plain(table[name])
    if str(values.type) in ("string", "large_string", "null") or str(values.type).startswith("dictionary"):
        values = values.cast("string").fill_null("")
    encoded = values.dictionary_encode()
    chunk = encoded.combine_chunks() if isinstance(encoded, pyarrow.ChunkedArray) else encoded
    chunk = chunk.chunk(0) if isinstance(chunk, pyarrow.ChunkedArray) else chunk
    found = chunk.dictionary.to_numpy(zero_copy_only=False)
    distinct = np.asarray(found, dtype=str) if found.dtype == object else np.append(found, np.nan)
    codes = chunk.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return Column(distinct, codes.astype(np.int64))


def numbers(table: pyarrow.Table, name: str) -> Array:
    """A column of numbers, shape (rows,); NaN where there is none."""
    import pyarrow.compute

    filled = pyarrow.compute.fill_null(table[name].cast("float64"), float("nan"))
    return np.asarray(filled.to_numpy())


def combinations(columns: Sequence[Column], length: int) -> tuple[Array, Array]:
    """First row of each distinct combination, and the combination of each row."""
    key, most = np.zeros(length, dtype=np.int64), 1
    for each in columns:
        if most * len(each.distinct) > 2**62:
            distinct, key = np.unique(key, return_inverse=True)
            most = len(distinct)
        key, most = key * len(each.distinct) + each.codes, most * len(each.distinct)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return first, which


def flat(table: pyarrow.Table, names: Sequence[str]) -> pyarrow.Table:
    """The table with the facts in ``names`` as columns, before those of the same name; lists as JSON text."""
    import pyarrow
    import pyarrow.compute

    if "facts" not in table.column_names:
        return table
    parts = [_parsed(texts, names) for texts in _batches(table["facts"])]
    for name in names:
        found = _stacked([part[name] if name in part.column_names else len(part) for part in parts])
        if found is None:
            continue
        if name not in table.column_names:
            table = table.append_column(name, found)
            continue
        known = table[name]
        if known.type == found.type:
            found = pyarrow.compute.coalesce(found, known)
        table = table.set_column(table.column_names.index(name), name, found)
    return table


def _batches(facts: pyarrow.ChunkedArray) -> Iterator[pyarrow.Array]:
    from pyarrow import compute

    for chunk in facts.chunks:
        count = max(1, min(ROWS, int(BYTES / max(chunk.nbytes / max(len(chunk), 1), 1))))
        for first in range(0, len(chunk), count):
            texts = compute.fill_null(chunk.slice(first, count).cast("string"), "{}")
            yield compute.if_else(compute.equal(texts, ""), "{}", texts)


def _parsed(texts: pyarrow.Array, names: Sequence[str]) -> pyarrow.Table:
    """The facts in ``names`` of some records as columns of words, numbers and truths."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.json

    together = pyarrow.compute.binary_join(pyarrow.ListArray.from_arrays([0, len(texts)], texts), "\n")
    words = pyarrow.schema([(name, pyarrow.string()) for name in WORDS])
    try:
        # One thread: another, still at work when Python ends, aborts the process (apache/arrow#34314).
        table = pyarrow.json.read_json(
            pyarrow.BufferReader(together[0].as_buffer()),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=words),
        )
    except pyarrow.ArrowInvalid:
        return _by_python(texts.to_pylist(), names)
    if len(table) != len(texts):
        return _by_python(texts.to_pylist(), names)
    found = {name: _plain(table[name]) for name in names if name in table.column_names}
    return pyarrow.table({"": pyarrow.nulls(len(texts)), **found})


def _plain(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Whole numbers in a list as JSON text, whatever else nests too; other values as they are."""
    import pyarrow
    import pyarrow.compute

    kinds = pyarrow.types
    if kinds.is_list(values.type) and kinds.is_integer(values.type.value_type):
        inside = pyarrow.compute.binary_join(values.cast(pyarrow.list_(pyarrow.string())), ", ")
        return pyarrow.compute.binary_join_element_wise("[", inside, "]", "")
    if kinds.is_nested(values.type):
        return pyarrow.chunked_array([[None if v is None else json.dumps(v) for v in values.to_pylist()]])
    return values


def _by_python(texts: list[str], names: Sequence[str]) -> pyarrow.Table:
    import pyarrow

    try:
        facts = [json.loads(text) for text in texts]
    except ValueError as error:
        raise DatasetError(f"a record's facts are not JSON ({error})", OBJECT) from error
    if not all(isinstance(each, dict) for each in facts):
        raise DatasetError("a record's facts are not a JSON object", OBJECT)
    columns = {"": pyarrow.nulls(len(texts))}
    for name in names:
        values = [each.get(name) for each in facts]
        values = [json.dumps(value) if isinstance(value, list | dict) else value for value in values]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
            columns[name] = pyarrow.array([None if value is None else str(value) for value in values])
    return pyarrow.table(columns)


def _stacked(parts: Sequence[pyarrow.ChunkedArray | int]) -> pyarrow.ChunkedArray | None:
    """Parts one after another in a kind that holds all (a whole number: so many nulls); None for all null."""
    import pyarrow

    kinds = {part.type for part in parts if not isinstance(part, int) and part.null_count < len(part)}
    if not kinds:
        return None
    numeric = all(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) for kind in kinds)
    mixed = pyarrow.float64() if numeric else pyarrow.string()
    kind = kinds.pop() if len(kinds) == 1 else mixed
    chunks: list[Any] = []
    for part in parts:
        if isinstance(part, int):
            chunks.append(pyarrow.nulls(part, kind))
        elif part.null_count == len(part):
            chunks.append(pyarrow.nulls(len(part), kind))
        else:
            chunks += part.cast(kind).chunks
    return pyarrow.chunked_array(chunks, kind)
