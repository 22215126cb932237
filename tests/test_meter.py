"""The Meter in a program: what it reports, and that it says so where it saw nothing."""

import asyncio
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import joulemeter
from joulemeter.errors import SourceUnavailable, UsageError
from joulemeter.meter import Meter, metered

CONSTANT = "simulated:load=constant,busy=100,idle=10"


def test_a_known_power_is_metered_to_half_a_percent_and_within_its_interval() -> None:
    with Meter(sources=[CONSTANT]) as meter:
        time.sleep(0.3)
    truth = 100 * meter.time_s
    assert meter.energy_j == pytest.approx(truth, rel=0.005)
    assert meter.energy.low_j <= truth <= meter.energy.high_j


def test_short_windows_hold_the_truth_in_their_interval() -> None:
    for _ in range(3):
        with Meter(sources=[CONSTANT]) as meter:
            time.sleep(0.01)
        assert meter.energy.low_j <= 100 * meter.time_s <= meter.energy.high_j


def test_a_wrap_is_no_phantom_energy() -> None:
    with Meter(sources=[f"{CONSTANT},range=20,start=15"]) as meter:
        time.sleep(0.25)
    assert meter.energy_j == pytest.approx(100 * meter.time_s, rel=0.01)


def test_a_vanished_meter_is_unknown_and_not_zero() -> None:
    with Meter(sources=[f"{CONSTANT},vanish=0.1s"]) as meter:
        time.sleep(0.4)
    assert math.isnan(meter.energy_j)
    assert any("failed" in note for note in meter.ledger.notes)


def test_failed_reads_of_a_counter_lose_nothing() -> None:
    with Meter(sources=[f"{CONSTANT},fail=11"]) as meter:
        time.sleep(0.3)
    assert meter.energy_j == pytest.approx(100 * meter.time_s, rel=0.01)


def test_nested_spans_of_threads_and_tasks_keep_their_parents() -> None:
    async def task(meter: Meter, name: str) -> None:
        with meter.span(name):
            await asyncio.sleep(0.02)
            with meter.span(name + ".inner"):
                await asyncio.sleep(0.02)

    async def both(meter: Meter) -> None:
        await asyncio.gather(task(meter, "one"), task(meter, "two"))

    with Meter(sources=[CONSTANT]) as meter:
        asyncio.run(both(meter))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda n: _held(meter, n), ["three", "four"]))
    spans, names = meter.run.spans, {site.id: site.name for site in meter.run.sites}
    parents = {}
    for row in range(len(spans)):
        parent = int(spans.parent[row])
        parents[names[int(spans.site[row])]] = names[int(spans.site[parent])] if parent >= 0 else None
    assert parents["one.inner"] == "one"
    assert parents["two.inner"] == "two"
    assert parents["four.inner"] == "four"
    lanes = {names[int(s)]: int(lane) for s, lane in zip(spans.site, spans.lane, strict=True)}
    assert lanes["one"] != lanes["two"], "two tasks interleave: each has a lane of its own"
    meter.ledger.check()


def _held(meter: Meter, name: str) -> None:
    with meter.span(name), meter.span(name + ".inner"):
        threading.Event().wait(0.01)


def test_energy_between_two_moments_of_a_running_meter() -> None:
    with Meter(sources=[CONSTANT]) as meter:
        time.sleep(0.05)
        start = time.monotonic_ns()
        time.sleep(0.2)
        end = time.monotonic_ns()
        time.sleep(0.05)
        energy = meter.energy_between(start, end)
        assert math.isnan(meter.energy_between(start, end + 10**12).energy_j), "the future is not known"
    assert energy.energy_j == pytest.approx(100 * (end - start) / 1e9, rel=0.01)


def test_metered_functions_are_spans_of_the_meter_around_them() -> None:
    @metered
    def work(x: int) -> int:
        return x + 1

    with Meter(sources=[CONSTANT]) as meter:
        assert work(1) == 2
    assert any(site.name.endswith("work") for site in meter.run.sites)


def test_a_metered_function_alone_says_its_joules_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @metered
    def work() -> int:
        return 7

    assert work() == 7
    line = capsys.readouterr().err
    assert "work" in line
    assert "estimated" in line or "measured" in line


def test_an_exception_passes_through_and_the_meter_is_closed() -> None:
    meter = Meter(sources=[CONSTANT])
    with pytest.raises(ZeroDivisionError), meter:
        _ = 1 / 0
    assert meter.energy_j > 0


def test_a_source_that_refuses_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        pytest.raises(SourceUnavailable, match=r"powercap|rapl"),
        Meter(sources=[f"rapl:{tmp_path}/none"], folder=tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_figures_before_the_end_are_refused() -> None:
    meter = Meter(sources=[CONSTANT])
    with pytest.raises(UsageError, match="not ended"):
        _ = meter.energy_j
    with meter:
        pass
    with pytest.raises(UsageError, match="used already"):
        meter.__enter__()


def test_the_run_folder_is_kept_where_asked(tmp_path: Path) -> None:
    with Meter(sources=[CONSTANT], folder=tmp_path / "run"):
        time.sleep(0.02)
    assert joulemeter.load(tmp_path / "run").timelines()[0].total_j > 0


def test_a_killed_program_leaves_its_meter_readable(tmp_path: Path) -> None:
    code = (
        "import joulemeter, os, signal, time\n"
        f"meter = joulemeter.Meter(sources=['{CONSTANT}'], folder='{tmp_path}/run')\n"
        "with meter, meter.span('train'):\n    time.sleep(0.2)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    back = joulemeter.load(tmp_path / "run")
    assert back.interrupted
    assert {site.name for site in back.sites} == {"meter", "train"}
    assert back.timelines()[0].total_j == pytest.approx(20, rel=0.3)


def test_every_public_name_is_importable_and_documented() -> None:
    for name in joulemeter.__all__:
        assert getattr(joulemeter, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'jules'"):
        _ = joulemeter.jules


def test_a_frozen_counter_is_a_gap_and_not_a_machine_without_power() -> None:
    with Meter(sources=[f"{CONSTANT},freeze=0.1s"]) as meter:
        time.sleep(0.9)
    line = meter.run.timelines()[0]
    assert [gap.reason for gap in line.gaps] == ["frozen"]
    assert line.total_j < 20
    assert math.isnan(meter.energy_j)
