"""Idle is found in the readings: through drift, plateaus and tails, and not at all where nothing shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from joulemeter import timeline
from joulemeter.design import Response
from joulemeter.idle import Idle, find_idle
from joulemeter.reading import Rail
from joulemeter.stretches import Stretches

MS = 1_000_000
S = 1_000_000_000


def _read(watts: np.ndarray, kind: str = "counter", step_ms: int = 10) -> timeline.Timeline:
    t_ns = np.arange(len(watts)) * step_ms * MS
    rail = Rail(id=0, name="r", kind=kind, origin="simulated", period_ns=step_ms * MS)  # type: ignore[arg-type]
    value = watts if kind == "gauge" else np.concatenate([[0.0], np.cumsum(watts[1:] * step_ms / 1e3)])
    return timeline.from_readings(rail, t_ns, value)


def _busy(*pairs: tuple[float, float]) -> Stretches:
    table = (np.array(pairs, float).reshape(-1, 2) * S).astype(np.int64)
    return Stretches(table[:, 0], table[:, 1])


def _seconds(count: float) -> np.ndarray:
    return np.arange(0, count, 0.01)


@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_idle_is_the_power_of_stretches_without_spans(kind: str) -> None:
    t = _seconds(6)
    read = _read(np.where((t > 2) & (t <= 4), 100.0, 30.0), kind)
    found = find_idle(read, _busy((2, 4)), Response(0, 10 * MS if kind == "gauge" else 0))
    assert found.mean_w == pytest.approx(30.0, rel=0.01)
    assert (np.sqrt(np.diag(found.covariance)) < 0.6).all()


def test_drift_between_stretches_is_followed() -> None:
    t = _seconds(20)
    idle = 30 + 0.1 * t
    found = find_idle(_read(np.where((t > 3) & (t <= 17), 100.0, idle)), _busy((3, 17)), Response(0))
    truth = 30 + 0.1 * found.knots_ns / S
    sigma = np.sqrt(np.diag(found.covariance))
    assert (np.abs(found.mean_w - truth) < 3 * sigma + 0.05).all()
    assert sigma[len(sigma) // 2] > sigma[0]


def test_a_tail_after_work_is_not_idle() -> None:
    t = _seconds(8)
    watts = np.where((t > 2) & (t <= 4), 100.0, np.where((t > 4) & (t <= 5), 55.0, 30.0))
    found = find_idle(_read(watts), _busy((2, 4)), Response(0))
    assert found.mean_w == pytest.approx(30.0, rel=0.02)
    assert len(found.tails) == 1
    assert (found.tails.end_ns[0] - found.tails.start_ns[0]) / S == pytest.approx(1.0, abs=0.15)


def test_a_plateau_that_fills_its_stretch_is_not_idle() -> None:
    t = _seconds(12)
    watts = np.where((t > 3) & (t <= 5), 100.0, np.where((t > 5) & (t <= 6), 55.0, 30.0))
    watts = np.where((t > 6) & (t <= 8), 100.0, watts)
    found = find_idle(_read(watts), _busy((3, 5), (6, 8)), Response(0))
    assert found.mean_w == pytest.approx(30.0, rel=0.03)


def test_without_a_stretch_to_see_it_idle_is_only_bounded() -> None:
    found = find_idle(_read(np.full(300, 50.0)), _busy((-1, 10)), Response(0))
    sigma = float(np.sqrt(found.covariance[0, 0]))
    assert found.mean_w[0] == pytest.approx(25.0, rel=0.01)
    assert found.mean_w[0] - 1.96 * sigma < 0 < found.mean_w[0] + 1.96 * sigma
    assert found.notes


def test_its_energy_is_the_integral_over_what_was_seen() -> None:
    t = _seconds(6)
    found = find_idle(_read(np.where((t > 2) & (t <= 4), 100.0, 30.0)), _busy((2, 4)), Response(0))
    joules, sigma, _ = found.energy(_busy((0, 1), (3, 5)))
    assert joules == pytest.approx(90.0, rel=0.01)
    assert 0 < sigma < 3


def _walked(found: Idle, rate: float, seed: int) -> np.ndarray:
    """Idle that wanders at random at ``rate`` of itself per square root of a second, pinned at both ends."""
    knots_s = found.knots_ns / S
    walk = np.cumsum(
        np.sqrt(np.diff(knots_s, prepend=knots_s[0])) * np.random.default_rng(seed).normal(size=len(knots_s))
    )
    return found.mean_w * (1 + rate * (walk - walk[-1] * (knots_s - knots_s[0]) / (knots_s[-1] - knots_s[0])))


@dataclass(frozen=True)
class _Settling:
    """Idle by quiet stretches alone, and once the work's readings have shown ``seen_w`` (k,)."""

    quiet: Idle
    seen_w: np.ndarray
    mean_w: np.ndarray
    covariance: np.ndarray

    @property
    def surer(self) -> float:
        """The standard deviation in the middle of the work, in units of that by quiet stretches alone."""
        middle = len(self.mean_w) // 2
        return float(np.sqrt(self.covariance[middle, middle] / self.quiet.covariance[middle, middle]))


