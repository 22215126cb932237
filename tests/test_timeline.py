"""Timelines: what was not seen is a gap, and what was seen is neither lost nor invented."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import timeline
from joulemeter.reading import Rail

MS = 1_000_000


def _rail(kind: str = "counter", **changes: object) -> Rail:
    keys = {"id": 0, "name": "rail", "kind": kind, "origin": "measured", "period_ns": 10 * MS, **changes}
    return Rail(**keys)  # type: ignore[arg-type]


def _read(values: list[float], step_ms: float = 10, **changes: object) -> timeline.Timeline:
    t_ns = (np.arange(len(values)) * step_ms * MS).astype(np.int64)
    return timeline.from_readings(_rail(**changes), t_ns, np.array(values, float))  # type: ignore[arg-type]


def test_a_failed_read_of_a_counter_loses_nothing() -> None:
    """The next good reading holds the whole difference."""
    whole = _read([5.0, 6.0, 7.0, 8.0])
    failed = _read([5.0, float("nan"), 7.0, 8.0])
    assert failed.total_j == whole.total_j == 3.0
    assert failed.failed == 1
    assert not failed.unknown.any()


def test_what_lies_after_the_last_reading_of_a_run_is_a_gap_when_it_is_long() -> None:
    read = _read([5.0, 6.0, 7.0])
    assert read.until(20 * MS + 50 * MS).gaps == ()
    assert read.until(1_000 * MS).gaps == (timeline.Gap(20 * MS, 1_000 * MS, "not sampled"),)
    assert read.until(1_000 * MS).total_j == read.total_j


def test_a_failed_read_is_not_a_wrap() -> None:
    """A read error taken as 0 J and then as a wrap has cost 262 kJ elsewhere."""
    assert _read([1000.0, float("nan"), 1000.5], range_j=262_144.0).total_j == pytest.approx(0.5)


def test_a_counter_that_falls_within_its_range_has_wrapped() -> None:
    read = _read([99.0, 99.8, 0.6, 1.4], range_j=100.0)
    assert read.total_j == pytest.approx(2.4)
    assert not read.gaps


def test_a_counter_without_a_range_that_falls_was_reset() -> None:
    read = _read([99.0, 99.8, 0.6, 1.4])
    assert read.total_j == pytest.approx(1.6)
    assert [gap.reason for gap in read.gaps] == ["reset"]


def test_a_wrap_that_would_need_an_implausible_power_is_a_reset() -> None:
    read = _read([10.0, 10.8, 0.1, 0.9], range_j=262_144.0)
    assert read.total_j == pytest.approx(1.6)
    assert [gap.reason for gap in read.gaps] == ["reset"]


def test_across_a_long_hole_the_number_of_wraps_is_not_known() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 1.0, 2.0]
    t_ns = np.array([0, 10, 20, 30, 5_030, 5_040]) * MS
    read = timeline.from_readings(_rail(range_j=100.0), t_ns, np.array(values))
    assert [gap.reason for gap in read.gaps] == ["ambiguous wrap"]
    assert read.total_j == pytest.approx(4.0)


def test_a_hole_in_a_gauge_is_a_gap_and_not_zero_watts() -> None:
    t_ns = np.array([0, 10, 20, 120, 130]) * MS
    read = timeline.from_readings(_rail("gauge"), t_ns, np.full(5, 50.0))
    assert read.total_j == pytest.approx(50.0 * 0.03)
    assert [(gap.start_ns, gap.end_ns, gap.reason) for gap in read.gaps] == [(20 * MS, 120 * MS, "hole")]
    assert np.isnan(read.between(10 * MS, 125 * MS))


def test_a_gauge_sample_stands_for_the_time_before_its_stamp() -> None:
    assert _read([1000.0, 10.0, 20.0], kind="gauge").total_j == pytest.approx(0.01 * (10 + 20))


@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_one_reading_measures_nothing(kind: str) -> None:
    assert np.isnan(_read([5.0], kind=kind).total_j)
    assert np.isnan(_read([], kind=kind).total_j)


@given(
    steps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    start=st.floats(0, 99),
    lost=st.sets(st.integers(0, 59)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_a_wrapping_counter_read_in_any_order_gives_what_was_spent(
    steps: list[float], start: float, lost: set[int], seed: int
) -> None:
    """Whatever is lost in the middle, wherever it wraps, in whatever order it is read."""
    true = np.concatenate([[start], start + np.cumsum(steps)])
    value = true % 100.0
    value[[each for each in lost if 0 < each < len(value) - 1 and each % 2]] = np.nan
    t_ns = np.arange(len(true)) * 100 * MS
    order = np.random.default_rng(seed).permutation(len(true))
    read = timeline.from_readings(_rail(range_j=100.0, period_ns=100 * MS), t_ns[order], value[order])
    assert read.total_j == pytest.approx(sum(steps), abs=1e-6)
    assert (np.diff(read.energy_j) >= -1e-9).all()
    assert read.energy_j[0] == 0


# ── between two readings ────────────────────────────────────────────────────────────────────────────────


def energy_of_a_step(t_ns, step_ns: int, before_w: float, after_w: float):
    t_ns = np.asarray(t_ns)
    return np.where(t_ns < step_ns, before_w * t_ns, before_w * step_ns + after_w * (t_ns - step_ns)) / 1e9


@given(
    step_ns=st.integers(4 * MS, 16 * MS),
    before_w=st.floats(1, 300),
    after_w=st.floats(1, 300),
    ends=st.lists(st.integers(0, 20 * MS), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_a_step_of_power_between_two_readings_of_a_counter_is_found(step_ns, before_w, after_w, ends):
    t_ns = np.arange(21) * MS
    line = timeline.from_readings(
        _rail(period_ns=MS), t_ns, energy_of_a_step(t_ns, step_ns, before_w, after_w)
    )
    start_j, end_j = energy_of_a_step(ends, step_ns, before_w, after_w)
    assert line.between(*ends) == pytest.approx(end_j - start_j, abs=1e-9)


@given(
    steps=st.lists(st.floats(0, 1), min_size=2, max_size=30),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted),
)
def test_stretches_end_to_end_add_up_and_none_is_negative(steps, cuts):
    t_ns = np.arange(len(steps) + 1) * MS
    line = timeline.from_readings(_rail(period_ns=MS), t_ns, np.cumsum([0.0, *steps]))
    moments = [0, *(round(cut * t_ns[-1]) for cut in cuts), int(t_ns[-1])]
    parts = [line.between(start, end) for start, end in pairwise(moments)]
    assert sum(parts) == pytest.approx(sum(steps), abs=1e-9)
    assert min(parts) >= -1e-12


def test_readings_that_show_nothing_new_put_no_zero_between_two_others() -> None:
    """Read at odd moments, a counter shows steps now and then: what they are over time is no power."""
    t_ns = np.array([0.0, 0.64, 1.15, 2.27, 2.64]) * MS
    line = timeline.from_readings(
        _rail(period_ns=MS), t_ns.astype(np.int64), np.array([0.0, 0.1, 0.1, 0.2, 0.3])
    )
    for start_ns in range(1_150_000, 2_260_000, 10_000):
        assert line.between(start_ns, start_ns + 10_000) > 0


def _held(
    seed: int, refresh_ms: float, read_ms: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Refreshes of a noisy gauge (moments, watts), and what a reader at its own pace sees (moments, watts)."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(refresh_ms * (1 + 0.01 * rng.standard_normal(200)))
    watts = np.round(rng.uniform(20, 120, 200), 3)
    read = np.arange(at[0] + 1, at[-1], read_ms) + rng.exponential(
        0.06, int((at[-1] - at[0] - 1) // read_ms) + 1
    )
    shown = watts[np.searchsorted(at, read, side="right") - 1]
    return at * MS, watts, (read * MS).astype(np.int64), shown


@pytest.mark.parametrize(
    ("refresh_ms", "read_ms"), [(100, 20), (100, 10), (40, 20), (33, 20), (26, 20), (50, 5), (1000, 100)]
)
def test_a_gauge_read_more_often_than_it_refreshes_has_the_samples_that_it_took(refresh_ms, read_ms) -> None:
    """The same sample again is none: its joules belong before it was first seen, and not after."""
    at, watts, t_ns, shown = _held(1, refresh_ms, read_ms)
    read = timeline.from_readings(_rail("gauge", period_ns=read_ms * MS), t_ns, shown)
    assert read.rail.period_ns == pytest.approx(refresh_ms * MS, rel=0.05)
    assert len(read.t_ns) == pytest.approx(len(at), abs=2)
    first = np.argmin(np.abs(at[:, None] - read.t_ns[None, 1:]), axis=0)
    late_ns = read.t_ns[1:] - at[first]
    assert abs(np.median(late_ns)) < 0.4 * read_ms * MS
    assert np.quantile(np.abs(late_ns), 0.9) < 0.6 * read_ms * MS, "nearer than the reads"
    assert np.diff(read.energy_j) / (np.diff(read.t_ns) / 1e9) == pytest.approx(watts[first])
    assert not read.gaps


def test_a_gauge_at_rest_goes_on_to_have_samples() -> None:
    _, _, t_ns, shown = _held(2, 100, 20)
    quiet = (t_ns > t_ns[0] + 5_000 * MS) & (t_ns < t_ns[0] + 8_000 * MS)
    shown[quiet] = 20.0
    read = timeline.from_readings(_rail("gauge", period_ns=20 * MS), t_ns, shown)
    assert read.rail.period_ns == pytest.approx(100 * MS, rel=0.05)
    assert not read.gaps
    assert read.between(int(t_ns[quiet][10]), int(t_ns[quiet][-10])) == pytest.approx(
        20.0 * (t_ns[quiet][-10] - t_ns[quiet][10]) / 1e9
    )


@pytest.mark.parametrize(
    "case", ["each read is new", "coarse", "now and then", "two levels", "constant", "few"]
)
def test_values_that_stay_for_another_reason_are_samples_all_the_same(case: str) -> None:
    rng = np.random.default_rng(3)
    t_ns = (np.arange(2_000) * 20 * MS + rng.integers(0, MS, 2_000)).astype(np.int64)
    value = {
        "each read is new": rng.uniform(20, 120, 2_000),
        "coarse": np.round(50 + 0.4 * rng.standard_normal(2_000)),
        "now and then": np.repeat(rng.uniform(20, 120, 2_000), rng.geometric(0.7, 2_000))[:2_000],
        "two levels": np.where(np.arange(2_000) // 40 % 2, 80.0, 30.0),
        "constant": np.full(2_000, 30.0),
        "few": np.repeat(rng.uniform(20, 120, 400), 5)[:2_000] * (np.arange(2_000) < 200) + 20.0,
    }[case]
    assert timeline.held_ns(t_ns, value) == 0
    read = timeline.from_readings(_rail("gauge", period_ns=20 * MS), t_ns, value)
    assert len(read.t_ns) == 2_000
