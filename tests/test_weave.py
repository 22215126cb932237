"""Spans handed in whole, woven into recorded lanes; lanes followed while they are written."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import weave
from joulemeter.lanes import Lanes
from joulemeter.lanetail import KEPT_NS, LaneTail


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def own() -> weave.Lane:
    """Site 1 from 0 to 100 µs, and in it site 2 from 10 to 50 µs."""
    return weave.recorded("MainThread", ints(1, 2), ints(0, 10_000), ints(100_000, 50_000), ints(-1, 0))


def test_an_operator_is_woven_into_the_lane_of_its_thread_under_its_call() -> None:
    rows = np.array([[7, 12_000, 40_000, -1], [8, 60_000, 70_000, -1]])
    (lane,) = weave.woven([own()], [weave.added("MainThread", rows)])
    assert lane.site.tolist() == [1, 2, 7, 8]
    assert lane.parent.tolist() == [-1, 0, 1, 0]


def test_an_operator_that_ends_a_little_after_its_call_ended_with_it() -> None:
    rows = np.array([[7, 12_000, 50_000 + weave.LATE_NS, -1]])
    (lane,) = weave.woven([own()], [weave.added("MainThread", rows)])
    assert (lane.parent[2], lane.end_ns[2]) == (1, 50_000)


def test_a_call_never_left_holds_what_was_handed_in_after_it_began() -> None:
    lane = weave.recorded("MainThread", ints(1), ints(0), ints(-1), ints(-1))
    (lane,) = weave.woven([lane], [weave.added("MainThread", np.array([[7, 10, 20, -1]]))])
    assert (lane.parent.tolist(), lane.end_ns.tolist()) == ([-1, 0], [-1, 20])


def test_a_lane_nobody_recorded_stays_a_lane_of_its_own() -> None:
    lanes = weave.woven([own()], [weave.added("cuda:0 stream 7", np.array([[9, 5, 6, 2]]))])
    assert [lane.name for lane in lanes] == ["MainThread", "cuda:0 stream 7"]


def test_of_two_threads_of_one_name_the_first_is_meant() -> None:
    lanes = weave.woven([own(), own()], [weave.added("MainThread", np.array([[9, 5, 6, -1]]))])
    assert [len(lane.site) for lane in lanes] == [3, 2]


def test_a_kernel_is_adopted_by_the_last_span_of_its_operators_site_before_it() -> None:
    site, start = ints(5, 5, 9, 9), ints(0, 100, 50, 150)
    parent, wanted = ints(-1, -1, -1, -1), ints(-1, -1, 5, 5)
    assert weave.adopted(site, start, parent, wanted).tolist() == [-1, -1, 0, 1]


def test_a_kernel_before_every_span_of_its_operators_site_has_no_parent() -> None:
    assert weave.adopted(ints(5, 9), ints(100, 50), ints(-1, -1), ints(-1, 5)).tolist() == [-1, -1]


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=12)


@given(spans, spans)
def test_nothing_is_lost_in_weaving_and_parents_hold_their_children(first, second) -> None:
    rows = [
        np.array([[n, a, b, -1] for n, (a, b) in enumerate(each)], np.int64).reshape(-1, 4)
        for each in (first, second)
    ]
    base = weave.added("T", rows[0])
    (lane,) = weave.woven([base], [weave.added("T", rows[1])])
    assert sorted(lane.start_ns.tolist()) == sorted(a for a, _ in first + second)
    for row, parent in enumerate(lane.parent.tolist()):
        if parent >= 0:
            assert lane.start_ns[parent] <= lane.start_ns[row] <= lane.end_ns[row] <= lane.end_ns[parent]


# ── lanes that are being written ─────────────────────────────────────────────────────────────────────


def test_the_tail_of_a_lane_says_which_call_was_open(tmp_path: Path) -> None:
    lanes = Lanes(str(tmp_path), lambda number, name: None)
    tail = LaneTail(next(iter([tmp_path / "nothing"])))
    assert tail.innermost_at(ints(5), {1}).tolist() == [-1]
    lanes.enter(1)
    (path,) = tmp_path.glob("lane-*-0.bin")
    tail = LaneTail(path)
    lanes.enter(9)  # not a call: a module, say
    lanes.enter(2)
    lanes.exit()
    moments = np.fromfile(path, "<i8").reshape(-1, 2)[:4, 0]
    assert tail.innermost_at(moments, {1, 2}).tolist() == [1, 1, 2, 1]
    lanes.exit()
    lanes.exit()
    later = np.fromfile(path, "<i8").reshape(-1, 2)[:6, 0]
    assert tail.innermost_at(later[4:], {1, 2}).tolist() == [1, -1]
    assert tail.innermost_at(moments, {1, 2}).tolist() == [1, 1, 2, 1], "asked again, it still knows"


def test_the_tail_forgets_what_is_long_past(tmp_path: Path) -> None:
    path = tmp_path / "lane-1-0.bin"
    np.array([[10, 1], [20, -1]], "<i8").tofile(path)
    tail = LaneTail(path)
    assert tail.innermost_at(ints(15), {1}).tolist() == [1]
    with path.open("ab") as file:
        np.array([[KEPT_NS + 100, 1]], "<i8").tofile(file)
    assert tail.innermost_at(ints(KEPT_NS + 100), {1}).tolist() == [1]
    assert len(tail._t_ns) == 1
