"""Records in columns: what the facts say, whatever else they are, and a fact that nobody has is no column."""

import json

import pyarrow
import pytest

from joulemeter import record_columns
from joulemeter.errors import DatasetError


def table(*facts: dict, **columns) -> pyarrow.Table:
    return pyarrow.table({**columns, "facts": [json.dumps(each) for each in facts]})


def test_facts_stand_before_columns_of_the_same_name_where_they_are_known() -> None:
    found = record_columns.flat(table({"device": "gpu"}, {}, device=["cpu", "cpu"]), ["device", "nobody"])
    assert found["device"].to_pylist() == ["gpu", "cpu"]
    assert "nobody" not in found.column_names


def test_words_stay_words_and_lists_become_their_json() -> None:
    found = record_columns.flat(table({"host": "2026-01-01", "widths": [8, 3]}), ["host", "widths"])
    assert found["host"].to_pylist() == ["2026-01-01"]
    assert json.loads(found["widths"].to_pylist()[0]) == [8, 3]


@pytest.mark.parametrize("values", [[4, "four"], [4, [4]], ["four", {"a": 4}]])
def test_a_fact_of_several_kinds_is_read_as_words(values) -> None:
    found = record_columns.flat(table(*({"size": value} for value in values)), ["size"])
    assert all(isinstance(value, str) for value in found["size"].to_pylist())
    assert found["size"].to_pylist()[0] in ("4", "four")


def test_kinds_that_differ_between_batches_meet_in_one(monkeypatch) -> None:
    monkeypatch.setattr(record_columns, "ROWS", 1)
    rows = table({"size": 4}, {"size": 4.5}, {}, {"size": None})
    assert record_columns.flat(rows, ["size"])["size"].to_pylist() == [4.0, 4.5, None, None]
    mixed = table({"size": 4}, {"size": "four"})
    assert record_columns.flat(mixed, ["size"])["size"].to_pylist() == ["4", "four"]


def test_long_strings_are_facts_too() -> None:
    """Polars writes its text as Arrow's large strings."""
    rows = pyarrow.table({"facts": pyarrow.array(['{"size": 4}', None], pyarrow.large_string())})
    assert record_columns.flat(rows, ["size"])["size"].to_pylist() == [4, None]


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_facts_that_are_no_object_are_refused(text) -> None:
    with pytest.raises(DatasetError, match="facts"):
        record_columns.flat(pyarrow.table({"facts": [text]}), ["size"])


def test_numbers_that_are_not_known_are_nan_not_zero() -> None:
    found = record_columns.numbers(pyarrow.table({"a": [1, None]}), "a")
    assert found[0] == 1
    assert found[1] != found[1]
