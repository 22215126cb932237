"""Accuracy figures against numbers worked by hand."""

import math

import numpy as np

from joulemeter.accuracy import Accuracy, measure


def test_figures_are_those_of_the_definitions() -> None:
    true = np.array([1.0, 2.0, 4.0, 10.0])
    predicted = np.array([1.04, 1.8, 5.0, 10.0])  # errors 4 %, 10 %, 25 %, 0
    low, high = predicted * 0.9, predicted * 1.12
    a = measure(true, predicted, low, high)
    assert a.n == 4
    assert math.isclose(a.mape, (0.04 + 0.10 + 0.25) / 4)
    assert math.isclose(a.median_ape, 0.07)
    assert math.isclose(a.rmspe, math.sqrt((0.04**2 + 0.1**2 + 0.25**2) / 4))
    assert (a.within_5, a.within_10, a.within_15) == (0.5, 0.75, 0.75)
    assert a.coverage_90 == 0.75
    assert math.isclose(a.energy_weighted_mape, (0.04 + 0.2 + 1.0) / 17)


def test_rows_without_truth_or_prediction_are_left_out_and_unknown_figures_are_null() -> None:
    a = measure(np.array([1.0, 0.0, np.nan]), np.array([1.0, 1.0, 1.0]))
    assert a.n == 1
    assert a.to_json()["coverage_90"] is None
    empty = measure(np.array([0.0]), np.array([1.0]))
    assert empty.n == 0
    assert empty.to_json()["mape"] is None


def test_a_card_survives_json() -> None:
    a = measure(np.array([1.0, 2.0]), np.array([1.1, 2.0]))
    assert str(Accuracy.from_json(a.to_json())) == str(a)
