"""Ages of a counter's ticks, before any power is known."""

from __future__ import annotations

import numpy as np
import pytest

from joulemeter import ages, timeline
from joulemeter.occupancy import busy_stretches, occupy
from joulemeter.reading import Rail
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline
from simulated_machine import IDLE_W, MS, program

WATTS = [15.0, 120.0, 45.0, 80.0]
LENGTHS = [3.0, 9.0, 4.0, 12.0]
LAG_MS = 140.0
REACH_NS = 600 * MS


def _shown(tick_ms: float, seed: int = 3) -> tuple[Timeline, Stretches, np.ndarray]:
    """What a counter of that pace shows of a fixed loop, when work ran, and the true age of each reading in
    ns. Ticks of none are when it is asked."""
    rng = np.random.default_rng(seed)
    made = program(1, WATTS, LENGTHS, seconds=16.0)
    t_ns = np.cumsum(20 * MS + rng.exponential(50_000, int(made.end_ns / 20 / MS))).astype(np.int64)
    if tick_ms:
        count = int(made.end_ns / tick_ms / MS * 1.2)
        ticks = np.cumsum(tick_ms * MS * (1 + 0.01 * rng.standard_normal(count)))
        seen = ticks[np.maximum(np.searchsorted(ticks, t_ns, side="right") - 1, 0)]
    else:
        seen = t_ns.astype(float)
    rail = Rail(id=0, name="gpu", kind="counter", origin="simulated", period_ns=20 * MS)
    read = timeline.from_readings(rail, t_ns, np.floor(made.energy(seen - LAG_MS * MS) * 1e3) / 1e3)
    busy = Stretches(*busy_stretches(occupy(made.sites, made.spans)))
    return read, busy, (t_ns - seen)[np.searchsorted(t_ns, read.t_ns)]


@pytest.mark.parametrize("tick_ms", [20.2, 20.5, 19.95])
def test_ages_are_told_by_when_nothing_new_is_shown(tick_ms: float) -> None:
    read, busy, age_ns = _shown(tick_ms)
    all_of_them = np.arange(len(read.t_ns))
    found = ages.told(read, busy, IDLE_W, REACH_NS, all_of_them)
    assert found is not None
    assert found.ticks.period_ns == pytest.approx(tick_ms * MS, rel=5e-3)
    middle = slice(len(age_ns) // 4, -len(age_ns) // 4)
    assert np.sqrt(np.mean((found.mean_ns - age_ns)[middle] ** 2)) < 0.15 * tick_ms * MS


def test_only_readings_that_are_asked_for_are_told() -> None:
    read, busy, _ = _shown(20.2)
    some = np.concatenate([np.arange(200, 260), np.arange(500, 520)])
    found = ages.told(read, busy, IDLE_W, REACH_NS, some)
    assert found is not None
    assert np.isfinite(found.mean_ns[some]).all()
    assert np.isnan(found.mean_ns[:200]).all()
    assert np.isnan(found.mean_ns[300:480]).all()


@pytest.mark.parametrize("tick_ms", [0.0, 5.0])
def test_a_counter_that_always_shows_something_new_tells_nothing(tick_ms: float) -> None:
    read, busy, _ = _shown(tick_ms)
    assert ages.told(read, busy, IDLE_W, REACH_NS, np.arange(len(read.t_ns))) is None
