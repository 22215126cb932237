"""Data sets: parts appear whole or not at all, and rows come back as they went in."""

import json
from pathlib import Path

import pytest

from joulemeter import dataset
from joulemeter.errors import DatasetError
from joulemeter.kernel import Kernel, Work
from joulemeter.record import Record


def rows(count: int, first: int = 0) -> list[Record]:
    return [
        Record(
            level="kernel",
            family="relu",
            origin="simulated",
            device="d",
            shape={"height": i + 1, "layout": "channels-last"},
            energy_j=1e-3 * (i + 1),
            flops=10.0,
            facts={"clock": 1.5},
            throttled=False,
        )
        for i in range(first, first + count)
    ]


def test_what_is_appended_comes_back_equal_and_in_order(tmp_path: Path) -> None:
    dataset.append(tmp_path / "d", rows(3))
    dataset.append(tmp_path / "d", rows(2, first=3))
    back = dataset.read(tmp_path / "d")
    # NaN columns are never equal: rows are compared as text.
    assert [str(r) for r in back.records] == [str(r) for r in rows(5)]


def test_unknown_figures_come_back_unknown_and_not_zero(tmp_path: Path) -> None:
    dataset.append(tmp_path / "d", rows(1))
    record = dataset.read(tmp_path / "d").records[0]
    assert record.time_s != record.time_s
    assert record.temperature_c != record.temperature_c


def test_a_killed_append_leaves_the_data_set_readable(tmp_path: Path) -> None:
    part = dataset.append(tmp_path / "d", rows(3))
    (tmp_path / "d" / "part-9-torn.partial").write_bytes(part.read_bytes()[:50])
    assert len(dataset.read(tmp_path / "d")) == 3


def test_a_compaction_that_died_before_removing_the_old_parts_counts_no_row_twice(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    kept = [dataset.append(folder, rows(3)), dataset.append(folder, rows(2, 3))]
    saved = {path: path.read_bytes() for path in kept}
    dataset.compact(folder)
    assert len(list(folder.glob("part-*.parquet"))) == 1
    for path, content in saved.items():
        path.write_bytes(content)
    assert len(dataset.read(folder)) == 5


def test_a_split_never_puts_repeats_of_a_configuration_on_both_sides(tmp_path: Path) -> None:
    whole = dataset.Dataset("x", tuple(rows(20) + rows(20)))
    first, second = whole.split(0.7, seed=3)
    assert len(first) == 28
    assert len(second) == 12
    assert {r.key for r in first.records} & {r.key for r in second.records} == set()


def test_a_folder_that_is_something_else_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DatasetError, match="is not a data set"):
        dataset.append(tmp_path, rows(1))


@pytest.mark.parametrize("header", ["{", "[]", '{"schema": 99}', '{"name": "x"}'])
def test_a_torn_or_newer_header_is_a_clear_line(tmp_path: Path, header: str) -> None:
    (tmp_path / "dataset.json").write_text(header)
    with pytest.raises(DatasetError, match=r"dataset.json|schema"):
        dataset.read(tmp_path)


def test_a_torn_part_is_named(tmp_path: Path) -> None:
    part = dataset.append(tmp_path / "d", rows(3))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=part.name):
        dataset.read(tmp_path / "d")


def test_the_card_is_croissant_with_every_column_and_the_parts_digests(tmp_path: Path) -> None:
    import hashlib
    from dataclasses import fields

    part = dataset.append(tmp_path / "d", rows(3))
    card = json.loads(dataset.write_card(tmp_path / "d").read_text())
    assert card["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert card["distribution"][0]["sha256"] == hashlib.sha256(part.read_bytes()).hexdigest()
    assert {f["name"] for f in card["recordSet"][0]["field"]} == {f.name for f in fields(Record)}


def test_a_record_with_a_word_nobody_knows_is_refused() -> None:
    with pytest.raises(DatasetError, match="origin"):
        Record.from_row({"level": "kernel", "family": "x", "origin": "guessed"})


def test_work_adds_and_kernels_are_equal_by_configuration() -> None:
    assert Work(1, 2, 3, 4) + Work(10, 20, 30, 40) == Work(11, 22, 33, 44)
    a, b = Kernel("fc", {"a": 1, "b": 2}), Kernel("fc", {"b": 2, "a": 1})
    assert a.key == b.key
    assert hash(a) == hash(b)
    assert Kernel.from_json(a.to_json()) == a
