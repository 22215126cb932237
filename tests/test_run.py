"""The run folder: what is written comes back, and what is no run folder is refused with a reason."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from joulemeter import run
from joulemeter.errors import RunFolderError
from joulemeter.reading import Rail
from joulemeter.run import Run, load, save
from joulemeter.span import Site, Spans


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small finished run: one counter, one site with two spans."""
    rails = (
        Rail(
            id=0, name="package-0", kind="counter", origin="measured", period_ns=1_000_000, range_j=262143.0
        ),
    )
    spans = Spans(
        np.array([0, 0], np.int32),
        np.array([0, 0], np.int32),
        np.array([10, 40]),
        np.array([30, 60]),
        np.array([-1, -1]),
    )
    made = tmp_path / "run"
    made.mkdir()
    readings = (np.zeros(3, np.int16), np.array([0, 50, 100]), np.array([1.0, 2.0, 3.0]))
    save(Run(made, {"schema": 1, "state": "finished"}, rails, (Site(0, "f"),), spans, *readings))
    return made


def edit(folder: Path, **changes: object) -> None:
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, **changes}))


def test_a_run_comes_back_as_it_was_saved(folder: Path) -> None:
    back = load(folder)
    assert back.rails[0].range_j == 262143.0
    assert back.spans.start_ns.tolist() == [10, 40]
    assert back.reading_value.tolist() == [1.0, 2.0, 3.0]
    assert not back.interrupted


def test_the_columns_have_the_documented_types(folder: Path) -> None:
    readings, spans = pq.read_schema(folder / "readings.parquet"), pq.read_schema(folder / "spans.parquet")
    assert [str(t) for t in readings.types] == ["int16", "int64", "double"]
    assert [str(t) for t in spans.types] == ["int32", "int32", "int64", "int64", "int64"]


def test_a_folder_of_the_design_alone_is_served(folder: Path) -> None:
    """Only the documented keys, nothing of ours: another meter wrote it."""
    rail = {
        "id": 0,
        "name": "p",
        "kind": "counter",
        "origin": "measured",
        "period_ns": 10,
        "lag_ns": 0,
        "range_j": None,
        "inside": None,
    }
    site = {
        "id": 0,
        "name": "f",
        "kind": "call",
        "file": None,
        "line": None,
        "column": None,
        "function": None,
    }
    document = {
        "schema": 1,
        "host": "x",
        "argv": [],
        "start": 0,
        "rails": [rail],
        "sites": [site],
        "sampler": {},
        "notes": [],
    }
    (folder / "run.json").write_text(json.dumps(document))
    assert load(folder).ledger().rails[0].energy.energy_j == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda f: edit(f, schema=99), "newer"),
        (lambda f: edit(f, schema="one"), "not a run folder"),
        (lambda f: edit(f, rails=None), "no list of rails"),
        (lambda f: edit(f, rails=[{"id": 0}]), "lacks a key"),
        (lambda f: edit(f, sites=[]), "sites that run.json does not have"),
        (lambda f: (f / "run.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "run.json").unlink(), "not a run folder"),
        (lambda f: (f / "spans.parquet").unlink(), "missing"),
        (
            lambda f: (f / "readings.parquet").write_bytes((f / "readings.parquet").read_bytes()[:-9]),
            "truncated",
        ),
        (lambda f: (f / "spans.parquet").write_bytes(b""), "truncated"),
        (lambda f: pq.write_table(pa.table({"site": [0]}), f / "spans.parquet"), "no column|truncated"),
        (
            lambda f: pq.write_table(pa.table({n: ["x"] for n in run._SPAN_COLUMNS}), f / "spans.parquet"),
            "whole numbers",
        ),
        (
            lambda f: pq.write_table(
                pa.table({"site": [0], "lane": [0], "start_ns": [5], "end_ns": [1], "parent": [-1]}),
                f / "spans.parquet",
            ),
            "end before",
        ),
        (
            lambda f: pq.write_table(
                pa.table({"site": [0], "lane": [0], "start_ns": [1], "end_ns": [5], "parent": [7]}),
                f / "spans.parquet",
            ),
            "parent",
        ),
    ],
)
def test_a_broken_folder_is_refused_in_words(folder: Path, breakage, message: str) -> None:  # type: ignore[no-untyped-def]
    breakage(folder)
    with pytest.raises(RunFolderError, match=message) as refused:
        load(folder)
    assert refused.value.remedy


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no such run folder"):
        load(tmp_path / "none")


def test_an_existing_folder_is_not_overwritten_without_force(folder: Path) -> None:
    with pytest.raises(RunFolderError, match="--force"):
        run.create(folder, ["x.py"])
    assert run.create(folder, ["x.py"], force=True) == folder
    assert not (folder / "spans.parquet").exists()


def test_force_replaces_run_folders_only(tmp_path: Path) -> None:
    """`-o ~ --force` must not delete a home."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="no run folder"):
        run.create(tmp_path, ["x.py"], force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_unnamed_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [run.create(None, []).name for _ in range(3)] == [f"joulemeter-run-{n}" for n in (1, 2, 3)]


def test_a_run_that_cannot_be_finished_keeps_its_raw_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when the tables are written loses nothing: the raw files go last."""
    made = run.create(tmp_path / "run", ["x.py"])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(RunFolderError, match=r"raw records are kept.*make room"):
            run.finish(made, {})
    assert load(made).header["state"] == run.UNFINISHED
    run.finish(made, {})
    assert not load(made).interrupted
