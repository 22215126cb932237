"""External meters joined to runs: what was not seen is not energy, and integrals are worked by hand."""

import json
import math
from datetime import datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import dataset, energy_runs, join
from joulemeter.cli.join import command
from joulemeter.errors import DatasetError, UsageError

RAMP = join.Log(np.arange(0.0, 601, 60), np.arange(100.0, 1101, 100), np.array([]), np.array([]))


def one(log: join.Log, start: float, end: float, **how) -> join.Joined:
    return join.integrate(log, np.array([start]), np.array([end]), **how)


@pytest.mark.parametrize(
    ("start", "end", "method", "energy"),
    [
        (0, 60, "hold", 6_000.0),
        (30, 90, "hold", 30 * 100 + 30 * 200.0),
        (0, 600, "hold", 60 * 5_500.0),
        (0, 60, "linear", 60 * 150.0),
        (30, 90, "linear", 60 * 200.0),
        (10, 20, "linear", 10 * 125.0),
    ],
)
def test_integrals_worked_by_hand(start, end, method, energy) -> None:
    found = one(RAMP, start, end, method=method)
    assert found.energy_j[0] == pytest.approx(energy)
    assert found.gap_s[0] == 0
    assert found.low_j[0] <= found.energy_j[0] <= found.high_j[0]


@settings(deadline=None)
@given(
    st.lists(st.floats(1, 1e4), min_size=4, max_size=30),
    st.tuples(*[st.floats(0, 1)] * 3).map(sorted),
    st.sampled_from(["hold", "linear"]),
)
def test_the_parts_of_a_run_add_up_to_it(power, edges, method) -> None:
    log = join.Log(np.arange(len(power)) * 10.0, np.array(power), np.array([]), np.array([]))
    a, b, c = (edge * log.t_s[-1] for edge in edges)
    found = join.integrate(log, np.array([a, b, a]), np.array([b, c, c]), method)
    if c - a > 1 and b - a > 1 and c - b > 1:
        assert found.energy_j[0] + found.energy_j[1] == pytest.approx(found.energy_j[2])


def test_a_gap_is_not_energy() -> None:
    """Ten samples at 100 W, an hour of nothing, ten more: the hour is unknown, not 100 W and not 0 J."""
    t_s = np.concatenate([np.arange(10.0) * 60, 4_140 + np.arange(10.0) * 60])
    log = join.Log(t_s, np.full(20, 100.0), np.array([]), np.array([]))
    assert math.isnan(one(log, 0, 4_680).energy_j[0])
    assert one(log, 0, 4_680).gap_s[0] == pytest.approx(3_600)
    assert one(log, 0, 540).energy_j[0] == pytest.approx(54_000)
    assert one(log, 0, 4_680, gap_s=1e4).energy_j[0] == pytest.approx(468_000)


def test_a_small_gap_is_filled_at_the_mean_and_widens_the_interval() -> None:
    t_s = np.delete(np.arange(101.0) * 60, [50, 51, 52])
    log = join.Log(t_s, np.where(t_s < 3_000, 100.0, 200.0), np.array([]), np.array([]))
    found = one(log, 0, 6_000)
    assert found.gap_s[0] == 240
    seen = 49 * 60 * 100 + (6_000 - 3_180) * 200
    assert found.energy_j[0] == pytest.approx(seen * 6_000 / 5_760)
    assert found.high_j[0] - found.low_j[0] >= 240 * 100


def test_time_outside_the_log_is_not_extrapolated() -> None:
    assert math.isnan(one(RAMP, -600, 60).energy_j[0])
    assert math.isnan(one(RAMP, 700, 800).energy_j[0])


def test_a_run_shorter_than_the_sampling_is_flagged_with_the_samples_around_it() -> None:
    found = one(RAMP, 185, 195)
    assert found.short[0]
    assert (found.low_j[0], found.high_j[0]) == (10 * 300, 10 * 600)
    assert not one(RAMP, 0, 300).short[0]


