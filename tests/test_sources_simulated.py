"""A machine of known power, and readings replayed: the truth is given, so every figure is checked against it."""

import json
import math
import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import timeline
from joulemeter.errors import SourceUnavailable, UsageError
from joulemeter.sources import replay, simulated


class Time:
    def __init__(self):
        self.now = 3_000_000_000

    def __call__(self):
        return self.now


def machine(argument):
    clock = Time()
    return simulated.Simulated(simulated._machine(argument), argument, clock), clock


def watched(argument, period_s=0.01, times=300):
    source, clock = machine(argument)
    opened, readings = clock.now, []
    for _ in range(times):
        readings += source.read()
        clock.now += round(period_s * 1e9)
    lines = [
        timeline.from_readings(
            rail,
            np.array([r.t_ns for r in readings if r.rail == rail.id]),
            np.array([r.value for r in readings if r.rail == rail.id]),
        )
        for rail in source.rails
    ]
    return source, lines, opened


def test_power_follows_the_load_that_is_named():
    machine = simulated.Machine(load="step", at=1.0)
    assert [machine.energy_j(t) for t in (0.5, 1.0, 2.0)] == pytest.approx([10, 20, 120])
    machine = simulated.Machine(load="burst", each=0.1)
    assert [machine.energy_j(t) for t in (0.1, 0.2, 0.25, 0.4)] == pytest.approx([10, 12, 17, 24])
    assert simulated.Machine(load="constant").energy_j(3.0) == pytest.approx(300)


@given(
    load=st.sampled_from(["constant", "step", "burst"]),
    times=st.lists(st.floats(0, 1e4), min_size=2, max_size=20),
)
def test_the_truth_never_decreases_and_stays_between_idle_and_busy(load, times):
    machine = simulated.Machine(load=load)
    times = sorted(times)
    energies = [machine.energy_j(t) for t in times]
    for (t0, e0), (t1, e1) in zip(
        zip(times, energies, strict=True), list(zip(times, energies, strict=True))[1:], strict=False
    ):
        assert 20 * (t1 - t0) - 1e-6 <= e1 - e0 <= 100 * (t1 - t0) + 1e-6


@pytest.mark.parametrize("kind", ["counter", "gauge"])
@pytest.mark.parametrize("load", ["constant", "step", "burst"])
def test_what_its_meter_shows_is_the_truth(kind, load):
    source, lines, opened = watched(f"load={load},kind={kind},packages=2,dram=5,period=10ms")
    seconds = (lines[0].t_ns[-1] - opened) / 1e9
    first_s = (lines[0].t_ns[0] - opened) / 1e9
    truth = source.machine.energy_j(seconds) - source.machine.energy_j(first_s)
    assert lines[0].total_j + lines[1].total_j == pytest.approx(truth, rel=2e-3)
    assert lines[2].total_j == pytest.approx(5 * (seconds - first_s), rel=2e-3)


def test_a_wrap_within_the_watch_costs_no_joule():
    _, (line,), _ = watched("load=constant,range=262143,start=262100")
    assert line.total_j == pytest.approx(100 * 2.99, rel=1e-3)


def test_reads_that_fail_are_gaps_of_a_counter_that_lose_nothing():
    _, (line,), _ = watched("load=constant,fail=11")
    assert line.failed == 300 // 11
    assert line.total_j == pytest.approx(100 * 2.99, rel=1e-2)


def test_a_counter_set_back_is_a_gap_and_no_phantom():
    _, (line,), _ = watched("load=constant,back=1s,start=5000")
    assert [gap.reason for gap in line.gaps] == ["reset"]
    assert line.total_j == pytest.approx(100 * 2.98, rel=1e-2)


def test_a_machine_that_vanishes_is_known_up_to_then():
    _, (line,), opened = watched("load=constant,vanish=1s")
    assert line.failed == 200
    assert math.isnan(line.between(opened, opened + 2_000_000_000))
    assert line.total_j == pytest.approx(99.0)


def test_a_frozen_counter_stands_still():
    source, clock = machine("load=constant,freeze=1s")
    clock.now += 1_500_000_000
    first = source.read()[0].value
    clock.now += 1_000_000_000
    assert source.read()[0].value == first


