"""How old what a counter shows is: ticks are followed, their pace is found, and a wrong guess does not stay."""

from __future__ import annotations

import numpy as np
import pytest

from joulemeter.design import Stretches
from joulemeter.occupancy import occupy
from joulemeter.ticks import ASKED_NS, Curve, Steps, Ticks, bins_of, curve, follow, paced
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


@pytest.mark.parametrize(
    ("tick_ms", "period_ms", "better"), [(1.0, 10.0, 0.6), (5.0, 20.0, 0.4), (20.1, 20.0, 0.2)]
)
def test_ages_are_known_far_better_than_as_anything_up_to_a_tick(
    tick_ms: float, period_ms: float, better: float
) -> None:
    steps, energy, true_ns = _read(program(2, WATTS, LENGTHS, seconds=8.0), tick_ms, period_ms)
    ticks = Ticks(0.0, tick_ms * MS, 0.01)
    ages = follow(steps, energy, ticks, bins_of(ticks))
    busy = steps.variance > 0
    error_ns = (ages.reading @ ages.ages_ns - true_ns)[1:][busy]
    assert np.sqrt(np.mean(error_ns**2)) < better * tick_ms * MS / np.sqrt(12)
    spread_ns = np.sqrt(ages.reading @ ages.ages_ns**2 - (ages.reading @ ages.ages_ns) ** 2)[1:][busy]
    assert np.sqrt(np.mean(error_ns**2)) < 2 * np.sqrt(np.mean(spread_ns**2))


@pytest.mark.parametrize(("tick_ms", "period_ms"), [(0.98, 10.0), (5.0, 20.0), (20.6, 20.0)])
def test_the_pace_of_a_counter_is_found(tick_ms: float, period_ms: float) -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), tick_ms, period_ms)
    found = paced(steps.take(slice(200, 500)), energy, Ticks(0.0, 2.0 * MS, 0.02), told=True)
    assert found.period_ns == pytest.approx(tick_ms * MS, rel=0.01)


def test_a_counter_that_is_fresh_when_asked_is_said_to_be() -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=8.0), 1e-4, 20.0)
    assert (
        paced(steps.take(slice(100, 400)), energy, Ticks(0.0, 5.0 * MS, 0.02), told=True).period_ns
        == ASKED_NS
    )


def test_readings_apart_by_a_hole_are_not_followed_across_it() -> None:
    steps, energy, _ = _read(program(2, WATTS, LENGTHS, seconds=4.0), 5.0, 20.0)
    steps.known[100] = False
    ages = follow(steps, energy, Ticks(0.0, 5.0 * MS, 0.01), 20)
    assert np.isfinite(ages.score)
    assert ages.reading.sum(axis=1) == pytest.approx(1.0)
