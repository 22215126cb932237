"""The plugin, run by pytest itself in a folder of its own."""

import json
from pathlib import Path

import pytest

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
    result.stdout.fnmatch_lines(["*of its baseline's energy more*"])


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
