"""Programs and meters of other habits: a lone call, devices beside hosts, calls of two kinds, samples of a moment."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from joulemeter.attribution import attribute
from joulemeter.beat import beats
from joulemeter.occupancy import occupy
from joulemeter.reading import Rail
from joulemeter.timeline import from_readings
from simulated_machine import MS, S

Rng = np.random.Generator


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import accuracy
    import machines

    machines.true_joules = accuracy.true_joules
    return machines


def _drawn(words: str, seed: int) -> Rng:
    return np.random.default_rng([seed, zlib.crc32(words.encode())])


def _one_after_the_other(
    machines: Any, rng: Rng, watts: Any, mean_ns: Any, order: Callable[[], Iterable[int]], calls: Any = None
) -> Any:
    """Twelve seconds of rounds, with a second and a half of idle before and after."""
    t, rows = int(1.5 * S), []
    stop = t + 12 * S
    while t < stop:
        for site in order():
            t += int(rng.exponential(10_000))
            end = t + max(1000, int(mean_ns[site] * (1 + 0.05 * rng.standard_normal())))
            rows.append((int(site), 0, t, end, -1))
            t = end
    names = [f"call{i}" for i in range(len(watts))]
    habits = machines.Habits(calls, machines.drifting) if calls else None
    return machines.machine(rng, rows, names, watts, t + int(1.5 * S), habits)


def _lone(machines: Any, rng: Rng) -> Any:
    """Four sites by turns, and once, in the sixtieth round, a call of 50 ms at 150 W."""
    watts, mean_ns = rng.uniform(15, 120, 5), machines._durations(rng, 5)
    mean_ns[0], watts[0], rounds = 50 * MS, 150, [0]

    def order() -> Iterable[int]:
        rounds[0] += 1
        lone = [0] if rounds[0] == 60 else []
        return [*lone, *(rng.permutation(4) + 1)]

    return _one_after_the_other(machines, rng, watts, mean_ns, order)


def _of_two_kinds(machines: Any, rng: Rng) -> Any:
    """Of each site's calls three in ten draw three times as much."""

    def calls(rng: Rng, count: int) -> np.ndarray:
        return machines.scattered(rng, count) * np.where(rng.random(count) < 0.3, 3.0, 1.0)

    watts, mean_ns = rng.uniform(15, 80, 5), machines._durations(rng, 5)
    return _one_after_the_other(machines, rng, watts, mean_ns, lambda: rng.permutation(5), calls)


def _device(machines: Any, rng: Rng) -> Any:
    """A host that launches at 4 to 15 W and waits, and a device whose kernels draw 40 to 200 W meanwhile."""
    watts = np.concatenate([rng.uniform(4, 15, 4), rng.uniform(40, 200, 4)])
    mean_ns = machines._durations(rng, 8, 0.3e-3, 8e-3)
    mean_ns[:4], t, rows = rng.uniform(0.1e-3, 1e-3, 4) * S, int(1.5 * S), []
    stop = t + 12 * S

    def length(site: int) -> int:
        return max(1000, int(mean_ns[site] * (1 + 0.05 * rng.standard_normal())))

    while t < stop:
        free = t
        for at in range(12):
            host, kernel = int(rng.integers(0, 3)), 4 + at % 4
            rows.append((host, 0, t, t + length(host), -1))
            t = rows[-1][3] + int(rng.exponential(1e4))
            free = max(free, t)
            rows.append((kernel, 1, free, free + length(kernel), -1))
            free = rows[-1][3] + 2000
        rows.append((3, 0, t, max(free, t + 1000), -1))
        t = max(free, t + 1000) + int(rng.exponential(5e5))
    names = [f"host{i}" for i in range(4)] + [f"kernel{i}" for i in range(4)]
    made = machines.machine(rng, rows, names, watts, t + int(1.5 * S))
    sites = (replace(each, kind="kernel" if each.name[0] == "k" else "call") for each in made.sites)
    return replace(made, sites=tuple(sites))


