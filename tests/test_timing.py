"""Timing: calls in turn, others' work noticed, medians that one bad moment cannot move."""

import math
from pathlib import Path

import pytest

from joulemeter import timing
from joulemeter.timing import Busy, Staged


class Clock:
    """A clock that only the calls move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def takes(self, seconds: float) -> None:
        self.now_s += seconds


def test_calls_in_turn_are_timed_without_what_writes_their_inputs() -> None:
    clock = Clock()
    staged = [Staged(lambda s=s: clock.takes(s), lambda: clock.takes(0.5)) for s in (1e-3, 4e-3)]
    short, long = timing.in_turn(staged, 20.0, clock)
    assert short.time_s == pytest.approx(1e-3)
    assert long.time_s == pytest.approx(4e-3)


def test_each_call_comes_after_all_the_others() -> None:
    clock, order = Clock(), []

    def call(name: str) -> None:
        order.append(name)
        clock.takes(1.0)

    timing.in_turn([Staged(lambda n=n: call(n), lambda: None) for n in "abc"], 5.0, clock)
    assert "".join(order) == "abc" * (len(order) // 3)
    assert len(order) // 3 == 2 + 9  # two rounds warm up, nine are the fewest


def test_one_slow_moment_does_not_move_a_time() -> None:
    clock, times = Clock(), iter([1.0] * 6 + [50.0] + [1.0] * 100)
    (timed,) = timing.in_turn([Staged(lambda: clock.takes(next(times)), lambda: None)], 5.0, clock)
    assert timed.time_s == timed.low_s == pytest.approx(1.0)


def test_what_others_took_is_all_work_but_our_own_and_stolen_time_is_theirs(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 800 50 0 0 0 0 0\n")
    before = Busy.now(stat)
    stat.write_text("cpu  180 0 60 850 60 0 0 50 0 0\n")  # 200 ticks more: 60 idle, 50 of them stolen
    after = Busy.now(stat)
    assert before.taken(after) == pytest.approx((1.4 - (after.own_s - before.own_s)) / 2.0, abs=1e-9)


def test_a_system_that_does_not_say_leaves_the_others_share_unknown(tmp_path: Path) -> None:
    assert math.isnan(Busy.now(tmp_path / "none").taken())


def test_several_visits_make_one_time_that_spans_them() -> None:
    first = timing.Timed(1.0, 0.9, 1.1, 10, 20, 5, 0.0)
    both = timing.mean([first, timing.Timed(3.0, 2.7, 3.3, 30, 40, 5, 0.2)])
    assert (both.time_s, both.low_s, both.high_s) == pytest.approx((2.0, 1.8, 2.2))
    assert (both.start_ns, both.end_ns, both.calls) == (10, 40, 10)
    assert both.taken == pytest.approx(0.1)
