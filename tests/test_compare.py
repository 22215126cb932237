"""Differences and verdicts: given only where the interval allows one."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import series
from joulemeter.cli.compare import _figures
from joulemeter.comparison import Repeated, difference, repeated
from joulemeter.isolation import Interval
from joulemeter.ledger import UNKNOWN, Energy
from joulemeter.reading import Rail
from joulemeter.report import repeated as repeated_text
from joulemeter.run import Run
from joulemeter.span import Spans

JOULEMETER = [sys.executable, "-m", "joulemeter"]


def around(value: float, half: float) -> Energy:
    return Energy(value, value - half, value + half)


def test_verdicts_by_hand() -> None:
    assert difference(around(100, 1), around(110, 1)).verdict == "more"
    assert difference(around(100, 1), around(90, 1)).verdict == "less"
    assert difference(around(100, 8), around(110, 8)).verdict == "no difference seen"  # 10 ± 11.3
    assert difference(around(100, 1), UNKNOWN).verdict == "not known"


def test_a_change_without_an_upper_bound_says_so_and_not_infinity() -> None:
    shown = _figures(difference(around(100, 100), around(50, 1)))
    assert "or more)" in shown[2]
    assert "inf" not in shown[2]
    assert "to +" in _figures(difference(around(100, 1), around(110, 1)))[2]


def test_the_limit_is_passed_only_by_the_whole_interval() -> None:
    change = difference(around(100, 1), around(105, 1))
    assert change.relative.value == pytest.approx(0.05)
    assert change.is_above(0.03)
    assert not change.is_above(0.045)
    assert change.may_be_above(0.045)
    assert not change.may_be_above(0.08)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(0, 0.5), st.floats(0, 0.5))
def test_swapping_the_two_turns_the_difference_round(a: float, b: float, wa: float, wb: float) -> None:
    one, other = (
        difference(around(a, wa * a), around(b, wb * b)),
        difference(around(b, wb * b), around(a, wa * a)),
    )
    assert one.joules.value == pytest.approx(-other.joules.value)
    assert one.joules.low == pytest.approx(-other.joules.high)
    turned = {"more": "less", "less": "more"}
    assert other.verdict == turned.get(one.verdict, one.verdict)


def test_intervals_of_differences_hold() -> None:
    """Normal errors of 2 % and 3 %: the truth lies inside in 95 % of 4,000 draws."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(4000):
        a, b = 100 + rng.normal(0, 2), 104 + rng.normal(0, 3)
        interval = difference(around(a, 1.96 * 2), around(b, 1.96 * 3)).joules
        held += interval.low <= 4 <= interval.high
    assert 0.94 <= held / 4000 <= 0.96


