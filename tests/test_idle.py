"""Idle is found in the readings: through drift, plateaus and tails, and not at all where nothing shows it."""

from __future__ import annotations

import numpy as np
import pytest

from joulemeter import timeline
from joulemeter.design import Response, Stretches
from joulemeter.idle import Idle, find_idle
from joulemeter.reading import Rail

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


def _settled_sigma(rate: float, error: float, seed: int) -> tuple[float, float]:
    """How sure idle is in the middle of work: by quiet stretches, and once the work's readings showed each knot
    to a fraction ``error``, while idle truly wandered at ``rate``."""
    t = _seconds(24)
    found = find_idle(_read(np.where((t > 2) & (t <= 22), 100.0, 30.0)), _busy((2, 22)), Response(0))
    before = np.linalg.inv(found.covariance)
    precision = before + np.eye(len(found.mean_w)) / (error * 30) ** 2
    seen = np.linalg.solve(precision, before @ found.mean_w + _walked(found, rate, seed) / (error * 30) ** 2)
    settled = found.settled(seen, np.linalg.inv(precision), 1.0)
    middle = len(found.mean_w) // 2
    return float(np.sqrt(found.covariance[middle, middle])), float(np.sqrt(settled[middle, middle]))


@pytest.mark.parametrize("seed", range(5))
def test_idle_is_surer_where_the_work_shows_it_calm(seed: int) -> None:
    quiet, settled = _settled_sigma(rate=1e-3, error=1e-3, seed=seed)
    assert settled < 0.6 * quiet


@pytest.mark.parametrize("seed", range(5))
def test_idle_is_no_surer_where_the_work_shows_it_wander(seed: int) -> None:
    quiet, settled = _settled_sigma(rate=1e-2, error=1e-3, seed=seed)
    assert settled == pytest.approx(quiet, rel=0.1)


def test_idle_is_hardly_surer_where_the_work_does_not_show_it() -> None:
    quiet, settled = _settled_sigma(rate=1e-3, error=1.0, seed=0)
    assert settled > 0.9 * quiet
