"""The likeliest pace and powers of a ticking counter."""

from __future__ import annotations

import numpy as np
import pytest

from joulemeter import attribution, priors
from joulemeter.ascent import TRIED, Matter, Start, highest
from joulemeter.columns import call_seconds, columns, own_seconds, seen_seconds
from joulemeter.noise import Prior
from joulemeter.occupancy import occupy
from joulemeter.stretches import Stretches
from joulemeter.ticks import JITTERS, Steps, Ticks, nearly, neighbours
from simulated_machine import IDLE_W, MS, counter, program

WATTS = [15.0, 120.0, 45.0, 80.0, 30.0]
LENGTHS = [3.0, 5.0, 1.0, 2.0, 8.0]
NONE = Stretches(np.empty(0, np.int64), np.empty(0, np.int64))
TICK_MS, READ_MS, JITTER = 0.98, 10.0, 0.02


@pytest.mark.parametrize("taken_for", [1.09, 0.893])
def test_a_pace_that_was_taken_for_its_alias_is_found_all_the_same(taken_for: float) -> None:
    made = program(3, WATTS, LENGTHS, seconds=8.0, shuffled=False)
    rng = np.random.default_rng(1)
    t_ns = np.cumsum(READ_MS * MS + rng.exponential(50_000, int(made.end_ns / READ_MS / MS))).astype(np.int64)
    paces = 1 + JITTER * rng.standard_normal(int(made.end_ns / TICK_MS / MS * 1.2))
    ticked = np.cumsum(TICK_MS * MS * paces)
    step = np.diff(made.energy(ticked[np.maximum(np.searchsorted(ticked, t_ns, side="right") - 1, 0)]))
    steps = Steps(t_ns, step, np.ones(len(step)), np.ones(len(step), bool), step == 0, 0.0)
    occupancy = occupy(made.sites, made.spans)
    own, seen = own_seconds(occupancy), Stretches(t_ns[:1], t_ns[-1:])
    kept = columns(occupancy, own, seen, READ_MS / 1e3)
    seconds = np.append(seen_seconds(occupancy, seen), 0.0)
    matter = Matter(kept, NONE, t_ns[[0, -1]], seconds, np.append(call_seconds(occupancy, own), 1e-3))
    usual_w = float(made.true_j.sum() / seconds.sum())
    others = Prior(np.array([IDLE_W, IDLE_W, 0.0]), np.diag([1.0, 1.0, 1e14]))
    beliefs = priors.Beliefs(priors.power_prior(usual_w, priors.SHAPE, kept), others, priors.alike(kept))
    start = Start(np.append(np.full(len(seconds), usual_w), [IDLE_W, IDLE_W]), 0.05**2)
    found = highest(steps, 0.0, [Ticks(0.0, taken_for * MS, 0.01)], True, start, matter, beliefs)
    assert found.ticks.period_ns == pytest.approx(TICK_MS * MS, rel=3e-3)
    assert np.abs(found.energies.mean[:5] - made.true_j).sum() < 0.02 * made.true_j.sum()


def test_neighbours_of_a_pace_are_its_aliases_and_those_a_little_off_and_none_is_the_pace_itself() -> None:
    pace = Ticks(0.0, 1.0 * MS, JITTERS[0])
    some = neighbours(pace, 10.0 * MS, told=True)
    assert [each.jitter for each in some if each.period_ns == pace.period_ns] == [JITTERS[1]]
    between = [10.0 * MS / each.period_ns for each in some if abs(each.period_ns / pace.period_ns - 1) > 0.05]
    assert between == pytest.approx([9.0, 11.0])
    assert not any(nearly(each, pace, 10.0 * MS) for each in some)


def test_where_the_lag_is_not_told_the_mean_age_stays_what_it_is() -> None:
    pace = Ticks(30.0 * MS, 5.0 * MS, JITTERS[1])
    for each in neighbours(pace, 20.0 * MS, told=False):
        assert each.lag_ns + each.period_ns / 2 == pytest.approx(32.5 * MS)


def test_paces_faster_than_any_counter_ticks_are_no_neighbours() -> None:
    fastest = Ticks(0.0, 0.62 * MS, JITTERS[1])
    assert all(each.period_ns >= 0.6 * MS for each in neighbours(fastest, 10.0 * MS, told=True))


def test_long_calls_that_the_steps_by_which_paces_are_told_do_not_see_have_their_powers_all_the_same() -> (
    None
):
    made = program(5, [15.0, 120.0, 45.0, 80.0], [700.0, 600.0, 800.0, 650.0], seconds=9.0)
    read = counter(made, 1, period_ms=1.0, tick_ms=0.993)
    assert len(read.t_ns) > TRIED
    ledger = attribution.attribute([read], made.sites, made.spans)
    for site, true in zip(ledger.sites, made.true_j, strict=True):
        own = site.rails[0].exclusive
        assert own.energy_j == pytest.approx(true, rel=0.02)
        assert own.low_j <= true <= own.high_j