def _found(machines: Any, made: Any, read: Any) -> tuple[int, float]:
    """How many intervals hold, and how far the worst resolved site is off."""
    ledger = attribute([read], made.sites, made.spans)
    ledger.check()
    true = machines.true_joules(made, read, ledger.rails[0].lag_ns)
    entries = [(site.rails[0], joules) for site, joules in zip(ledger.sites, true, strict=True)]
    held = sum(each.exclusive.low_j <= joules <= each.exclusive.high_j for each, joules in entries)
    off = [abs(each.exclusive.energy_j / joules - 1) for each, joules in entries if each.resolved]
    return held, max(off, default=0.0)


def test_a_lone_call_far_from_where_its_power_was_sought_is_not_said_to_be_known(machines: Any) -> None:
    """The few steps that showed it pulled so hard that they counted as hundreds: 3.755 J, to a tenth of a per cent,
    where it drew 7.25."""
    rng = _drawn("rareGPU counter 20 ms", 5)
    made = _lone(machines, rng)
    held, worst = _found(machines, made, machines.METERS["GPU counter 20 ms"](rng, made).timeline)
    assert held == 5
    assert worst < 0.1


def test_a_device_and_its_host_on_one_rail_may_draw_twenty_times_each_other(machines: Any) -> None:
    """Both are busy all the time, so the meter says their sum alone: taken for alike, one interval in two held."""
    held = 0
    for seed in (1, 2):
        rng = _drawn("deviceGPU counter 20 ms", seed)
        made = _device(machines, rng)
        held += _found(machines, made, machines.METERS["GPU counter 20 ms"](rng, made).timeline)[0]
    assert held >= 15


def test_a_gauge_that_shows_a_moment_is_taken_for_one(machines: Any) -> None:
    """A tenth of a millisecond, every ten: no window so short was tried, nor a lag so fine, and of the windows that
    were the likeliest made a resolved kernel four times too large."""
    rng = _drawn("deviceinstant 10ms", 2)
    made = _device(machines, rng)
    read = machines.gauge(rng, made, period_ns=10 * MS, window_ns=0.1 * MS, lag_ns=rng.uniform(0, 5) * MS,
                          quantum_w=0.1, noise=0.005, told=False)  # fmt: skip
    held, worst = _found(machines, made, read.timeline)
    assert held >= 7
    assert worst < 0.1


@pytest.mark.parametrize("seed", [2, 3])
def test_calls_that_differ_much_do_not_make_a_short_window_likely(machines: Any, seed: int) -> None:
    """Windows of 10 and 23 ms were taken for the 100 of this gauge: sites 40 to 120 % off were called resolved."""
    rng = _drawn("shapesGPU gauge 100 ms", seed)
    made = _of_two_kinds(machines, rng)
    held, worst = _found(machines, made, machines.METERS["GPU gauge 100 ms"](rng, made).timeline)
    assert held >= 4
    assert worst < 0.25


def _by_epochs(machines: Any, rng: Rng) -> Any:
    """Rounds of four calls for a second and a half, of three (one of them the same) for half a second, one of 300 ms
    and one of 20."""
    watts, mean_ns, t, rows = rng.uniform(15, 120, 8), machines._durations(rng, 8), int(1.5 * S), []
    stop = t + 12 * S

    def call(site: int, length: float) -> None:
        nonlocal t
        rows.append((site, 0, t, t + max(1000, int(length * (1 + 0.05 * rng.standard_normal()))), -1))
        t = rows[-1][3] + int(rng.exponential(1e4))

    while t < stop:
        for sites, seconds in (((0, 1, 2, 3), 1.5), ((4, 5, 0), 0.5)):
            until = t + seconds * S
            while t < until:
                for site in sites:
                    call(site, mean_ns[site])
        call(6, 300 * MS)
        call(7, 20 * MS)
    return machines.machine(rng, rows, [f"call{i}" for i in range(8)], watts, t + int(1.5 * S))