def files(tmp_path, times, power, runs):
    (tmp_path / "logs").mkdir(exist_ok=True)
    for host, watts in power.items():
        lines = [f"{t},{w}" for t, w in zip(times, watts, strict=True)]
        (tmp_path / "logs" / f"{host}.csv").write_text("time,power_w\n" + "\n".join(lines) + "\n")
    (tmp_path / "runs.csv").write_text("name,device,dataset,shape,size,depth,host,start,end\n" + runs)
    return tmp_path / "logs", tmp_path / "runs.csv"


MINUTES = [f"2024-07-01 {k // 60:02d}:{k % 60:02d}:00" for k in range(180)]
RUN = "cpu,banana,rectangle,512,3"


def test_several_nodes_of_a_job_are_kept_apart(tmp_path) -> None:
    logs, runs = files(
        tmp_path, MINUTES, {"n1": [100] * 180, "n2": [300] * 180},
        f'a,{RUN},"n1, n2",2024-07-01 01:00:00,2024-07-01 02:00:00\n'
        f"b,{RUN},n3,2024-07-01 01:00:00,2024-07-01 02:00:00\n",
    )  # fmt: skip
    tally = join.join(logs, runs, tmp_path / "d", join.Columns(zone="UTC"))
    assert (tally.runs, tally.lines, tally.joined, tally.no_log) == (2, 3, 2, 1)
    found = {(r.name, r.facts["node"]): r for r in dataset.read(tmp_path / "d").records}
    assert found["a", "n1"].energy_j == 360_000
    assert found["a", "n2"].energy_j == 1_080_000
    assert found["a", "n1"].facts["integration"] == "hold"
    assert math.isnan(found["b", "n3"].energy_j)
    assert len(energy_runs.read(tmp_path / "d").runs) == 2


def test_time_zones_are_explicit(tmp_path) -> None:
    """Local times in Denver (−6 h in July) against runs that say their offset."""
    power = [100] * 60 + [500] * 60 + [100] * 60
    run = f"a,{RUN},n1,2024-07-01T07:00:00Z,2024-07-01T08:00:00+00:00\n"
    logs, runs = files(tmp_path, MINUTES, {"n1": power}, run)
    join.join(logs, runs, tmp_path / "d", join.Columns(zone="America/Denver"))
    assert dataset.read(tmp_path / "d").records[0].energy_j == 500 * 3600
    with pytest.raises(UsageError, match="say no zone"):
        join.join(logs, runs, tmp_path / "e", join.Columns())
    assert not (tmp_path / "e").exists()


def test_zero_readings_are_left_out_and_counted(tmp_path) -> None:
    power = [100, 0] * 30 + [100] * 120
    run = f"a,{RUN},n1,2024-07-01 00:00:00,2024-07-01 02:00:00\n"
    logs, runs = files(tmp_path, MINUTES, {"n1": power}, run)
    tally = join.join(logs, runs, tmp_path / "d", join.Columns(zone="UTC"))
    (record,) = dataset.read(tmp_path / "d").records
    assert tally.zero_readings == record.facts["zero_readings"] == 30
    assert record.energy_j == 100 * 7200


def test_readings_that_are_no_number_are_left_out_and_counted(tmp_path) -> None:
    """Whole numbers first, then an error, then decimals: what a log's first thousand lines say is no law."""
    power = [100] * 1200 + ["ERR"] * 2 + [100.5] * 300
    run = f"a,{RUN},n1,2024-07-01 18:20:00,2024-07-01 21:40:00\n"
    day = datetime(2024, 7, 1)
    times = [str(day + timedelta(minutes=k)) for k in range(len(power))]
    logs, runs = files(tmp_path, times, {"n1": power}, run)
    with (logs / "n1.csv").open("a") as log:
        log.write("not a time,100\n")
    tally = join.join(logs, runs, tmp_path / "d", join.Columns(zone="UTC"))
    (record,) = dataset.read(tmp_path / "d").records
    assert tally.unread_readings == record.facts["unread_readings"] == 2
    assert tally.unread_times == 1
    assert record.facts["zero_readings"] == 0
    assert 100 * 12_000 < record.energy_j < 100.5 * 12_000


