"""The estimate: a power curve by processor, never a measurement and never zero."""

import time
from pathlib import Path

import pytest

from joulemeter.sources import estimate

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {model}\nmodel name\t: Xeon\nstepping\t: {stepping}\n\n"
AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: EPYC\nstepping\t: 0\n\n"


def proc(folder: Path, cpuinfo: str, stat: str | None) -> str:
    (folder / "cpuinfo").write_text(cpuinfo)
    if stat is not None:
        (folder / "stat").write_text(stat)
    return str(folder)


@pytest.mark.parametrize(
    ("cpuinfo", "name", "error"),
    [
        (INTEL.format(model=85, stepping=4), "Skylake", estimate.KNOWN_ERROR),
        (INTEL.format(model=85, stepping=7), "Cascade Lake", estimate.KNOWN_ERROR),
        (INTEL.format(model=143, stepping=8), "Sapphire Rapids", estimate.KNOWN_ERROR),
        (AMD.format(family=23, model=1), "EPYC 1st Gen", estimate.KNOWN_ERROR),
        (AMD.format(family=23, model=49), "EPYC 2nd Gen", estimate.KNOWN_ERROR),
        (AMD.format(family=25, model=1), "EPYC 3rd Gen", estimate.KNOWN_ERROR),
        (AMD.format(family=25, model=17), "EPYC 4th Gen", estimate.KNOWN_ERROR),
        (AMD.format(family=26, model=2), "EPYC 4th Gen", estimate.STAND_IN_ERROR),
        (
            "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n",
            "EPYC 2nd Gen",
            estimate.STAND_IN_ERROR,
        ),
        ("model name\t: Zilog Z80\n\n", "the median of all microarchitectures", estimate.UNKNOWN_ERROR),
        ("", "the median of all microarchitectures", estimate.UNKNOWN_ERROR),
    ],
)
def test_a_processor_finds_its_row_and_a_borrowed_or_missing_one_is_trusted_less(cpuinfo, name, error):
    curve = estimate.curve_of(cpuinfo)
    assert (curve.name, curve.relative_error) == (name, error)
    assert bool(curve.note) == (error != estimate.KNOWN_ERROR)


def test_the_interval_of_an_unknown_processor_reaches_almost_every_row_from_below():
    middle = estimate.curve_of("")
    inside = [full <= middle.full_w * (1 + estimate.UNKNOWN_ERROR) for _, full in estimate._TABLE.values()]
    assert sum(inside) >= len(inside) - 1


def test_joules_are_the_idle_line_plus_the_cpu_seconds_worked(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 4)
    folder = proc(tmp_path, INTEL.format(model=85, stepping=7), "cpu  1000 0 500 90000 70 0 0 0 0 0\n")
    source = estimate.open(folder)
    opened = source._opened_ns
    (tmp_path / "stat").write_text("cpu  1150 0 550 99000 9999 0 0 0 0 0\n")  # 2 CPU seconds; waiting is idle
    (reading,) = source.read()
    curve = source.curve
    seconds = (reading.t_ns - opened) / 1e9
    ticks = 200 / source._ticks_per_s
    assert reading.value == pytest.approx(4 * curve.idle_w * seconds + ticks * (curve.full_w - curve.idle_w))


def test_full_load_costs_the_full_power_of_every_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 2)
    clock = iter([0, 0, 1_000_000_000])
    monkeypatch.setattr(estimate.time, "monotonic_ns", lambda: next(clock))
    source = estimate.open(proc(tmp_path, AMD.format(family=23, model=49), "cpu  100 0 0 0 0 0 0 0 0 0\n"))
    ticks = source._ticks_per_s
    (tmp_path / "stat").write_text(f"cpu  {100 + 2 * ticks} 0 0 0 0 0 0 0 0 0\n")
    assert source.read()[0].value == pytest.approx(2 * 1.6930)


@pytest.mark.parametrize("stat", [None, "cpu  0 0 0 0 0 0 0 0 0 0\n", "nonsense\n"])
def test_where_cpu_time_is_not_counted_half_load_is_assumed_and_said_never_zero(tmp_path, stat):
    source = estimate.open(proc(tmp_path, INTEL.format(model=85, stepping=7), stat))
    time.sleep(0.002)
    first = source.read()[0]
    seconds = (first.t_ns - source._opened_ns) / 1e9
    assert first.value == pytest.approx(
        source._threads * seconds * (source.curve.idle_w + source.curve.full_w) / 2
    )
    rail = source.rails[0]
    assert "half load is assumed" in rail.note
    curve = source.curve
    middle = (curve.idle_w + curve.full_w) / 2
    assert middle * (1 - rail.relative_error) <= curve.idle_w
    assert middle * (1 + rail.relative_error) >= curve.full_w
    assert rail.relative_error < 1


def test_it_says_where_its_curve_is_from_and_that_it_is_an_estimate():
    rail = estimate.open("").rails[0]
    assert rail.origin == "estimated"
    assert "SPECpower_ssj2008" in rail.note
    assert "Cloud Carbon Footprint" in rail.note
    assert rail.relative_error >= estimate.KNOWN_ERROR


def test_it_advances_with_work_on_this_machine():
    source = estimate.open("")
    first = source.read()[0]
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    last = source.read()[0]
    seconds = (last.t_ns - first.t_ns) / 1e9
    idle_j = source.curve.idle_w * source._threads * seconds
    assert last.value - first.value > idle_j + 0.03 * (source.curve.full_w - source.curve.idle_w)