def test_an_outlier_is_named_and_still_counted() -> None:
    values = [10.0, 10.1, 9.9, 10.0, 10.05, 14.0]
    found = repeated(values)
    assert found.outliers == (5,)
    assert found.mean.value == pytest.approx(np.mean(values))
    assert math.isnan(repeated([1.0]).mean.value), "one run knows nothing of its scatter"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of three short runs, and one run of three times the work."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "w.py").write_text("import sys, time\ntime.sleep(float(sys.argv[1]))\n")
    common = [*JOULEMETER, "run", "--source", "simulated:load=constant", "--idle", "0.1s"]
    for options, name, seconds in (
        (["--repeat", "3"], "short", "0.1"),
        ([], "long", "0.4"),
        ([], "again", "0.4"),
    ):
        subprocess.run(
            [*common, *options, "-o", name, "w.py", seconds],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
    return folder


def compare(runs: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*JOULEMETER, "compare", *options], cwd=runs, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_series_against_a_longer_run_is_more_and_fails_the_check(runs: Path) -> None:
    done = compare(runs, "short", "long", "--fail-above", "3%", "--json")
    assert done.returncode == 10
    total = json.loads(done.stdout)["total"]
    assert total["verdict"] == "more"
    assert total["relative"]["low"] > 0.03


def test_less_energy_passes_the_check(runs: Path) -> None:
    assert compare(runs, "long", "short", "--fail-above", "3%").returncode == 0


def test_a_series_reports_its_mean_and_each_run(runs: Path) -> None:
    done = subprocess.run(
        [*JOULEMETER, "report", "short", "--format", "json"],
        cwd=runs,
        capture_output=True,
        text=True,
        check=True,
    )
    series = json.loads(done.stdout)
    assert len(series["energies_j"]) == 3
    assert series["energy"]["low_j"] <= np.mean(series["energies_j"]) <= series["energy"]["high_j"]
    assert series["origins"] == ["simulated"]


def test_a_run_that_was_interrupted_is_no_repetition_and_is_left_out_of_the_figures(
    runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(runs / "short", folder)
    header = json.loads((folder / "3" / "run.json").read_text())
    (folder / "3" / "run.json").write_text(json.dumps({**header, "interrupted": True}))
    cut = series.load(folder)
    assert [each.folder.name for each in cut.runs] == ["1", "2"]
    assert cut.energy_j.values == series.load(runs / "short").energy_j.values[:2]
    assert cut.notes[-1] == "left out of all figures, for it was interrupted: run 3"
    assert len(series.load(folder / "3").runs) == 1, "by itself it is shown"


def test_no_time_of_a_series_is_below_zero_in_print() -> None:
    wide = Interval(1.0, -2.2, 4.2)
    time_s, energy_j = Repeated((0.5, 1.5), wide, 1.0, ()), Repeated((5.0, 15.0), wide, 10.0, ())
    energies = (around(5, 1), around(15, 1))
    shown = repeated_text.text(series.Series(Path("s"), (), energies, energy_j, time_s, ()))
    assert "(0 s – 4.20 s)" in shown


def test_one_run_has_no_mean_and_no_scatter_in_print() -> None:
    one = repeated([5.0])
    shown = repeated_text.text(
        series.Series(Path("s"), (), energies=(around(5, 1),), energy_j=one, time_s=one, notes=())
    )
    assert "mean  not known by one run" in shown
    assert "inf" not in shown


def test_runs_of_different_origin_are_not_compared(runs: Path, tmp_path: Path) -> None:
    run_json = runs / "again" / "run.json"
    header = json.loads(run_json.read_text())
    header["rails"][0]["origin"] = "measured"
    run_json.write_text(json.dumps(header))
    done = compare(runs, "long", "again")
    assert done.returncode == 2
    assert "more of the meters than of the programs" in done.stderr


def test_the_markdown_form_is_a_table(runs: Path) -> None:
    lines = compare(runs, "long", "short", "--format", "markdown").stdout.splitlines()
    assert lines[0] == "### Energy, simulated: B takes less than A"
    assert lines[3] == "|---|---:|---:|---:|---|"
    assert all(line.count("|") == 6 for line in lines[2:5])


def recorded(before_w: float, during_w: float, after_w: float, cpu_s: float) -> Run:
    """A second before a program, a second of it, and a second after it, under a counter read every 10 ms."""
    t_ns = np.arange(0, 3_000_000_001, 10_000_000)
    watts = np.repeat([before_w, during_w, after_w], 100)
    joules = np.append(0.0, np.cumsum(watts * 0.01))
    rail = Rail(id=0, name="package-0", kind="counter", origin="simulated", period_ns=10_000_000)
    header = {"program": {"start_ns": 1_000_000_000, "end_ns": 2_000_000_000, "cpu_s": cpu_s}}
    spans = Spans(*(np.empty(0, kind) for kind in (np.int32, np.int32, np.int64, np.int64, np.int64)))
    return Run(Path("r"), header, (rail,), (), spans, np.zeros(len(t_ns), np.int16), t_ns, joules)


def test_idle_that_differs_before_and_after_the_program_is_remarked_on() -> None:
    assert series.remarks(recorded(20.0, 80.0, 20.4, cpu_s=0.9)) == []
    found = series.remarks(recorded(20.0, 80.0, 26.0, cpu_s=0.9))
    assert found == ["idle power drifted: 20 W before the program, 26 W after it"]


def test_a_program_that_worked_while_the_power_stayed_at_idle_is_remarked_on() -> None:
    assert [note[:13] for note in series.remarks(recorded(20.0, 20.1, 20.0, cpu_s=0.9))] == ["flat but busy"]
    assert series.remarks(recorded(20.0, 20.1, 20.0, cpu_s=0.1)) == [], "it slept"