def test_cpu_load_moves_with_what_really_runs():
    source = simulated.open("idle=0,busy=100")
    first = source.read()[0].value
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    worked_j = source.read()[0].value - first
    assert worked_j >= 100 * 0.1 / (simulated.os.cpu_count() or 1)


@pytest.mark.parametrize(
    "argument", ["colour=red", "busy=much", "load=square", "period=0s", "at=1 parsec", "packages=x"]
)
def test_a_figure_it_does_not_know_is_refused(argument):
    with pytest.raises(UsageError, match="simulated: "):
        simulated.open(argument)


# ── replay ──────────────────────────────────────────────────────────────────────────────────────────────


def drained(source, clock, until_ns):
    clock.now += until_ns
    return source.read()


def test_a_table_is_given_out_at_its_own_pace_on_this_runs_clock(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("t_s,package-0_j,gpu_w\n10,1.0,50\n10.5,,60\n11,2.0,70\n")
    opened = replay.open(str(file))
    clock = Time()
    source = replay.Replay(str(file), opened.rails, replay._table(file)[1], clock)
    start = clock.now
    assert [(r.rail, r.t_ns - start, r.value) for r in source.read()] == [(0, 0, 1.0), (1, 0, 50.0)]
    assert source.read() == []
    later = drained(source, clock, 600_000_000)
    assert [(r.rail, r.t_ns - start) for r in later] == [(0, 500_000_000), (1, 500_000_000)]
    assert math.isnan(later[0].value)
    assert not source.ended
    drained(source, clock, 600_000_000)
    assert source.ended
    assert [(rail.name, rail.kind, rail.origin) for rail in source.rails] == [
        ("package-0", "counter", "replayed"),
        ("gpu", "gauge", "replayed"),
    ]


RAIL = {
    "id": 4,
    "name": "package-0",
    "kind": "counter",
    "origin": "measured",
    "period_ns": 1_000_000,
    "inside": 9,
}


def test_a_finished_run_folder_is_replayed_with_its_rails_numbered_from_zero(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "rails": [RAIL]}))
    table = pyarrow.table({"rail": [4, 4], "t_ns": [100, 200], "value": [1.0, float("nan")]})
    parquet.write_table(table, tmp_path / "readings.parquet")
    source = replay.open(str(tmp_path))
    assert [(rail.id, rail.inside, rail.origin, rail.note) for rail in source.rails] == [
        (0, None, "replayed", "recorded as measured")
    ]
    values = [reading.value for reading in source.read()]
    assert values[0] == 1.0
    assert math.isnan(values[1])


def test_a_run_that_was_killed_is_replayed_up_to_its_torn_record(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "state": "recording"}))
    (raw / "rails.json").write_text(json.dumps([{**RAIL, "id": 0, "inside": None}]))
    record = struct.Struct("<hqd")
    (raw / "readings-0.bin").write_bytes(record.pack(0, 10, 1.0) + record.pack(0, 20, 2.0) + b"\0\0\0")
    assert [reading.value for reading in replay.open(str(tmp_path)).read()] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("time,package_j\n1,2\n", "not t_ns or t_s"),
        ("t_s,package\n1,2\n", "does not end in _j"),
        ("t_s,package_j\n", "no readings"),
        ("t_s,package_j\n1,two\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_table_of_another_shape_is_refused_with_the_reason(tmp_path, content, words):
    (tmp_path / "table.csv").write_text(content)
    with pytest.raises(SourceUnavailable, match=words):
        replay.open(str(tmp_path / "table.csv"))


def test_a_torn_run_folder_is_refused_with_one_remedy(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "rails": [{"id": 0}]}))
    (tmp_path / "raw").mkdir()
    with pytest.raises(
        SourceUnavailable, match=r"a rail lacks a key .*\)\. Try: a run folder, or a CSV"
    ) as refused:
        replay.open(str(tmp_path))
    assert str(refused.value).count("Try:") == 1


@pytest.mark.parametrize("argument", ["", "/nowhere/at/all"])
def test_nothing_to_replay_is_refused(argument):
    with pytest.raises(SourceUnavailable, match="replay:"):
        replay.open(argument)