def test_a_counter_that_is_fresh_when_asked_is_not_taken_for_one_that_ticks_as_it_is_read(
    machines: Any,
) -> None:
    """Ages that wander took up what calls scatter: four of eight sites held, and a resolved one was 50 % off."""
    rng = _drawn("trainevalGPU counter 20 ms", 1)
    made = _by_epochs(machines, rng)
    held, worst = _found(machines, made, machines.METERS["GPU counter 20 ms"](rng, made).timeline)
    assert held >= 7
    assert worst < 0.1


def _held(machines: Any, rng: Rng, made: Any, window_ms: float) -> Any:
    """A gauge as NVML's may be: asked every 20 ms, it shows a new sample every 100."""
    asked = machines._reads(rng, made, 20 * MS)
    count = int(made.knots_ns[-1] / (100 * MS)) + 2
    taken = 100 * MS * (np.arange(count) + 0.002 * rng.standard_normal(count) - rng.random())
    upto = taken - rng.uniform(0, 50) * MS
    watts = (made.energy(upto) - made.energy(upto - window_ms * MS)) / (window_ms * MS / S)
    watts = np.round(watts * (1 + 0.003 * rng.standard_normal(count)), 3)
    rail = Rail(id=0, name="gpu-0", kind="gauge", origin="simulated", period_ns=20 * MS, lag_ns=None)
    return from_readings(rail, asked, watts[np.maximum(np.searchsorted(taken, asked, side="right") - 1, 0)])


def test_a_sample_that_is_read_five_times_is_one(machines: Any) -> None:
    """It was five under as many windows: none of six sites held, and a resolved one was 70 % off."""
    rng = _drawn("read five times 25", 1)
    made = _one_after_the_other(
        machines, rng, rng.uniform(15, 120, 6), machines._durations(rng, 6), lambda: rng.integers(0, 6, 6)
    )
    held, worst = _found(machines, made, _held(machines, rng, made, 25))
    assert held >= 5
    assert worst < 0.25


def _compiling(machines: Any, rng: Rng) -> Any:
    """Six sites; the first call of each takes 0.2 to 1.5 s at the power of a compiler, the others milliseconds."""
    watts, mean_ns, first, t, rows = (
        rng.uniform(15, 120, 6),
        machines._durations(rng, 6),
        {},
        int(1.5 * S),
        [],
    )
    stop = t + 12 * S
    while t < stop:
        for site in rng.permutation(6):
            if site in first:
                length = mean_ns[site] * (1 + 0.05 * rng.standard_normal())
            else:
                first[site], length = len(rows), rng.uniform(0.2, 1.5) * S
            rows.append((int(site), 0, t, t + max(1000, int(length)), -1))
            t = rows[-1][3] + int(rng.exponential(1e4))

    def calls(rng: Rng, count: int) -> np.ndarray:
        scale = machines.scattered(rng, count)
        scale[list(first.values())] = rng.uniform(12, 30) / watts[list(first)]
        return scale

    names = [f"call{i}" for i in range(6)]
    return machines.machine(
        rng, rows, names, watts, t + int(1.5 * S), machines.Habits(calls, machines.drifting)
    )


@pytest.mark.parametrize("seed", [2, 3])
def test_first_calls_that_compile_have_powers_of_their_own(machines: Any, seed: int) -> None:
    """Taken for calls like the others they passed for another lag: none of six held, one resolved 69 % off."""
    rng = _drawn("firstcallGPU gauge 100 ms", seed)
    made = _compiling(machines, rng)
    held, worst = _found(machines, made, machines.METERS["GPU gauge 100 ms"](rng, made).timeline)
    assert held >= 5
    assert worst < 0.15


def _partly_recorded(machines: Any, rng: Rng) -> Any:
    """Five sites by turns, and after each round 7 ms at 60 W that no span tells of."""
    watts, mean_ns = np.append(rng.uniform(15, 120, 5), 60.0), np.append(machines._durations(rng, 5), 7 * MS)
    made = _one_after_the_other(machines, rng, watts, mean_ns, lambda: [*rng.permutation(5), 5])
    spans, kept = made.spans, made.spans.site < 5
    columns = (each[kept] for each in (spans.site, spans.lane, spans.start_ns, spans.end_ns, spans.parent))
    return replace(
        made,
        sites=made.sites[:5],
        spans=type(spans)(*columns),
        call_w=made.call_w[kept],
        dynamic_j=made.dynamic_j[:5],
    )


