"""qc: what is filtered and why; idle stands beside the raw energy, never in its place."""

import json
import math

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import dataset, qc
from joulemeter.cli.qc import command
from joulemeter.record import Record


def run(energy_j=100.0, time_s=10.0, **facts) -> Record:
    return Record(
        level="run", family="mlp", origin="simulated", name=str(facts.pop("name", "")), device="cpu",
        time_s=time_s, energy_j=energy_j, idle_power_w=facts.pop("idle_w", 4.0), facts={"status": "done", **facts},
    )  # fmt: skip


def checked(records, rules) -> qc.Report:
    return qc.check(dataset.table_of(records), rules)


def kept(report: qc.Report) -> list[Record]:
    return [Record.from_row(row) for row in report.kept.to_pylist()]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (run(energy_j=0.0), "zero energy"),
        (run(energy_j=-3.0), "zero energy"),
        (run(energy_j=math.nan), "energy unknown"),
        (run(time_s=math.nan), "run time unknown"),
        (run(time_s=0.5), "run time too short"),
        (run(time_s=500.0), "run time too long"),
        (run(status="failed", error="no memory"), "did not finish"),
    ],
)
def test_each_reason_is_told(record, reason) -> None:
    report = checked([record, run()], qc.Rules(shortest_s=1, longest_s=100))
    assert len(report.kept) == 1
    assert report.filtered[0].reason.startswith(reason)


def test_an_outlier_is_one_within_its_group_in_log_space() -> None:
    small = [run(energy_j=100 * f, size=32) for f in (0.98, 0.99, 1.0, 1.01, 1.02)]
    large = [run(energy_j=9e5 * f, size=64) for f in (0.98, 0.99, 1.0, 1.01, 1.02)]
    report = checked([*small, *large, run(energy_j=250, size=32), run(energy_j=40, size=32)], qc.Rules())
    assert len(report.kept) == 10
    assert sorted(each.energy_j for each in report.filtered) == [40, 250]
    assert "2.5 times above" in report.filtered[0].reason
    assert "2.5 times below" in report.filtered[1].reason


def test_groups_too_small_for_a_median_have_no_outliers() -> None:
    assert len(checked([run(), run(), run(energy_j=9e9)], qc.Rules()).kept) == 3


def test_idle_is_a_column_beside_the_raw_energy() -> None:
    (found,) = kept(checked([run()], qc.Rules(reference_w=2.0)))
    assert found.energy_j == 100
    assert found.facts["idle_j"] == 40
    assert found.facts["above_idle_j"] == 60
    assert found.facts["standardized_j"] == 80
    assert found.facts["status"] == "done"


def test_checking_the_kept_again_replaces_the_columns_and_adds_none() -> None:
    once = checked([run()], qc.Rules(reference_w=2.0)).kept
    (found,) = [
        Record.from_row(row) for row in qc.check(once, qc.Rules(idle_w={"cpu": 1.0})).kept.to_pylist()
    ]
    assert found.facts["idle_j"] == 10
    assert found.facts["standardized_j"] == 80


@pytest.mark.parametrize(
    "text", ["{}", '{"host": "n1"} ', '{"phases": {"data": {"j": 1}}}', '{"idle_j": 3}', None]
)
def test_facts_of_any_kind_keep_what_they_say_and_gain_the_columns(text) -> None:
    rows = dataset.table_of([run(energy_j=1e-7), run(idle_w=math.nan)])
    position = rows.column_names.index("facts")
    rows = rows.set_column(position, "facts", pyarrow.array([text, text], pyarrow.string()))
    first, second = [
        json.loads(each or "{}") for each in qc.check(rows, qc.Rules()).kept["facts"].to_pylist()
    ]
    before = json.loads(text or "{}")
    assert first == {**before, "idle_j": 40.0, "above_idle_j": 1e-7 - 40.0}
    assert second == before


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 50)), min_size=1, max_size=30))
def test_medians_of_groups_are_those_of_their_members(members) -> None:
    groups, values = (np.array(each) for each in zip(*members, strict=True))
    numbered = np.unique(groups, return_inverse=True)[1]
    expected = [np.median(values[numbered == k]) for k in range(numbered.max() + 1)]
    assert qc._medians(numbered, values) == pytest.approx(expected)


def test_idle_of_a_host_comes_before_that_of_its_device_and_the_runs_own() -> None:
    rules = qc.Rules(idle_w={"cpu": 5.0, "node7": 6.0})
    found = kept(checked([run(), run(host="node7")], rules))
    assert [each.facts["idle_j"] for each in found] == [50, 60]


def test_unknown_idle_is_left_out_and_counted() -> None:
    report = checked([run(idle_w=math.nan), run()], qc.Rules())
    assert report.no_idle == 1
    assert "idle_j" not in kept(report)[0].facts


def test_the_command_writes_the_kept_and_leaves_the_data_set_alone(tmp_path) -> None:
    dataset.append(tmp_path / "raw", [run(name="a"), run(name="b", energy_j=0.0)])
    arguments = [str(tmp_path / "raw"), "-o", str(tmp_path / "clean"), "--reference", "2", "--idle", "cpu=1"]
    found = json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert found["kept"] == 1
    assert found["runs"] == [{"name": "b", "device": "cpu", "energy_j": 0.0, "reason": "zero energy: 0 J"}]
    (clean,) = dataset.read(tmp_path / "clean").records
    assert clean.facts["standardized_j"] == 110
    assert len(dataset.read(tmp_path / "raw")) == 2
    text = CliRunner().invoke(command, [str(tmp_path / "raw")], catch_exceptions=False).stdout
    assert "1 of 2 runs kept" in text
    assert "b: zero energy" in text
