"""Powers under a ticking counter: slopes are those of the score, and where they end is the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from joulemeter import attribution, timeline
from joulemeter.occupancy import Occupancy, occupy
from joulemeter.reading import Rail
from joulemeter.slopes import Spread, Table, Walk, gram_of, slopes, table
from joulemeter.stretches import Stretches
from joulemeter.ticks import Steps, Ticks
from simulated_machine import IDLE_W, MS, Machine, counter, program

WATTS = [15.0, 120.0, 45.0, 80.0, 30.0]
LENGTHS = [3.0, 5.0, 1.0, 2.0, 8.0]
NONE = Stretches(np.empty(0, np.int64), np.empty(0, np.int64))
TRUE = np.array([*WATTS, 0.0, IDLE_W, IDLE_W])
SPREAD = Spread(np.append(0.05**2 * np.array(WATTS) ** 2 * 0.003, 0.0), 1.0, 1e-9)


def _readings(
    made: Machine, tick_ms: float, period_ms: float, seed: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Stamps and joules of a counter that shows its last tick."""
    rng = np.random.default_rng(seed)
    count = int(made.end_ns / period_ms / MS)
    t_ns = np.cumsum(period_ms * MS + rng.exponential(50_000, count)).astype(np.int64)
    ticks = np.cumsum(tick_ms * MS * (1 + 0.01 * rng.standard_normal(int(made.end_ns / tick_ms / MS * 1.2))))
    seen = ticks[np.maximum(np.searchsorted(ticks, t_ns, side="right") - 1, 0)]
    return t_ns, made.energy(seen)


def _walk(
    made: Machine, tick_ms: float, period_ms: float, bins: int = 16
) -> tuple[Walk, Table, Occupancy, np.ndarray]:
    t_ns, joules = _readings(made, tick_ms, period_ms)
    step, occupancy = np.diff(joules), occupy(made.sites, made.spans)
    steps = Steps(t_ns, step, np.ones(len(step)), np.ones(len(step), bool), step == 0, 0.0)
    ticks = Ticks(0.0, tick_ms * MS, 0.01)
    knots_ns = t_ns[[0, -1]]
    return Walk(steps, ticks, bins), table(t_ns, ticks, bins, occupancy, NONE, knots_ns), occupancy, t_ns


@pytest.mark.parametrize(("tick_ms", "period_ms"), [(1.0, 10.0), (1.003, 1.0), (5.0, 20.0), (20.1, 20.0)])
def test_a_slope_is_what_the_score_changes_by(tick_ms: float, period_ms: float) -> None:
    walk, made, _, _ = _walk(program(2, WATTS, LENGTHS, seconds=2.0), tick_ms, period_ms)
    found = slopes(walk, made, TRUE, SPREAD)
    for at in range(5):
        step = np.zeros(len(TRUE))
        step[at] = 1e-4 * TRUE[at]
        # What a power does to how far ages blur is left out of its slope: the blur is held.
        still = replace(SPREAD, blur=1e-12)
        up, down = (slopes(walk, made, TRUE + side * step, still).score for side in (1, -1))
        slope = slopes(walk, made, TRUE, still).pulls[:, at].sum()
        assert (up - down) / (2 * step[at]) == pytest.approx(slope, rel=2e-2, abs=1e-2)
    grown = replace(SPREAD, rate=SPREAD.rate * 1.0001)
    change = (slopes(walk, made, TRUE, grown).score - found.score) / 1e-4
    assert change == pytest.approx(found.on_spread[:, 0].sum(), rel=2e-2, abs=1e-1)


def test_a_table_holds_the_seconds_that_ran_by_each_moment() -> None:
    _, made, occupancy, t_ns = _walk(program(2, WATTS, LENGTHS, seconds=2.0), 5.0, 20.0, bins=10)
    passed = np.diff(made.upto, axis=0)
    assert (passed > -1e-9).all()
    # Idle's knots share all time, and columns share the time in which anything ran.
    gone_s = np.repeat(np.diff(t_ns)[:, None] / 1e9, 10, axis=1)
    np.testing.assert_allclose(passed[:, :, 6:].sum(axis=2), gone_s, atol=1e-9)
    whole = (occupancy.end_ns - occupancy.start_ns).sum() / 1e9
    assert made.upto[-1, 0, :5].sum() == pytest.approx(whole, rel=0.05)


def test_pulls_of_neighbouring_steps_do_not_go_together_at_the_truth() -> None:
    # Calls of one site that draw the same: else a long call's own deviation is in all steps that it fills.
    walk, made, _, _ = _walk(program(2, WATTS, LENGTHS, seconds=8.0, variation=0.0), 1.003, 1.0)
    pulls = slopes(walk, made, TRUE, replace(SPREAD, rate=1e-4 * SPREAD.rate)).pulls[:, :5]
    said = (pulls**2).sum(axis=0)
    seen = (np.add.reduceat(pulls, np.arange(0, len(pulls), 100), axis=0) ** 2).sum(axis=0)
    assert 0.5 < np.mean(seen / said) < 2.0


def test_the_normal_equations_have_the_slope_for_their_gradient() -> None:
    walk, made, _, _ = _walk(program(2, WATTS, LENGTHS, seconds=2.0), 5.0, 20.0)
    found = slopes(walk, made, TRUE, SPREAD)
    at = np.append(TRUE, 0.0)
    sums = gram_of(found, at, SPREAD.rate)
    gradient = sums.part("power", "joules")[:, 0] - sums.part("power", "power") @ at
    np.testing.assert_allclose(gradient, found.pulls.sum(axis=0), rtol=1e-6, atol=1e-6)
    work = sums.part("work", "joules")[:, 0] - sums.part("work", "power") @ at
    np.testing.assert_allclose(work, SPREAD.rate * gradient[:6], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tick_ms", [0.99, 1.004])
def test_a_counter_that_ticks_at_the_pace_of_its_reads_tells_powers_without_bias(tick_ms: float) -> None:
    # Told as rows whose edges are followed, these powers were one to eight per cent low.
    made = program(3, WATTS, LENGTHS, seconds=8.0)
    rail = Rail(id=0, name="rail", kind="counter", origin="simulated", period_ns=MS, lag_ns=0)
    read = timeline.from_readings(rail, *_readings(made, tick_ms, 1.0))
    ledger = attribution.attribute([read], made.sites, made.spans)
    for site, true in zip(ledger.sites, made.true_j, strict=True):
        own = site.rails[0].exclusive
        assert own.energy_j == pytest.approx(true, rel=0.02)
        assert own.low_j <= true <= own.high_j


@pytest.mark.parametrize("seed", range(8))
def test_a_counter_with_hardly_a_reading_amid_the_calls_is_attributed_all_the_same(seed: int) -> None:
    """Rows of which no two are neighbours once counted as a gauge's, with one belief too many."""
    made = program(seed, WATTS[:3], LENGTHS[:3], seconds=0.01, rest_ms=0.0, idle_s=0.2)
    read = counter(made, seed, period_ms=50)
    found = attribution.attribute([read], made.sites, made.spans).rails[0]
    parts_j = found.attributed_j + found.idle.energy_j + found.unattributed_j
    assert parts_j == pytest.approx(read.total_j, rel=1e-9)