@pytest.mark.parametrize(
    ("meter", "seed", "limit"),
    [("GPU gauge 100 ms", 3, 0.1), ("RAPL at 1 ms", 1, 0.03)],
)
def test_work_that_no_span_tells_of_is_not_taken_for_idle_nor_for_the_way_between_calls(
    machines: Any, meter: str, seed: int, limit: float
) -> None:
    """A gauge's lag was sought as if it were idle: a resolved site 76 % off. Under RAPL the way of 10 µs from one
    call to the next was given its power, and short calls were 9 % too low: two of five held."""
    rng = _drawn("untraced" + meter, seed)
    made = _partly_recorded(machines, rng)
    held, worst = _found(machines, made, machines.METERS[meter](rng, made).timeline)
    assert held >= 4
    assert worst < limit


def _cut(read: Any, first_ns: float, last_ns: float) -> Any:
    """The readings from one time to another."""
    low, high = np.searchsorted(read.t_ns, [first_ns, last_ns])
    unknown = read.unknown[low : high - 1]
    return replace(read, t_ns=read.t_ns[low:high], energy_j=read.energy_j[low:high], unknown=unknown)


def test_where_nothing_shows_idle_what_is_net_of_it_is_not_said_to_be_known(machines: Any) -> None:
    """What sites usually draw above idle seemed to tell idle from the sum of both: one in two or three held."""
    held, meter = 0, "GPU gauge 100 ms"
    for seed in (1, 2, 3):
        rng = _drawn("noidle" + meter, seed)
        watts, mean_ns = rng.uniform(15, 120, 5), machines._durations(rng, 5)
        made = _one_after_the_other(machines, rng, watts, mean_ns, partial(rng.permutation, 5))
        read = machines.METERS[meter](rng, made).timeline
        read = _cut(read, 2.2 * S, float(made.spans.end_ns.max()) - 0.1 * S)
        mine, worst = _found(machines, made, read)
        held += mine
        assert worst < 0.25
    assert held >= 14


def _in_bursts(machines: Any, rng: Rng, end_s: float, apart_s: tuple[float, float]) -> Any:
    """Four sites in bursts of 100 ms, so many seconds apart."""
    t, rows = 1.5 * S, []
    watts, mean_ns = rng.uniform(15, 120, 4), machines._durations(rng, 4, 1e-3, 15e-3)
    while t < end_s * S:
        now = int(t)
        while now < t + 100 * MS:
            site = int(rng.integers(0, 4))
            rows.append((site, 0, now, now + max(1000, int(mean_ns[site])), -1))
            now = rows[-1][3] + 10_000
        t += rng.uniform(*apart_s) * S
    return machines.machine(rng, rows, [f"call{i}" for i in range(4)], watts, int(t + 1.0 * S))


def test_bursts_much_shorter_than_a_wall_meters_second_are_not_given_the_idle_between_them(
    machines: Any,
) -> None:
    """No rest was long enough to show idle by itself, so half of all it might be went to the bursts: none held."""
    rng = _drawn("bursts", 3)
    made = _in_bursts(machines, rng, 25.0, (1.3, 1.9))
    held, _ = _found(machines, made, machines.METERS["wall meter 1 s"](rng, made).timeline)
    assert held == 4


