"""The plugin, run by pytest itself in a folder of its own."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from joulemeter.ledger import Energy
from joulemeter.pytest_plugin import Energies

pytest_plugins = ["pytester"]
SOURCE = "--energy-source=simulated:load=constant,busy=100"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(
        """
        import os, time, pytest

        @pytest.mark.energy(max="50 J")
        def test_small():
            time.sleep(float(os.environ.get("NAP", "0.1")))

        @pytest.mark.energy(max="5 J")
        def test_large():
            time.sleep(0.2)

        def test_parts(energy):
            with energy("short"):
                time.sleep(0.05)
            with energy("long"):
                time.sleep(0.2)
            assert energy["short"].high_j < energy["long"].low_j
        """
    )
    return pytester


def test_a_limit_is_kept_by_the_interval(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess(SOURCE)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*more than 5 J*", "*simulated*test_small*", "*test_parts[[]long[]]*"])


def test_a_baseline_is_saved_and_a_hungrier_test_fails(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.runpytest_subprocess(SOURCE, "-k", "small", "--energy-save").assert_outcomes(passed=1)
    saved = json.loads(Path(project.path, ".joulemeter/energy.json").read_text())
    (entry,) = saved["tests"].values()
    assert entry["energy_j"] == pytest.approx(10, rel=0.3)
    assert entry["origin"] == "simulated"
    again = project.runpytest_subprocess(SOURCE, "-k", "small", "--energy-compare")
    again.assert_outcomes(passed=1)
    monkeypatch.setenv("NAP", "0.3")
    result = project.runpytest_subprocess(SOURCE, "-k", "small", "--energy-compare")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_small takes * % more than its baseline; 5 % is allowed*"])


def test_parts_are_compared_too_and_fail_where_the_test_is_marked(pytester: pytest.Pytester) -> None:
    body = """
        import os, time, pytest

        @pytest.mark.energy(rel=0.2)
        def test_marked(energy):
            with energy("nap"):
                time.sleep(float(os.environ.get("NAP", "0.1")))
            time.sleep(0.5)

        def test_plain(energy):
            with energy("nap"):
                time.sleep(float(os.environ.get("NAP", "0.1")))
        """
    pytester.makepyfile(body)
    pytester.runpytest_subprocess(SOURCE, "--energy-save").assert_outcomes(passed=2)
    pytester.makepyfile(body.replace('"0.1"', '"0.6"').replace("sleep(0.5)", "sleep(0.01)"))
    result = pytester.runpytest_subprocess(SOURCE, "--energy-compare")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*test_marked[[]nap[]] takes * more than its baseline; 20 %*", "*test_plain[[]nap[]]  more"]
    )


@pytest.mark.parametrize("energy", [Energy(18, 15, 22), Energy(math.nan, math.nan, math.nan)], ids=str)
def test_a_limit_that_the_interval_does_not_decide_is_said(energy: Energy) -> None:
    energies = Energies(SimpleNamespace(getoption=lambda _: None))  # type: ignore[arg-type]
    energies.metered = {"near": (energy, "estimated"), "far": (Energy(1, 0.5, 1.5), "estimated")}
    for name in energies.metered:
        energies._limit(name, "20 J")
    assert energies.verdicts == {"near": "may be above 20 J: the interval cannot tell"}


def test_a_meter_that_does_not_answer_is_one_line(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--energy-source=sundial", "-k", "small")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["joulemeter: there is no source 'sundial'*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*another exception*")


def test_a_missing_baseline_is_a_usage_error(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--energy-compare=none.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*none.json: there is no such energy baseline*"])


def test_under_a_real_xdist_nothing_is_metered_and_the_reason_is_said(project: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = project.runpytest_subprocess(SOURCE, "-rs", "-n", "2")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*share one meter*-n 0*"])
    project.runpytest_subprocess(SOURCE, "-k", "small", "-n", "0").assert_outcomes(passed=1)