def _settling(rate: float, error: float, seed: int) -> _Settling:
    """The work's readings show each knot to a fraction ``error``, while idle truly wanders at ``rate``."""
    t = _seconds(24)
    found = find_idle(_read(np.where((t > 2) & (t <= 22), 100.0, 30.0)), _busy((2, 22)), Response(0))
    before = np.linalg.inv(found.covariance)
    precision = before + np.eye(len(found.mean_w)) / (error * 30) ** 2
    seen = np.linalg.solve(precision, before @ found.mean_w + _walked(found, rate, seed) / (error * 30) ** 2)
    return _Settling(found, seen, *found.settled(seen, np.linalg.inv(precision), 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_idle_is_surer_where_the_work_shows_it_calm(seed: int) -> None:
    assert _settling(rate=5e-4, error=2e-4, seed=seed).surer < 0.75


@pytest.mark.parametrize("seed", range(5))
def test_idle_is_less_sure_where_the_work_shows_it_wander(seed: int) -> None:
    assert _settling(rate=1e-2, error=1e-3, seed=seed).surer > 1.5


def test_idle_is_about_as_sure_where_the_work_does_not_show_it() -> None:
    assert 0.5 < _settling(rate=1e-3, error=1.0, seed=0).surer < 2


def test_work_shows_how_much_idle_wanders_and_not_where_to() -> None:
    """The powers of calls that creep would look the same."""
    made = _settling(rate=1e-2, error=1e-3, seed=3)
    assert np.abs(made.seen_w - 30).max() > 0.3
    assert made.mean_w == pytest.approx(np.full(len(made.mean_w), 30.0), abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_levels_that_wander_between_knots_make_idle_no_surer_than_they_are(seed: int) -> None:
    """Pieces of quiet stretches show a walk that straight lines between knots do not follow."""
    t = _seconds(60)
    walk = 40 * (1 + 3e-3 * np.cumsum(0.1 * np.random.default_rng(seed).standard_normal(len(t))))
    work = ((t > 8) & (t <= 27)) | ((t > 33) & (t <= 52))
    found = find_idle(_read(np.where(work, 120.0, walk)), _busy((8, 27), (33, 52)), Response(0))
    truth = np.interp(found.knots_ns / S, t, walk)
    sigma = np.sqrt(np.diag(found.covariance))
    assert np.sqrt(np.mean(((found.mean_w - truth) / sigma) ** 2)) < 2


@pytest.mark.parametrize("seed", range(4))
def test_ticks_that_drift_against_the_reads_make_idle_less_sure(seed: int) -> None:
    """Reads every 20.1 ms of ticks every 10 ms: the age of what is shown goes up and down in two seconds."""
    rng = np.random.default_rng(seed)
    t_ns = np.cumsum(20 * MS + rng.gamma(2.0, 50_000, 700)).astype(np.int64)
    shown_ns = (t_ns - rng.uniform(0, 10) * MS) // (10 * MS) * (10 * MS)
    rail = Rail(id=0, name="r", kind="counter", origin="simulated", period_ns=20 * MS)
    read = timeline.from_readings(rail, t_ns, shown_ns / S * 30.0)
    found = find_idle(read, _busy((5, 6)), Response(10 * MS))
    sigma = np.sqrt(np.diag(found.covariance))
    assert (np.abs(found.mean_w - 30) < 3 * sigma).all()
    assert found.mean_w == pytest.approx(np.full(len(found.mean_w), 30.0), abs=0.3)


def test_very_many_pauses_are_taken_together() -> None:
    """Two thousand pauses of half a second: a matrix of all levels would take minutes."""
    t = _seconds(2000)
    watts = np.where(t % 1.0 < 0.5, 100.0, 30 + 0.002 * t)
    found = find_idle(_read(watts), _busy(*((at, at + 0.5) for at in range(2000))), Response(0))
    assert len(found.quiet) == 2000
    assert found.mean_w == pytest.approx(30 + 0.002 * found.knots_ns / S, rel=0.01)


def test_a_counter_that_showed_nothing_at_first_tells_nothing_of_a_rest_that_ended_with_it() -> None:
    """The only reading of the rest is the one that tells nothing: it was looked for among none."""
    t_ns = np.concatenate([[0], 400 * MS + 100 * MS * np.arange(40)])
    rail = Rail(id=0, name="rail", kind="counter", origin="simulated", period_ns=100 * MS, lag_ns=0)
    joules = np.concatenate([[0.0], 60.0 * np.arange(40) / 10])
    read = timeline.from_readings(rail, t_ns, joules)
    busy = Stretches(np.array([501 * MS]), np.array([int(t_ns[-1])]))
    assert len(find_idle(read, busy, Response(0)).quiet) == 0