@pytest.mark.parametrize("told", [False, True])
def test_a_gauge_read_at_the_pace_of_a_loop_does_not_say_that_what_it_never_shows_drew_nothing(
    machines: Any, told: bool
) -> None:
    """Ten requests a second, a reading each 100 ms of 25: it saw the rest between them, and 95 J were "at most 0.1"."""
    rng, rows = _drawn("cadenceGPU gauge 25 %", 12), []
    watts, mean_ns = rng.uniform(15, 120, 5), machines._durations(rng, 5, 1e-3, 12e-3)
    for k in range(120):
        t = int(1.5 * S + k * 100 * MS + rng.exponential(2e4))
        for site in range(5):
            end = t + max(1000, int(mean_ns[site] * (1 + 0.05 * rng.standard_normal())))
            rows.append((site, 0, t, end, -1))
            t = end + int(rng.exponential(1e4))
    made = machines.machine(rng, rows, [f"call{i}" for i in range(5)], watts, 15 * S)
    read = machines.METERS["GPU gauge 25 %"](rng, made).timeline
    read = replace(read, rail=replace(read.rail, window_ns=25 * MS if told else None))
    ledger = attribute([read], made.sites, made.spans)
    ledger.check()
    assert any("pace of a loop" in note for note in ledger.rails[0].notes) is not told
    if not told:
        true = machines.true_joules(made, read, ledger.rails[0].lag_ns)
        entries = [site.rails[0] for site in ledger.sites]
        assert not any(each.resolved for each in entries)
        assert all(
            each.exclusive.low_j <= j <= each.exclusive.high_j for each, j in zip(entries, true, strict=True)
        )


@pytest.mark.parametrize("meter", ["GPU gauge 100 ms", "GPU gauge 25 %"])
def test_a_loop_at_a_pace_of_its_own_does_not_beat_with_its_meter(machines: Any, meter: str) -> None:
    for seed in range(1700, 1706):
        rng = _drawn("loop, fixed order" + meter, seed)
        made = machines.loop(rng, 20.0)
        read = machines.METERS[meter](rng, made).timeline
        assert not beats(read, occupy(made.sites, made.spans))


def _once_in_a_while(read: Any, every: int) -> Any:
    """The readings of a sensor that shows ten times as much, or nothing, every so many samples."""
    line = read.timeline
    watts = np.diff(line.energy_j) / np.diff(line.t_ns) * 1e9
    watts[every // 2 :: 2 * every] *= 10
    watts[every + every // 2 :: 2 * every] = 0
    return replace(read, timeline=from_readings(line.rail, line.t_ns, np.append(watts[:1], watts)))


@pytest.mark.parametrize("program", ["nested", "loop", "phases"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sensor_that_errs_by_a_factor_once_in_a_while_changes_no_power(
    machines: Any, program: str, seed: int
) -> None:
    """Three samples in a thousand made windows of 10 ms likely, and sites up to 290 % off were called resolved."""
    rng = _drawn("glitch" + program, seed)
    made = getattr(machines, program)(rng, 14.0)
    read = _once_in_a_while(machines.METERS["GPU gauge 100 ms"](rng, made), 70)
    held, worst = _found(machines, made, read.timeline)
    assert held >= len(made.sites) - 1
    assert worst < 0.15


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_powers_that_stay_are_known_to_no_better_than_a_gauges_steps(machines: Any, seed: int) -> None:
    """Of phases under a gauge of whole watts 60 to 85 of a hundred intervals held: rounding was taken to average out."""
    rng = _drawn("whole watts", seed)
    made = machines.phases(rng, 20.0)
    read = machines.gauge(
        rng, made, period_ns=20 * MS, window_ns=20 * MS, lag_ns=5 * MS, quantum_w=1.0, noise=0.0, told=False
    )
    held, worst = _found(machines, made, read.timeline)
    assert held == len(made.sites)
    assert worst < 0.05


@pytest.mark.parametrize("seed", [8, 10])
def test_where_readings_are_too_coarse_to_tell_a_window_bursts_are_not_said_to_draw_nothing(
    machines: Any, seed: int
) -> None:
    """Weighed with a noise far too small, a second's window was dropped for ones of 10 ms: joules known to a few
    per cent where they were a twentieth of the true ones."""
    rng = _drawn("coarse", seed)
    made = _in_bursts(machines, rng, 13.5, (1.6, 2.4))
    read = machines.gauge(
        rng,
        made,
        period_ns=S,
        window_ns=S,
        lag_ns=rng.uniform(500, 1800) * MS,
        quantum_w=4.0,
        noise=0.0,
        told=False,
    )
    held, _ = _found(machines, made, read.timeline)
    assert held == len(made.sites)
