"""Runs are read from the published layout and from Parquet; what cannot be used is counted, not guessed."""

import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from energy_world import runs, write_csv
from joulemeter import butter, energy_runs
from joulemeter.errors import DatasetError, UsageError

ROW = {
    "device": "cpu",
    "dataset": "mine",
    "shape": "rectangle",
    "size": 500,
    "depth": 3,
    "inputs": 5,
    "outputs": 2,
    "rows": 1000,
    "batch_size": 32,
    "epochs": 10,
    "energy_j": 12.5,
    "time_s": 0.5,
    "test_loss": 0.25,
    "status": "done",
    "origin": "estimated",
}


def parquet(folder, rows):
    folder.mkdir()
    for k, row in enumerate(rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / f"part-{k}.parquet")
    return folder


def test_the_published_layout_is_read_as_it_was_written(tmp_path):
    given = runs(40)
    table = energy_runs.read(write_csv(tmp_path / "runs.csv", given))
    found = table.runs
    assert table.published
    assert found.energy_j == pytest.approx(given.energy_j)
    assert found.time_s == pytest.approx(given.time_s)
    assert [found.trainings[k] for k in found.which] == [given.trainings[k] for k in given.which]
    assert energy_runs.levels_of(table)["cpu"] == butter.NODES["cpu"]


def test_a_folder_of_parquet_parts_carries_its_own_facts(tmp_path):
    table = energy_runs.read(parquet(tmp_path / "sweep", [ROW, {**ROW, "epochs": 20}]))
    assert not table.published
    assert table.runs.origin == "estimated"
    assert [t.epochs for t in table.runs.trainings] == [10, 20]
    first = table.runs.trainings[0]
    assert (first.inputs, first.outputs, first.rows, first.batch_size) == (5, 2, 1000, 32)
    assert table.runs.loss.tolist() == [0.25, 0.25]
    assert energy_runs.levels_of(table)["cpu"][-1].size_bytes == math.inf


def test_facts_as_json_become_columns(tmp_path):
    facts = {k: ROW[k] for k in ROW if k not in ("device", "energy_j", "time_s", "origin")}
    row = {"device": "cpu", "energy_j": 3.0, "time_s": 1.0, "origin": "measured", "facts": json.dumps(facts)}
    found = energy_runs.read(parquet(tmp_path / "records", [row])).runs
    assert found.trainings[0].depth == 3
    assert found.loss.tolist() == [0.25]


def test_written_widths_win_over_solved_ones(tmp_path):
    found = energy_runs.read(parquet(tmp_path / "sweep", [{**ROW, "widths": [7, 9, 2]}])).runs
    assert found.trainings[0].widths == (7, 9, 2)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    bad = [
        {**ROW, "status": "failed"},
        {**ROW, "energy_j": 0.0},
        {**ROW, "energy_j": math.nan},
        {**ROW, "shape": "triangle"},
    ]
    found = energy_runs.read(parquet(tmp_path / "sweep", [ROW, *bad])).runs
    assert len(found) == 1
    text = "; ".join(found.left_out)
    assert "1 runs did not finish" in text
    assert "2 runs have no energy above zero" in text
    assert "1 runs: 'triangle' is not a shape" in text


def test_an_unknown_data_set_without_facts_is_left_out_by_name(tmp_path):
    path = write_csv(tmp_path / "runs.csv", runs(10))
    path.write_text(path.read_text() + "cpu,unheard,rectangle,64,3,300,10,3000\n")
    found = energy_runs.read(path).runs
    assert len(found) == 10
    assert any("'unheard' is not known" in saying for saying in found.left_out)
    path.write_text("device,dataset,shape,size,depth,energy_j\ncpu,unheard,rectangle,64,3,300\n")
    with pytest.raises(DatasetError, match=r"no usable run \(1 runs: [^()]*not given\)\. Try: ") as refused:
        energy_runs.read(path)
    assert str(refused.value).count("Try:") == 1


@pytest.mark.parametrize(
    ("text", "says"), [("device,size\ncpu,3\n", "dataset, shape, depth, energy_j"), ("", "cannot be read")]
)
def test_a_table_without_the_columns_is_refused(tmp_path, text, says):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(DatasetError, match=says):
        energy_runs.read(tmp_path / "runs.csv")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="not there"):
        energy_runs.read(tmp_path / "nothing.csv")


def test_levels_are_parsed_and_their_faults_said():
    device, levels = energy_runs.parse_levels("cpu=L1:32768,L2:1e6,DRAM")
    assert device == "cpu"
    assert [(each.name, each.size_bytes) for each in levels] == [
        ("L1", 32768),
        ("L2", 1e6),
        ("DRAM", math.inf),
    ]
    for text in ("cpu", "cpu=L1:big,DRAM", "=L1:5,DRAM"):
        with pytest.raises(UsageError, match="memory levels"):
            energy_runs.parse_levels(text)


def test_repeated_configurations_share_one_training(tmp_path):
    table = pyarrow.Table.from_pylist([{**ROW, "energy_j": float(k + 1)} for k in range(50)])
    pyarrow.parquet.write_table(table, tmp_path / "runs.parquet")
    found = energy_runs.read(tmp_path / "runs.parquet").runs
    assert len(found.trainings) == 1
    assert np.unique(found.which).tolist() == [0]
    assert len(found) == 50


def test_threads_and_dtypes_that_differ_are_devices_of_their_own(tmp_path):
    rows = [{**ROW, "threads": n, "dtype": "float32"} for n in (1, 2, 2)]
    found = energy_runs.read(parquet(tmp_path / "sweep", rows)).runs
    assert found.device.tolist() == ["cpu, 1 threads", "cpu, 2 threads", "cpu, 2 threads"]