def test_any_column_names_and_numbers_as_times(tmp_path) -> None:
    (tmp_path / "pdu.csv").write_text("ts,node,W\n" + "".join(f"{k * 1000},x,50\n" for k in range(0, 100)))
    (tmp_path / "jobs.csv").write_text("name,node,began,took\nj,x,10000,20\n")
    arguments = [
        tmp_path / "pdu.csv",
        tmp_path / "jobs.csv",
        "-o",
        tmp_path / "d",
        "--time",
        "ts",
        "--power",
        "W",
    ]
    arguments += ["--host", "node", "--start", "began", "--duration", "took", "--unit", "ms", "--json"]
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert json.loads(result.stdout)["joined"] == 1
    assert dataset.read(tmp_path / "d").records[0].energy_j == pytest.approx(1_000)


def test_what_is_not_there_is_refused(tmp_path) -> None:
    logs, runs = files(
        tmp_path, MINUTES, {"n1": [1] * 180}, f"a,{RUN},n1,2024-07-01 00:00:00,2024-07-01 02:00:00\n"
    )
    for meters, given_runs, columns in [
        (tmp_path / "none", runs, join.Columns(zone="UTC")),
        (logs, tmp_path / "none.csv", join.Columns(zone="UTC")),
        (logs, runs, join.Columns(zone="UTC", power="kW")),
        (logs, runs, join.Columns(zone="UTC", end="finish")),
    ]:
        with pytest.raises(DatasetError):
            join.join(meters, given_runs, tmp_path / "d", columns)
        assert not (tmp_path / "d").exists()
    join.join(logs, runs, tmp_path / "d", join.Columns(zone="UTC"))
    with pytest.raises(DatasetError, match="already"):
        join.join(logs, runs, tmp_path / "d", join.Columns(zone="UTC"))


def test_an_unknown_zone_is_a_line_and_a_run_that_was_not_seen_is_not_called_filled(tmp_path) -> None:
    (tmp_path / "m.csv").write_text("time,power_w,host\n2023-11-05T00:10:00Z,100,n1\n")
    (tmp_path / "r.csv").write_text("host,start,end\nn1,2023-11-05T00:05:00Z,2023-11-05T00:15:00Z\n")
    with pytest.raises(UsageError, match="no time zone 'Nowhere/Land'"):
        join.join(tmp_path / "m.csv", tmp_path / "r.csv", tmp_path / "o", join.Columns(zone="Nowhere/Land"))
    tally = join.join(tmp_path / "m.csv", tmp_path / "r.csv", tmp_path / "o", join.Columns())
    assert (tally.too_little_seen, tally.gaps) == (1, 0)


def test_meters_and_runs_have_column_names_and_units_of_their_own(tmp_path) -> None:
    (tmp_path / "pdu.csv").write_text(
        "ts,outlet,W\n" + "".join(f"{1000 * t},n1,100\n" for t in range(0, 601, 10))
    )
    (tmp_path / "runs.csv").write_text("where,start,end\nn1,60,160\n")
    meter = ["--time", "ts", "--power", "W", "--host", "outlet", "--unit", "ms"]
    runs = ["--run-host", "where", "--run-unit", "s"]
    found = join_into(tmp_path, [*meter, *runs])
    assert [record.energy_j for record in found] == [pytest.approx(10_000)]


def test_a_sweep_is_joined_by_its_own_host_and_seconds_whatever_the_meter_calls_them(tmp_path) -> None:
    from joulemeter.record import Record

    (tmp_path / "pdu.csv").write_text(
        "ts,outlet,W\n" + "".join(f"{1000 * t},n1,100\n" for t in range(0, 601, 10))
    )
    facts = {"host": "n1", "start": 60.0, "end": 160.0}
    dataset.append(
        tmp_path / "runs.csv", [Record(level="run", family="mlp", origin="estimated", facts=facts)]
    )
    found = join_into(tmp_path, ["--time", "ts", "--power", "W", "--host", "outlet", "--unit", "ms"])
    assert [record.energy_j for record in found] == [pytest.approx(10_000)]


def join_into(folder, options):
    """The records of ``joulemeter join pdu.csv runs.csv``."""
    where = [str(folder / name) for name in ("pdu.csv", "runs.csv")]
    result = CliRunner().invoke(command, [*where, "-o", str(folder / "joined"), *options])
    assert result.exit_code == 0, result.output
    return dataset.read(folder / "joined").records
