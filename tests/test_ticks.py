"""How old what a counter shows is: its pace is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from joulemeter.occupancy import occupy
from joulemeter.stretches import Stretches
from joulemeter.ticks import ASKED_NS, Curve, Steps, Ticks, curve, excerpt, followed, paced
from simulated_machine import IDLE_W, MS, Machine, S, program

WATTS = [15.0, 120.0, 45.0, 80.0, 30.0]
LENGTHS = [3.0, 5.0, 1.0, 2.0, 8.0]
NONE = Stretches(np.empty(0, np.int64), np.empty(0, np.int64))


def _read(
    made: Machine, tick_ms: float, period_ms: float, jitter: float = 0.01
) -> tuple[Steps, Curve, np.ndarray]:
    """Steps of a counter, the energy that it counts, and the true age of each reading in ns."""
    rng = np.random.default_rng(4)
    t_ns = np.cumsum(period_ms * MS + rng.exponential(50_000, int(made.end_ns / period_ms / MS))).astype(
        np.int64
    )
    ticks = np.cumsum(
        tick_ms * MS * (1 + jitter * rng.standard_normal(int(made.end_ns / tick_ms / MS * 1.2)))
    )
    seen = ticks[np.maximum(np.searchsorted(ticks, t_ns, side="right") - 1, 0)] if tick_ms > 1e-3 else t_ns
    step = np.diff(made.energy(seen))
    watts = np.append(np.array(WATTS), 0.0)
    occupancy = occupy(made.sites, made.spans)
    scatter = curve(occupancy, NONE, 0.05**2 * watts**2 * 0.004)
    known = np.ones(len(step), bool)
    resting = IDLE_W * np.diff(t_ns) / S
    steps = Steps(t_ns, step - resting, np.diff(scatter.at(t_ns)), known, step == 0, IDLE_W)
    return steps, curve(occupancy, NONE, watts), t_ns - seen


@pytest.mark.parametrize(("tick_ms", "period_ms"), [(0.98, 10.0), (5.0, 20.0), (20.6, 20.0)])
def test_the_pace_of_a_counter_is_found(tick_ms: float, period_ms: float) -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), tick_ms, period_ms)
    found = paced(steps.take(slice(200, 500)), energy, Ticks(0.0, 2.0 * MS, 0.02), told=True)[-1]
    assert found.period_ns == pytest.approx(tick_ms * MS, rel=0.01)


@pytest.mark.parametrize("tick_ms", [27.0, 50.0, 105.0])
def test_the_pace_of_a_counter_that_is_read_more_often_than_it_ticks_is_found(tick_ms: float) -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=12.0), tick_ms, 20.0)
    assert steps.silent
    part = steps.take(slice(100, 600))
    found = paced(part, energy, Ticks(0.0, 20.0 * MS, 0.02), told=True, silent=True)[0]
    assert found.period_ns == pytest.approx(tick_ms * MS, rel=0.02)


def test_a_hole_in_the_readings_is_no_slow_tick() -> None:
    """Two seconds that nobody read, counted as one step, made ticks of 20 ms seem 22 ms apart."""
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=12.0), 20.6, 20.0)
    kept = np.delete(np.arange(500), slice(200, 300))
    step = np.diff(np.append(0.0, np.cumsum(steps.joules))[kept])
    holed = replace(
        steps,
        t_ns=steps.t_ns[kept],
        joules=step,
        variance=steps.variance[kept[:-1]],
        known=np.diff(kept) == 1,
        stale=steps.stale[kept[:-1]] & (np.diff(kept) == 1),
    )
    assert holed.silent
    found = paced(holed.take(slice(100, 350)), energy, Ticks(0.0, 20.0 * MS, 0.02), told=True, silent=True)[0]
    assert found.period_ns == pytest.approx(20.6 * MS, rel=0.01)


def test_a_counter_that_is_fresh_when_asked_is_said_to_be() -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), 1e-4, 20.0)
    assert (
        paced(steps.take(slice(100, 400)), energy, Ticks(0.0, 5.0 * MS, 0.02), told=True)[0].period_ns
        == ASKED_NS
    )


def test_of_many_steps_some_stretches_stand_for_all_and_what_joins_them_is_unknown() -> None:
    steps, _, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), 1.0, 10.0)
    some = excerpt(steps, 300)
    assert len(some.t_ns) == 300
    assert (~some.known).sum() == 9
    np.testing.assert_array_equal(some.joules[:29], steps.joules[:29])
    assert excerpt(steps, 10_000) is steps


@pytest.mark.parametrize("tick_ms", [20.15, 19.85])
def test_ages_are_followed_through_the_saw(tick_ms: float) -> None:
    steps, energy, age_ns = _read(program(2, WATTS, LENGTHS, seconds=8.0), tick_ms, 20.0)
    mean, sigma = followed(steps, energy, Ticks(0.0, tick_ms * MS, 0.01))
    inner = slice(20, -20)
    off = (mean - age_ns)[inner]
    assert np.sqrt(np.mean(off**2)) < 0.05 * tick_ms * MS
    assert np.mean(np.abs(off) < 3 * sigma[inner] + 0.02 * tick_ms * MS) > 0.95


def test_ages_of_which_nothing_tells_are_anywhere_in_a_period() -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), 20.15, 20.0)
    nothing = replace(steps, known=np.zeros(len(steps.joules), bool))
    mean, sigma = followed(nothing, energy, Ticks(0.0, 20.0 * MS, 0.01))
    np.testing.assert_allclose(mean, 10.0 * MS, rtol=1e-6)
    np.testing.assert_allclose(sigma, 20.0 * MS / np.sqrt(12), rtol=1e-2)
