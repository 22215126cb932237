"""How quantities are read and printed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter.errors import UsageError
from joulemeter.units import joules, parse_energy_j, parse_fraction, parse_seconds, seconds, si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234, "1.23 kJ"),
        (0.0999999, "100 mJ"),
        (999.9, "1.00 kJ"),
        (5, "5.00 J"),
        (0, "0 J"),
        (math.nan, "unknown"),
        (-2.5, "-2.50 J"),
        (3e-7, "300 nJ"),
    ],
)
def test_joules_are_printed_with_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert joules(value) == text


@given(st.floats(1e-8, 1e14))
def test_what_is_printed_can_be_read_back_to_half_a_percent(value: float) -> None:
    assert parse_energy_j(joules(value)) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("text", "value"), [("5 J", 5), ("1.2kJ", 1200), ("3 Wh", 10800), ("0.1 kWh", 3.6e5), ("7mJ", 0.007)]
)
def test_energies_are_read(text: str, value: float) -> None:
    assert parse_energy_j(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("10ms", 0.01), ("2", 2), ("30m", 1800), ("1.5h", 5400), ("3 µs", 3e-6)]
)
def test_durations_are_read(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


def test_fractions_are_read() -> None:
    assert parse_fraction("5%") == 0.05
    assert parse_fraction("0.5") == 0.5


@pytest.mark.parametrize("parse", [parse_energy_j, parse_seconds, parse_fraction])
@pytest.mark.parametrize("text", ["", "five", "5 potatoes", "J", "--1 J"])
def test_what_is_no_quantity_is_refused(parse, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        parse(text)


def test_durations_are_printed_for_people() -> None:
    assert seconds(1.21) == "1.21 s"
    assert seconds(125) == "2 min 05 s"
    assert seconds(12_000) == "3 h 20 min"
    assert seconds(47 * 3600) == "47 h 00 min"
    assert seconds(100 * 3600) == "4 d 04 h"
    assert seconds(514_311 * 3600) == "59 years"
    assert seconds(20_000 * 3600) == "2.3 years"
    assert si(45, "W") == "45.0 W"
