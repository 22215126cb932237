"""Scores: the published figures, missing cells, intervals, doubts, and the faults of tables."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import dataset, score_data, score_flags, score_tables, scoring
from joulemeter.cli.score import command
from joulemeter.errors import DatasetError, UsageError
from joulemeter.record import Record

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "deepen2023"
needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published score tables are not here")


def make(energy: list[list[float]], power: list[list[float]] | None = None, **changes) -> scoring.ScoreTable:
    """A table of devices A, B, … and cells n0/CPU1, n1/CPU1, …; NaN is a missing cell."""
    values = np.array(energy, float)
    watts = np.array(power, float) if power else np.where(np.isnan(values), np.nan, 2.0)
    given = {
        "devices": tuple("ABCDEFGH"[: len(values)]),
        "cells": tuple((f"n{i}", "CPU1") for i in range(values.shape[1])),
        "power_w": watts,
        "energy_j": values,
        "time_s": np.full(values.shape, np.nan),
        "power_error": np.full(values.shape, 0.05),
        "energy_error": np.full(values.shape, 0.05),
        "tdp_w": np.full(len(values), 10.0),
    }
    return scoring.ScoreTable(**{**given, **changes})


def published(mend: bool = False) -> tuple[scoring.ScoreTable, list[score_tables.DeviceRow]]:
    devices = score_tables.read_devices(PUBLISHED / "devices.csv")
    table = score_tables.read_table(PUBLISHED / "applications.csv", devices)
    return (score_flags.mended(table) if mend else table), devices


@needs_published
def test_pcs_is_the_published_one_on_all_eight_devices():
    table, devices = published()
    assert [score.value for score in scoring.pcs(table)] == [75, 78, 62, 78, 74, 70, 67, 56]
    assert [score.value for score in scoring.pcs(table)] == [device.pcs_published for device in devices]


@needs_published
@pytest.mark.parametrize("reference", range(8))
def test_iecs_follows_the_published_one_whichever_device_is_the_reference(reference):
    table, devices = published(mend=True)
    ours = np.array([score.value for score in scoring.iecs(table, reference)])
    assert scoring.pearson(ours, np.array([device.iecs_published for device in devices])) >= 0.95


@needs_published
def test_the_one_misprint_is_suspected_and_nothing_else():
    suspects = score_flags.suspected_misprints(published()[0])
    found = [(each.flag.network, each.flag.processor, each.quantity, each.mended) for each in suspects]
    assert found == [("DNN2", "NNAPI", "energy_j", 0.265)]


@needs_published
@pytest.mark.parametrize("quantity", ["power_w", "energy_j"])
@pytest.mark.parametrize("factor", [10, 0.1, 100])
def test_a_slip_planted_where_devices_agree_is_found(quantity, factor):
    """Even in the column that holds the published misprint already."""
    table, _ = published()
    for cell in (("DNN2", "NNAPI"), ("DNN1", "CPU1"), ("DNN8", "CPU4")):
        column = table.cells.index(cell)
        values = getattr(table, quantity).copy()
        values[0, column] *= factor
        slipped = replace(table, **{quantity: values})
        found = [(each.row, each.column, each.quantity) for each in score_flags.suspected_misprints(slipped)]
        assert (0, column, quantity) in found


@needs_published
def test_the_command_prints_the_promised_object(tmp_path):
    result = CliRunner().invoke(
        command,
        [
            "--table",
            str(PUBLISHED / "applications.csv"),
            "--devices",
            str(PUBLISHED / "devices.csv"),
            "--json",
        ],
    )
    data = json.loads(result.stdout)
    first, second = data["devices"][:2]
    assert first["device"] == "OnePlus 8 Pro"
    assert first["pcs"]["low"] < first["pcs"]["value"] < first["pcs"]["high"]
    assert first["iecs"]["value"] == pytest.approx(100)
    assert second["coverage"] == pytest.approx(33 / 35)
    assert second["coverage_by_processor"]["NNAPI"] == {"cells": 10, "missing": 1}
    assert any(flag["kind"] == "possible-misprint" for flag in second["flags"])
    assert data["published"]["iecs_pearson_misprints_mended"] >= 0.95


@needs_published
def test_leaving_out_a_devices_dearest_cells_does_not_make_it_frugal(tmp_path):
    """With a plain mean over what is left, dropping the dear networks would raise the score by a third."""
    table, _ = published(mend=True)
    energy = table.energy_j.copy()
    dear = np.argsort(scoring.two_way(energy).cell)[-10:]
    energy[3, dear] = np.nan
    fewer = scoring.ScoreTable(**{k: getattr(table, k) for k in table.__slots__} | {"energy_j": energy})
    whole, part = scoring.iecs(table, 0)[3], scoring.iecs(fewer, 0)[3]
    assert part.value == pytest.approx(whole.value, rel=0.12)
    assert part.low <= whole.value <= part.high
    assert part.high - part.low > 1.5 * (whole.high - whole.low)


def test_pcs_by_hand():
    table = make([[1.0, 1.0, 1.0]], power=[[1.0, 2.0, 6.0]], power_error=np.full((1, 3), 0.1))
    score = scoring.pcs(table)[0]
    # 100 (1 − 3/10) = 70; ten per cent of 3 W is 0.3 W, 3 points of 10 W.
    assert (score.value, score.low, score.high) == (70, pytest.approx(67), pytest.approx(73))


def test_no_interval_of_pcs_reaches_above_a_hundred():
    (score,) = scoring.pcs(replace(make([[1.0]]), power_error=np.array([[12.0]])))
    assert score.low < score.value <= score.high == 100


def test_iecs_by_hand_is_a_geometric_mean():
    # B needs 1/4 and 4 times A's energy, and 1/8: the cube root of 4 · 1/4 · 8 = 2.
    score = scoring.iecs(make([[1.0, 1.0, 8.0], [0.25, 4.0, 1.0]]), 0)
    assert score[0].value == pytest.approx(100)
    assert score[1].value == pytest.approx(200)
    assert score[1].high == pytest.approx(200 * math.exp(0.05))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.01, 100), min_size=4, max_size=4), min_size=2, max_size=5),
    st.floats(0.1, 10),
    st.integers(0, 3),
)
def test_scaling_a_devices_energies_scales_its_iecs_and_no_one_elses(energy, factor, column):
    table = make(energy)
    scaled = [list(row) for row in energy]
    scaled[1] = [value * factor for value in scaled[1]]
    scaled[0][column], kept = math.nan, [list(row) for row in energy]
    kept[0][column] = math.nan
    before, after = scoring.iecs(make(kept), 0), scoring.iecs(make(scaled), 0)
    assert after[1].value == pytest.approx(before[1].value / factor, rel=1e-6)
    assert [s.value for s in after[2:]] == pytest.approx([s.value for s in before[2:]], rel=1e-6)
    assert scoring.coverage(table) == [1.0] * len(energy)


def test_a_device_that_shares_no_cell_with_the_reference_has_no_iecs():
    table = make([[1.0, 2.0, math.nan], [math.nan, math.nan, 3.0]])
    assert math.isnan(scoring.iecs(table, 0)[1].value)
    device = score_data.scored(table).data["devices"][1]
    assert device["iecs"]["value"] is None
    assert [flag["kind"] for flag in device["flags"]] == ["no-common-cell", "no-interval"]


def test_a_device_that_shares_cells_through_a_third_is_compared():
    # C costs twice B, B costs three times A.
    table = make([[1.0, 2.0, math.nan, math.nan], [3.0, 6.0, 9.0, math.nan], [math.nan, math.nan, 18.0, 5.0]])
    assert scoring.iecs(table, 0)[2].value == pytest.approx(100 / 6)


def test_scores_whose_intervals_meet_are_tied():
    table = make([[1.0, 1.0], [1.03, 1.03], [2.0, 2.0]])
    scores = scoring.iecs(table, 0)
    assert scoring.tied(table.devices, scores) == [("A", "B")]
    assert scoring.ranks(scores) == [(1, 2), (1, 2), (3, 3)]


def test_an_unknown_interval_tells_nothing_apart():
    one, other = scoring.Score(10, math.nan, math.nan), scoring.Score(1, math.nan, math.nan)
    assert scoring.tied(("A", "B"), [one, other]) == [("A", "B")]


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.25, "A"), (0.26, "B"), (0.6, "C"), (1, "D"), (1.5, "E"), (3, "F"), (4.01, "G")]
)
def test_labels_by_the_documented_limits(ratio, expected):
    assert scoring.label(ratio) == expected


def test_networks_are_labelled_within_their_task_only():
    table = make([[1.0, 4.0, 100.0]], tasks={"n0": "vision", "n1": "vision", "n2": "speech"})
    found = {network.name: network for network in scoring.networks(table)}
    assert [found[name].label for name in ("n0", "n1", "n2")] == ["B", "E", "?"]
    assert (found["n0"].best, found["n0"].worst) == ("B", "C")


def two_processors(cpu: tuple[float, float], delegate: tuple[float, float]) -> scoring.ScoreTable:
    cells = (("n", "CPU1"), ("n", "NNAPI"))
    return make([[cpu[1], delegate[1]]], power=[[cpu[0], delegate[0]]], cells=cells)


@pytest.mark.parametrize(
    ("delegate", "kinds"),
    [
        ((2.01, 1.02), ["delegate-fell-back"]),
        ((1.2, 0.5), []),
        ((2.5, 4.0), ["delegate-fell-back"]),
        ((2.0, 0.7), []),
    ],
)
def test_a_delegate_that_costs_what_the_cpu_costs_has_fallen_back(delegate, kinds):
    found = score_flags.flags(two_processors((2.0, 1.0), delegate))[0]
    assert [flag.kind for flag in found] == kinds


def test_equal_values_of_many_digits_are_flagged_and_round_ones_are_not():
    found = score_flags.flags(make([[1.0, 2.0, 3.0]], power=[[2.0, 2.7834, 2.7834]]))[0]
    assert [(flag.kind, flag.network) for flag in found] == [("identical-values", "n2")]
    across = score_flags.flags(make([[1.0], [2.0]], power=[[1.4339], [1.4339]]))
    assert [len(flags) for flags in across] == [1, 1]


def test_energy_that_is_not_power_times_time_is_flagged():
    table = make([[1.0, 1.2]], power=[[2.0, 2.0]], time_s=np.array([[0.5, 0.5]]))
    assert [(flag.kind, flag.network) for flag in score_flags.flags(table)[0]] == [
        ("energy-not-power-times-time", "n1")
    ]


def test_a_slipped_decimal_point_is_found_and_mended():
    rows = np.outer([1.0, 1.2, 0.8, 2.0], [1.0, 3.0, 0.5, 7.0, 2.0])
    rows[2, 3] *= 10
    (found, *others) = score_flags.suspected_misprints(make(rows.tolist()))
    assert (found.row, found.column, found.mended, others) == (2, 3, pytest.approx(5.6), [])
    assert score_flags.mended(make(rows.tolist())).energy_j[2, 3] == pytest.approx(5.6)


def test_an_odd_value_among_devices_that_disagree_is_left_alone():
    rows = np.outer([1.0, 1.2, 0.8, 2.0, 1.5], [1.0, 3.0, 0.5, 7.0, 2.0])
    rows[:, 3] *= [0.1, 10, 0.2, 5, 1]
    assert score_flags.suspected_misprints(make(rows.tolist())) == []


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


HEAD = "device,soc,dnn,processor,average_power_W,energy_J\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "no rows"),
        ("device,dnn,processor,energy_J\nA,n,CPU1,1\n", "lacks the column 'average_power_w'"),
        (HEAD + "A,s,n,CPU1,2,0\n", "line 2: energy is 0"),
        (HEAD + "A,s,n,CPU1,2,1\nA,s,m,CPU1,-2,1\n", "line 3: power is -2"),
        (HEAD + "A,s,n,CPU1,2,1 J\n", "line 2: energy is '1 J', no number"),
        (HEAD + "A,s,n,CPU1,2,1\nA,s,n,CPU1,2,1\n", "line 3: A, n, CPU1 stands there twice"),
        (HEAD + "A,s,n,CPU1,,\n", "holds no value"),
        (HEAD + "A,s,n,CPU1,2,1,9,9\n", "line 2: 8 values under 6 headings"),
        (HEAD + ",s,n,CPU1,2,1\n", "line 2: no device"),
        (HEAD + "A,s,n,CPU1,inf,1\n", "infinite"),
    ],
)
def test_a_faulty_table_names_its_line(tmp_path, text, said):
    with pytest.raises(DatasetError, match=said):
        score_tables.read_table(write(tmp_path / "t.csv", text), [])


def test_a_blank_cell_and_a_row_left_out_are_the_same(tmp_path):
    rows = ["A,s,n,CPU1,2,1", "A,s,m,CPU1,3,2", "B,s,n,CPU1,2,1.5"]
    out = score_tables.read_table(write(tmp_path / "out.csv", HEAD + "\n".join(rows)), [])
    blank = score_tables.read_table(
        write(tmp_path / "blank.csv", HEAD + "\n".join([*rows, "B,s,m,CPU1,,NaN"])), []
    )
    for key in ("power_w", "energy_j"):
        np.testing.assert_array_equal(getattr(out, key), getattr(blank, key))
    assert scoring.coverage(blank) == [1.0, 0.5]


def test_devices_without_rows_or_tdp_stay_and_say_so(tmp_path):
    devices = score_tables.read_devices(write(tmp_path / "d.csv", "device,tdp_W\nA,10\nZ,5\n"))
    table = score_tables.read_table(
        write(tmp_path / "t.csv", HEAD + "A,s,n,CPU1,2,1\nB,s,n,CPU1,2,1\n"), devices
    )
    by_name = {each["device"]: each for each in score_data.scored(table, devices).data["devices"]}
    assert by_name["Z"]["coverage"] == 0
    assert by_name["Z"]["iecs"]["value"] is None
    assert [flag["kind"] for flag in by_name["Z"]["flags"]] == ["no-cells"]
    assert by_name["B"]["pcs"]["value"] is None
    assert [flag["kind"] for flag in by_name["B"]["flags"]] == ["no-tdp"]


@pytest.mark.parametrize("text", ["", "\n", HEAD])
def test_an_empty_table_says_what_a_row_looks_like(tmp_path, text):
    with pytest.raises(DatasetError, match=r"Try: .*a row such as 'Phone A,MobileNetV2,CPU1,2.4,0.11'"):
        score_tables.read_table(write(tmp_path / "t.csv", text), [])


def test_what_is_missing_is_named_and_an_interval_that_cannot_be_said_has_its_reason(tmp_path):
    rows = "A,s,n,CPU1,2,1\nA,s,m,CPU1,3,2\nB,s,n,CPU1,4,\nB,s,m,CPU1,,3\nC,s,n,CPU1,3,\n"
    table = write(tmp_path / "t.csv", HEAD + rows)
    result = CliRunner().invoke(command, ["--table", str(table), "--tdp", "10"])
    assert "unknown to unknown" not in result.stdout
    assert "B: 2 of CPU1: n CPU1 (energy), m CPU1 (power)" in result.stdout
    assert "B: no-interval, cells are missing, and too few are shared" in result.stdout
    assert "C: no-cells, the table has no energy for this device: no IECS" in result.stdout


def test_a_cells_own_interval_widens_the_score(tmp_path):
    head = (
        HEAD.strip()
        + ",energy_low_J,energy_high_J,average_power_low_W,average_power_high_W,latency_ms,task\n"
    )
    table = score_tables.read_table(
        write(tmp_path / "t.csv", head + "A,s,n,CPU1,2,1,0.8,1.2,1.9,2.1,500,vision\n"), []
    )
    assert table.energy_error[0, 0] == pytest.approx(0.2)
    assert table.power_error[0, 0] == pytest.approx(0.05)
    assert table.time_s[0, 0] == pytest.approx(0.5)
    assert table.tasks == {"n": "vision"}
    assert not table.errors_assumed


def test_tdp_from_the_command_line_overrides_the_table(tmp_path):
    tdp = score_tables.parse_tdp(["A=20", "5 W"])
    table = score_tables.read_table(
        write(tmp_path / "t.csv", HEAD + "A,s,n,CPU1,2,1\nB,s,n,CPU1,2,1\n"), [], tdp
    )
    assert [score.value for score in scoring.pcs(table)] == [90, 60]


@pytest.mark.parametrize("text", ["A=", "A=ten", "0", "A=-1", "inf"])
def test_a_tdp_that_is_no_power_is_refused(text):
    with pytest.raises(UsageError):
        score_tables.parse_tdp([text])


def test_a_reference_that_is_not_there_is_refused_with_the_names_that_are():
    with pytest.raises(UsageError, match="one of A, B"):
        score_data.scored(make([[1.0], [2.0]]), [], "Z")


def test_the_tables_tdp_sensitivity_is_shown(tmp_path):
    path = write(tmp_path / "d.csv", "device,tdp_printed_W,tdp_consistent_W\nA,20,10\n")
    devices = score_tables.read_devices(path)
    table = score_tables.read_table(write(tmp_path / "t.csv", HEAD + "A,s,n,CPU1,2,1\n"), devices)
    pcs = score_data.scored(table, devices).data["devices"][0]["pcs"]
    assert pcs["value"] == 80
    assert pcs["tdp_plus_10_percent"] == pytest.approx(100 * (1 - 2 / 11))
    assert pcs["other_tdp"] == {"tdp_printed_w": {"tdp_w": 20.0, "value": pytest.approx(90)}}


def test_the_text_names_ties_flags_and_intervals(tmp_path):
    rows = "A,s,n,CPU1,2,1\nB,s,n,CPU1,2,1.01\nA,s,n,NNAPI,2,1\nB,s,n,NNAPI,2,1.01\n"
    table = write(tmp_path / "t.csv", HEAD + rows)
    result = CliRunner().invoke(command, ["--table", str(table), "--tdp", "10"])
    assert result.exit_code == 0, result.output
    assert "delegate-fell-back, n NNAPI" in result.stdout
    assert "A and B cannot be told apart by PCS" in result.stdout
    assert "A and B cannot be told apart by IECS" in result.stdout
    assert "80   79.0 to 81.0" in result.stdout
    assert "78 to 82" in result.stdout  # the score, had the TDP been a tenth less or more


def a_record(device: str, energy: float, **changes) -> Record:
    given = {"level": "model", "family": "vision", "origin": "measured", "network": "net", "backend": "CPU1"}
    return Record(**{**given, "device": device, "energy_j": energy, "time_s": 0.5, **changes})


def test_data_sets_are_scored_like_tables(tmp_path):
    records = [
        a_record("A", 1.0, energy_low_j=0.9, energy_high_j=1.1),
        a_record("B", 2.0, power_w=3.0),
        a_record("B", 99.0, level="kernel", network="a kernel is no application"),
    ]
    dataset.append(tmp_path / "d", records)
    table = score_tables.from_datasets([tmp_path / "d"], tdp_w={"": 10.0})
    assert table.cells == (("net", "CPU1"),)
    assert [score.value for score in scoring.pcs(table)] == [80, 70]
    assert scoring.iecs(table, 0)[1].value == pytest.approx(50)
    assert table.energy_error[0, 0] == pytest.approx(0.1)
    assert table.tasks == {"net": "vision"}
    assert score_data.scored(table).data["origin"] == "measured"


def test_repeats_that_scatter_widen_the_cell(tmp_path):
    dataset.append(tmp_path / "d", [a_record("A", 1.0), a_record("A", 1.2), a_record("A", 0.8)])
    table = score_tables.from_datasets([tmp_path / "d"])
    # t(0.975, 2) = 4.303; 0.2 / √3 = 0.1155.
    assert table.energy_error[0, 0] == pytest.approx(4.303 * 0.11547, rel=1e-3)


def test_data_sets_without_networks_are_refused(tmp_path):
    dataset.append(tmp_path / "d", [a_record("A", 1.0, level="kernel")])
    with pytest.raises(DatasetError, match="no energy of an application"):
        score_tables.from_datasets([tmp_path / "d"])
