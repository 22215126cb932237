"""Who runs innermost, when: every nanosecond of a lane belongs to one site."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import nesting, occupancy
from joulemeter.span import Site, Spans

SITES = [Site(0, "run", "run"), Site(1, "outer"), Site(2, "inner"), Site(7, "other")]


def _spans(*rows: tuple[int, int, int, int, int]) -> Spans:
    table = np.array(rows, np.int64).reshape(-1, 5).T
    return Spans(table[0].astype(np.int32), table[1].astype(np.int32), table[2], table[3], table[4])


def _seconds(spans: Spans, *edges: int) -> list[list[int]]:
    found = occupancy.seconds_between(occupancy.occupy(SITES, spans), np.array(edges))
    return [[round(each * 1e9) for each in row] for row in found.toarray()]


def test_the_innermost_span_has_the_time() -> None:
    spans = _spans((2, 0, 20, 30, 1), (1, 0, 10, 50, -1), (7, 0, 60, 90, -1))
    assert _seconds(spans, 0, 25, 100) == [[0, 10, 5, 0], [0, 20, 5, 30]]


def test_spans_nest_by_time_where_no_parent_is_named() -> None:
    named = _spans((1, 0, 10, 50, -1), (2, 0, 20, 30, 0))
    unnamed = _spans((2, 0, 20, 30, -1), (1, 0, 10, 50, -1))
    assert _seconds(named, 0, 100) == _seconds(unnamed, 0, 100) == [[0, 30, 10, 0]]


def test_two_lanes_run_at_once() -> None:
    assert _seconds(_spans((1, 0, 0, 40, -1), (2, 1, 10, 30, -1)), 0, 100) == [[0, 40, 20, 0]]


def test_spans_that_overlap_on_one_lane_without_nesting_run_at_once() -> None:
    spans = _spans((0, 0, 0, 100, -1), (1, 0, 10, 50, -1), (2, 0, 40, 60, -1), (1, 0, 50, 90, -1))
    assert _seconds(spans, 0, 100) == [[20, 80, 20, 0]]


def test_a_wrapper_that_starts_and_ends_with_what_it_wraps_has_no_time_of_its_own() -> None:
    assert _seconds(_spans((2, 0, 10, 50, 1), (1, 0, 10, 50, -1)), 0, 100) == [[0, 0, 40, 0]]


def test_spans_of_zero_length_are_calls_without_time() -> None:
    made = occupancy.occupy(SITES, _spans((1, 0, 10, 10, -1), (2, 0, 30, 20, -1)))
    assert made.calls.tolist() == [0, 1, 1, 0]
    assert len(made) == 0


def test_a_span_of_an_unknown_site_is_kept_under_its_number() -> None:
    made = occupancy.occupy(SITES, _spans((42, 0, 10, 20, -1)))
    assert made.sites[-1].id == 42
    assert made.calls.tolist() == [0, 0, 0, 0, 1]


def test_a_site_that_calls_itself_counts_its_time_once() -> None:
    made = occupancy.occupy(SITES, _spans((1, 0, 0, 100, -1), (1, 0, 20, 60, 0)))
    assert occupancy.site_seconds(made)[1] == pytest.approx(100e-9)


def test_a_kernel_on_another_lane_belongs_to_the_call_that_it_names() -> None:
    made = occupancy.occupy(SITES, _spans((1, 0, 0, 10, -1), (2, 1, 50, 80, 0)))
    under = occupancy.callers_matrix(made, occupancy.path_seconds(made)).toarray()
    assert under[1].tolist() == pytest.approx([0, 10e-9, 30e-9, 0])


def test_the_program_as_a_whole_holds_what_other_lanes_ran_without_a_caller() -> None:
    made = occupancy.occupy(SITES, _spans((0, 0, 0, 100, -1), (2, 1, 50, 80, -1)))
    under = occupancy.callers_matrix(made, occupancy.path_seconds(made)).toarray()
    assert under[0].tolist() == pytest.approx([100e-9, 0, 30e-9, 0])


def test_callers_that_call_each_other_in_a_circle_are_cut() -> None:
    made = occupancy.occupy(SITES, _spans((1, 0, 0, 10, 1), (2, 1, 0, 10, 0)))
    assert occupancy.path_seconds(made).sum() == pytest.approx(20e-9)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 60), lanes=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_each_nanosecond_in_which_a_lane_is_busy_belongs_to_one_site(
    seed: int, count: int, lanes: int
) -> None:
    """Compared with a walk over every nanosecond, for spans that nest at random."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int, int]] = []
    owner = np.full((lanes, 400), -1)

    def fill(lane: int, low: int, high: int, depth: int) -> None:
        at = low
        while at < high and len(rows) < count and depth < 5:
            start = at + int(rng.integers(0, 20))
            end = start + int(rng.integers(1, 80))
            if end > high or (low, high) == (
                start,
                end,
            ):  # which of two equal spans is inner, order alone says
                return
            site = int(rng.integers(0, 3))
            rows.append((site, lane, start, end, -1))
            owner[lane, start:end] = site
            fill(lane, start, end, depth + 1)
            at = end

    for lane in range(lanes):
        fill(lane, 0, 400, 0)
    rng.shuffle(rows)
    edges = np.unique(np.concatenate([[0, 400], rng.integers(1, 400, 7)]))
    expected = [
        [int((owner[:, low:high] == site).sum()) for site in range(3)] + [0] for low, high in pairwise(edges)
    ]
    assert _seconds(_spans(*rows), *edges.tolist()) == expected
    busy = occupancy.busy_stretches(occupancy.occupy(SITES, _spans(*rows)))
    assert int((busy[1] - busy[0]).sum()) == int((owner >= 0).any(axis=0).sum())


@pytest.mark.parametrize("lanes", [1, 3])
def test_parents_that_spans_name_are_found_without_their_names_too(lanes, monkeypatch):
    monkeypatch.setattr(nesting, "PART", 7)
    rows = [
        (depth % 3, lane, 1000 * turn + 10 * depth, 1000 * turn + 900 - 10 * depth, depth - 1)
        for lane in range(lanes)
        for turn in range(20)
        for depth in range(4)
    ]
    named = [
        (site, lane, start, end, -1 if parent < 0 else at - 1)
        for at, (site, lane, start, end, parent) in enumerate(rows)
    ]
    silent = [(*row[:4], -1) for row in rows]
    one, other = (occupancy.occupy(SITES, _spans(*each)) for each in (named, silent))
    for column in ("enclosing", "start_ns", "end_ns", "column", "path"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    edges = np.arange(0, 21_000, 130)
    found = occupancy.seconds_between(one, edges)
    monkeypatch.setattr(nesting, "PART", 10_000)
    np.testing.assert_array_equal(found.toarray(), occupancy.seconds_between(one, edges).toarray())


def test_a_parent_that_ends_before_its_child_is_not_what_encloses_it(monkeypatch):
    monkeypatch.setattr(nesting, "PART", 2)
    made = occupancy.occupy(
        SITES, _spans((1, 0, 0, 10, -1), (2, 0, 12, 30, 0), (2, 0, 13, 20, 1), (1, 0, 14, 16, 1))
    )
    assert made.enclosing.tolist() == [-1, -1, 1, 2]
