"""Carbon and cost: by hand, with intervals, and never without the joules they are of."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sample_run
from joulemeter import carbon
from joulemeter.errors import UsageError
from joulemeter.ledger import UNKNOWN, Energy

KWH = Energy(3.6e6, 3.5e6, 3.8e6)


def test_a_kilowatt_hour_at_342_g_and_a_pue_of_1_5_by_hand():
    found = carbon.footprint(KWH, carbon.parse_intensity("342"), pue=1.5, price_per_kwh=0.2)
    assert found.carbon_g.value == pytest.approx(513)
    assert found.carbon_g.low == pytest.approx(513 * 3.5 / 3.6)
    assert found.carbon_g.high == pytest.approx(513 * 3.8 / 3.6)
    assert found.cost.value == pytest.approx(0.3)


def test_an_uncertain_intensity_widens_the_carbon_in_squares():
    found = carbon.footprint(Energy(3.6e6, 3.24e6, 3.96e6), carbon.parse_intensity("90..110"))
    # ten per cent of each: √(0.1² + 0.1²)
    assert found.carbon_g.high == pytest.approx(100 * (1 + math.hypot(0.1, 0.1)))


def test_unknown_energy_has_unknown_carbon_not_zero():
    found = carbon.footprint(UNKNOWN, carbon.zone("FR"), price_per_kwh=0.2)
    assert math.isnan(found.carbon_g.value)
    assert found.to_json()["carbon_g"]["value"] is None
    assert "unknown" in " ".join(found.sentences())


@given(st.floats(1e-3, 1e9), st.floats(0, 2000), st.floats(1, 3))
def test_the_interval_holds_the_value(energy, grams, pue):
    found = carbon.footprint(
        Energy(energy, energy * 0.9, energy * 1.2), carbon.parse_intensity(f"{grams}"), pue
    )
    assert found.carbon_g.low <= found.carbon_g.value <= found.carbon_g.high


@pytest.mark.parametrize("code", ["FR", "fra", " fr "])
def test_a_zone_by_either_iso_code_says_its_year_source_and_licence(code):
    found = carbon.zone(code)
    assert found.g_per_kwh.value == 56
    assert found.g_per_kwh.low < 56 < found.g_per_kwh.high
    assert all(word in found.source for word in ("France", "2023", "Ember", "CC-BY-4.0"))


def test_every_zone_of_the_table_is_possible_and_named_once():
    rows = carbon.zones()
    assert len({row["zone"] for row in rows}) == len({row["code"] for row in rows}) == len(rows) > 50
    assert all(10 < float(row["g_per_kwh"]) < 1500 and 2020 <= int(row["year"]) <= 2025 for row in rows)


def test_an_unknown_zone_is_refused_with_those_near_it():
    with pytest.raises(UsageError, match="FI, FR"):
        carbon.zone("FX")


@pytest.mark.parametrize("text", ["", "green", "-5", "9..1", "inf", "nan"])
def test_an_impossible_intensity_is_refused(text):
    with pytest.raises(UsageError):
        carbon.parse_intensity(text)


@pytest.mark.parametrize("pue", [0.9, 0.0, math.inf, math.nan])
def test_a_pue_below_one_is_refused(pue):
    with pytest.raises(UsageError):
        carbon.footprint(KWH, pue=pue)


def test_carbon_stands_beside_the_joules_in_the_notes(tmp_path):
    ledger = sample_run.ledger(sample_run.run(tmp_path))
    found = carbon.footprint(ledger.total, carbon.zone("DE"), 1.2, 0.3)
    notes = carbon.noted(ledger, found).notes
    assert notes[: len(ledger.notes)] == ledger.notes
    carbon_note, cost_note = notes[len(ledger.notes) :]
    assert carbon_note.startswith("carbon of 946 J at a PUE of 1.2: 120 mg CO2e, estimated (")
    assert cost_note.startswith("cost of 946 J at a PUE of 1.2: 0.0000946 EUR, estimated (")


def test_what_was_not_asked_for_is_not_said():
    assert carbon.footprint(KWH).sentences() == []
    assert carbon.footprint(KWH).to_json()["cost"] is None
