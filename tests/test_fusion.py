"""Fusion is decided by a test over shapes, not by a threshold."""

import math

import numpy as np
import pytest

from joulemeter import fusion

PAIR = ("conv", "relu", "conv-relu")


def test_two_calls_save_one_calls_cost_without_any_fusion() -> None:
    assert fusion.saving(first_s=10e-6, second_s=5e-6, together_s=13e-6, call_s=2e-6) == pytest.approx(0)
    assert fusion.saving(first_s=10e-6, second_s=5e-6, together_s=10e-6, call_s=2e-6) == pytest.approx(1)


def test_a_saving_in_every_shape_is_a_rule_and_a_scatter_around_nothing_is_none() -> None:
    assert fusion.decided(PAIR, [0.9, 0.8, 1.0, 0.85, 0.95]).holds
    assert not fusion.decided(PAIR, [0.2, -0.3, 0.1, -0.1, 0.05]).holds
    assert not fusion.decided(PAIR, [-0.9, -0.8, -1.0]).holds


def test_few_shapes_decide_nothing() -> None:
    tested = fusion.decided(PAIR, [0.9, 0.9])
    assert not tested.holds
    assert math.isnan(tested.saving)


def test_without_fusion_chance_makes_a_rule_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = sum(fusion.decided(PAIR, rng.normal(0, 0.3, fusion.SHAPES)).holds for _ in range(2000))
    # 1 % of 2,000 is 20; the 99.9 % band of a binomial reaches to 35.
    assert found <= 35


def test_only_rules_that_hold_are_given() -> None:
    yes, no = fusion.Tested(*PAIR, 0.9, 0.001, 5), fusion.Tested("bn", "relu", "bn-relu", 0.1, 0.4, 5)
    assert fusion.rules([yes, no]) == [PAIR]
    assert fusion.learn("torch", "cpu", 1.0) == []
