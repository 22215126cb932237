"""Joules as grams of CO2 and as money: beside the joules, never instead of them, with an interval.

    grams = joules / 3.6e6 · PUE · g/kWh          money = joules / 3.6e6 · PUE · price per kWh

PUE (power usage effectiveness) is what a data centre draws over what its computers draw; it is 1 where
nobody says otherwise, since a joule nobody metered is not invented.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from joulemeter.errors import UsageError
from joulemeter.ledger import Energy, Ledger, number
from joulemeter.units import joules, si

JOULES_PER_KWH = 3.6e6

ZONE_ERROR = 0.25
"""Half width taken for a zone's yearly mean, as a fraction: by so much such means differ between one year
and the next and between publishers. Single hours lie further off."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three figures; null where not known."""
        return {key: number(getattr(self, key)) for key in ("value", "low", "high")}


@dataclass(frozen=True, slots=True)
class Intensity:
    """Grams of CO2-equivalent per kWh, and where the figure is from."""

    g_per_kwh: Amount
    source: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an energy means in carbon and money; None where not asked for."""

    energy: Energy
    pue: float
    intensity: Intensity | None
    carbon_g: Amount | None
    cost: Amount | None
    currency: str

    def to_json(self) -> dict[str, Any]:
        """One plain object, the joules first."""
        return {
            **self.energy.to_json(),
            "pue": self.pue,
            "carbon_g": self.carbon_g.to_json() if self.carbon_g else None,
            "carbon_intensity_g_per_kwh": self.intensity.g_per_kwh.to_json() if self.intensity else None,
            "carbon_source": self.intensity.source if self.intensity else None,
            "cost": self.cost.to_json() if self.cost else None,
            "currency": self.currency if self.cost else None,
        }

    def sentences(self) -> list[str]:
        """What a reader is told, a sentence each for carbon and cost."""
        of = f"{joules(self.energy.energy_j)}" + (f" at a PUE of {self.pue:g}" if self.pue != 1 else "")
        said = []
        if self.carbon_g and self.intensity:
            bounds = f"{_grams(self.carbon_g.low)} to {_grams(self.carbon_g.high)}"
            amount = f"{_grams(self.carbon_g.value)} CO2e, estimated ({bounds})"
            said.append(f"carbon of {of}: {amount}; {self.intensity.source}")
        if self.cost:
            ends = " to ".join(_money(each, self.currency) for each in (self.cost.low, self.cost.high))
            said.append(f"cost of {of}: {_money(self.cost.value, self.currency)}, estimated ({ends})")
        return said


def _grams(value: float) -> str:
    return si(value, "g")


def _money(value: float, currency: str) -> str:
    """Three digits, and never an exponent: 0.0000105 EUR."""
    if math.isnan(value) or value == 0:
        return "unknown" if math.isnan(value) else f"0 {currency}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f} {currency}"


def zone(code: str) -> Intensity:
    """The yearly mean of a zone by its ISO code (``FR``, ``FRA``, also ``EU`` and ``WORLD``), in any case.

    Raises UsageError with what there is. The table ships with its year, source and licence.
    """
    rows = zones()
    wanted = code.strip().upper()
    row = next((row for row in rows if wanted in (row["zone"], row["code"])), None)
    if row is None:
        near = [each["zone"] for each in rows if each["zone"][:1] == wanted[:1]]
        raise UsageError(
            f"there is no zone '{code}'", f"--carbon-intensity, or one of {', '.join(near or ['WORLD'])}"
        )
    value = float(row["g_per_kwh"])
    low, high = value * (1 - ZONE_ERROR), value * (1 + ZONE_ERROR)
    source = (
        f"{value:g} g/kWh ± {ZONE_ERROR:.0%}, {row['name']} {row['year']}, yearly mean (Ember, CC-BY-4.0)"
    )
    return Intensity(Amount(value, low, high), source)


def zones() -> list[dict[str, str]]:
    """The rows of the table that ships: zone, code, name, year, g_per_kwh."""
    text = resources.files("joulemeter").joinpath("data/carbon_intensity.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def parse_intensity(text: str) -> Intensity:
    """An intensity from ``342`` (taken as exact) or ``300..380`` (its middle, with that interval)."""
    low_text, dots, high_text = text.partition("..")
    try:
        low = float(low_text)
        high = float(high_text) if dots else low
    except ValueError as error:
        raise UsageError(f"'{text}' is no carbon intensity", "g/kWh, such as 342 or 300..380") from error
    if not 0 <= low <= high < math.inf:
        raise UsageError(f"the carbon intensity '{text}' is not possible", "g/kWh, such as 342 or 300..380")
    return Intensity(Amount((low + high) / 2, low, high), f"{text} g/kWh as given")


def footprint(
    energy: Energy,
    intensity: Intensity | None = None,
    pue: float = 1.0,
    price_per_kwh: float | None = None,
    currency: str = "EUR",
) -> Footprint:
    """Carbon and cost of ``energy``. Raises UsageError for a PUE below 1 or a price that is no number.

    The errors of energy and intensity are independent: relative half widths add in squares, each side on
    its own. A price and a PUE are taken as exact.
    """
    if not 1 <= pue < math.inf:
        raise UsageError(
            f"a PUE of {pue:g} is not possible", "1 or more: the whole site's energy over the computers'"
        )
    if price_per_kwh is not None and not math.isfinite(price_per_kwh):
        raise UsageError("the price per kWh is no number", "--price 0.25")
    kwh = Amount(*(pue * each / JOULES_PER_KWH for each in (energy.energy_j, energy.low_j, energy.high_j)))
    carbon = _product(kwh, intensity.g_per_kwh) if intensity else None
    cost = (
        None if price_per_kwh is None else _product(kwh, Amount(price_per_kwh, price_per_kwh, price_per_kwh))
    )
    return Footprint(energy, pue, intensity, carbon, cost, currency)


def _product(one: Amount, other: Amount) -> Amount:
    value = one.value * other.value
    low = math.hypot((one.value - one.low) * other.value, (other.value - other.low) * one.value)
    high = math.hypot((one.high - one.value) * other.value, (other.high - other.value) * one.value)
    # A price below zero turns an interval round.
    return Amount(value, value - low, value + high)


def noted(ledger: Ledger, found: Footprint) -> Ledger:
    """The ledger with carbon and cost of its total among its notes, where every report shows them."""
    return replace(ledger, notes=(*ledger.notes, *found.sentences()))
