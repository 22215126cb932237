"""doctor: every source is watched or refused, with what would mend it."""

import json
import math

import pytest
from click.testing import CliRunner

from joulemeter import doctor, sources
from joulemeter.cli.doctor import command
from test_sources_contract import powercap_tree


def test_a_simulated_machine_is_seen_as_it_is():
    check = doctor.check("simulated:load=constant,period=5ms", watch_s=1.0)
    (rail,) = check.rails
    assert check.found
    assert rail.power_w == pytest.approx(100, rel=0.1)
    assert rail.period_s >= 0.0049
    assert rail.noise_w >= 0
    assert check.read_cpu_s > 0


def test_a_counter_that_stands_still_has_no_power_rather_than_zero(tmp_path):
    tree = powercap_tree(tmp_path, {"intel-rapl:0": ("package-0", 5)})
    (rail,) = doctor.check(f"rapl:{tree}", watch_s=0.1).rails
    assert math.isnan(rail.power_w)
    assert rail.to_json()["power_w"] is None


def test_an_absent_source_is_its_reason_and_its_remedy(tmp_path):
    check = doctor.check(f"rapl:{tmp_path}")
    assert not check.found
    assert check.to_json() == {
        "spec": f"rapl:{tmp_path}",
        "found": False,
        "used": False,
        "fact": f"rapl: {tmp_path} holds no RAPL zone",
        "remedy": "a folder laid out as /sys/class/powercap",
    }


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "WATCH_S", 0.05)
    monkeypatch.setattr(doctor.check_all, "__defaults__", ((), 0.05))


def test_every_meter_and_the_estimate_are_told_in_json(quick):
    done = CliRunner().invoke(command, ["--json", "--source", "simulated:load=constant"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    specs = [source["spec"] for source in told["sources"]]
    assert specs == [*sources.meters(), "estimate", "simulated:load=constant"]
    assert told["use"] == [s["spec"] for s in told["sources"] if s["found"] and s["used"]]
    assert all(source["found"] or source["fact"] for source in told["sources"])


def test_the_text_says_what_a_run_would_use_and_fits_a_narrow_terminal(quick, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = CliRunner().invoke(command, ["--source", "rapl:/nowhere,nvml:fake"])
    assert done.exit_code == 0
    assert "A run uses: " in done.stdout
    assert "✗ rapl:/nowhere" in done.stdout
    assert "Try: a folder laid out as /sys/class/powercap" in done.stdout.replace("\n   ", "")
    assert "SPECpower_ssj2008" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if not line.startswith(("✓", "✗"))) <= 60


def test_without_a_meter_it_says_that_every_figure_is_an_estimate(quick, monkeypatch):
    monkeypatch.setattr(sources, "meters", lambda: ())
    done = CliRunner().invoke(command, [])
    assert "nothing is metered here: every figure will be an estimate" in done.stdout.replace("\n", " ")
