"""Cells of a score table that a reader should doubt: told, never silently mended or dropped."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from joulemeter import units
from joulemeter.scoring import Flag, ScoreTable, two_way

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAME_DIGITS = 4
"""Equal values of fewer significant digits than this are taken for chance."""

FELL_BACK_WITHIN = 0.05
"""A delegate within this fraction of a CPU cell in both power and energy has most likely run on that CPU."""

FELL_BACK_ABOVE = 3.0
"""A delegate that costs this many times the CPU's energy pays for moving work to and fro."""

PRODUCT_WITHIN = 0.05
"""Energy and power × time may differ by this fraction."""

MISPRINT_FROM = math.log(4)
"""How far off the fit a cell must lie before a slipped decimal point is suspected …"""

MISPRINT_TO = math.log(2)
"""… and how near a shift of the point must bring it."""

AGREEING = 0.75
"""The share of the other devices that must lie within twice of their median for it to be the usual cost."""

_NEEDS = {"PCS": "power_w", "IECS": "energy_j"}
"""What each score is made of."""


def flags(table: ScoreTable) -> list[list[Flag]]:
    """The flags of each device, in the order of ``table.devices``."""
    misprints = suspected_misprints(table)
    return [
        [
            *_device_flags(table, row),
            *_identical(table, row),
            *_shared(table, row),
            *_fell_back(table, row),
            *_products(table, row),
            *(each.flag for each in misprints if each.row == row),
        ]
        for row in range(len(table.devices))
    ]


def _device_flags(table: ScoreTable, row: int) -> list[Flag]:
    found = []
    power, tdp_w = table.power_w[row], float(table.tdp_w[row])
    lacks = [score for score, values in _NEEDS.items() if np.isnan(getattr(table, values)[row]).all()]
    if len(lacks) == len(_NEEDS):
        found.append(Flag("no-cells", "", "", "the table has no value for this device"))
    elif lacks:
        noun = _NEEDS[lacks[0]].partition("_")[0]
        found.append(Flag("no-cells", "", "", f"the table has no {noun} for this device: no {lacks[0]}"))
    if math.isnan(tdp_w):
        found.append(Flag("no-tdp", "", "", "no thermal design power is given: no PCS"))
    for column in np.flatnonzero(power > tdp_w):
        detail = (
            f"{units.watts(float(power[column]))} is above the thermal design power of {units.watts(tdp_w)}"
        )
        found.append(_flag(table, "power-above-tdp", int(column), detail))
    return found


def _flag(table: ScoreTable, kind: str, column: int, detail: str) -> Flag:
    network, processor = table.cells[column]
    return Flag(kind, network, processor, detail)


def _identical(table: ScoreTable, row: int) -> list[Flag]:
    """Cells of one device with the very same power, or the very same energy of one network."""
    found = []
    for _, columns in _repeats(table.power_w[row]):
        detail = f"power {table.power_w[row, columns[0]]:g} W stands in {_list(table, columns)}"
        found.append(_flag(table, "identical-values", columns[1], detail))
    for _, columns in _repeats(table.energy_j[row]):
        if len({table.cells[column][0] for column in columns}) < len(columns):
            detail = f"energy {table.energy_j[row, columns[0]]:g} J stands in {_list(table, columns)}"
            found.append(_flag(table, "identical-values", columns[1], detail))
    return found


def _shared(table: ScoreTable, row: int) -> list[Flag]:
    """Cells whose value another device has in the same cell, to the last digit."""
    found = []
    for quantity, values, unit in (("power", table.power_w, "W"), ("energy", table.energy_j, "J")):
        for column, value in enumerate(values[row]):
            if math.isnan(value) or _digits(float(value)) < SAME_DIGITS:
                continue
            twins = [table.devices[i] for i in np.flatnonzero(values[:, column] == value) if i != row]
            if twins:
                detail = f"{quantity} {value:g} {unit} stands for {twins[0]} too"
                found.append(_flag(table, "identical-values", column, detail))
    return found


def _repeats(values: NDArray[np.float64]) -> list[tuple[float, list[int]]]:
    places: dict[float, list[int]] = defaultdict(list)
    for column, value in enumerate(values):
        if not math.isnan(value) and _digits(float(value)) >= SAME_DIGITS:
            places[float(value)].append(column)
    return [(value, columns) for value, columns in places.items() if len(columns) > 1]


def _digits(value: float) -> int:
    """Significant digits of a value as it was printed."""
    return len(f"{value:.10g}".split("e")[0].replace(".", "").strip("-0"))


def _list(table: ScoreTable, columns: list[int]) -> str:
    return " and ".join(" ".join(table.cells[column]) for column in columns)


def _fell_back(table: ScoreTable, row: int) -> list[Flag]:
    """Delegates (processors not named CPU…) that cost just what a CPU does, or many times it."""
    found = []
    for column, (network, processor) in enumerate(table.cells):
        twins = [i for i, (n, p) in enumerate(table.cells) if n == network and p.upper().startswith("CPU")]
        energy = float(table.energy_j[row, column])
        costs = [float(table.energy_j[row, i]) for i in twins if not math.isnan(table.energy_j[row, i])]
        if processor.upper().startswith("CPU") or math.isnan(energy) or not costs:
            continue
        same = [i for i in twins if _same(table, row, column, i)]
        if same:
            detail = f"power and energy are within {FELL_BACK_WITHIN:.0%} of {table.cells[same[0]][1]}"
            detail = f"{detail}: the delegate may have run there"
            found.append(_flag(table, "delegate-fell-back", column, detail))
        elif energy > FELL_BACK_ABOVE * min(costs):
            detail = (
                f"{energy / min(costs):.1f} times the energy of the CPU: parts may have fallen back to it"
            )
            found.append(_flag(table, "delegate-fell-back", column, detail))
    return found


def _same(table: ScoreTable, row: int, column: int, twin: int) -> bool:
    pairs = [(values[row, column], values[row, twin]) for values in (table.power_w, table.energy_j)]
    return all(abs(a - b) <= FELL_BACK_WITHIN * b for a, b in pairs)


def _products(table: ScoreTable, row: int) -> list[Flag]:
    """Cells whose energy is not power × time; only where the table gives the time."""
    product = table.power_w[row] * table.time_s[row]
    off = np.abs(table.energy_j[row] - product) > PRODUCT_WITHIN * product
    return [
        _flag(
            table,
            "energy-not-power-times-time",
            int(column),
            f"{table.energy_j[row, column]:g} J stands beside {table.power_w[row, column]:g} W × "
            f"{table.time_s[row, column]:g} s = {product[column]:.4g} J",
        )
        for column in np.flatnonzero(off)
    ]


@dataclass(frozen=True, slots=True)
class Misprint:
    """A value that a shift of the decimal point would bring in line."""

    row: int
    column: int
    quantity: Literal["power_w", "energy_j"]
    mended: float
    flag: Flag


def suspected_misprints(table: ScoreTable) -> list[Misprint]:
    """Powers and energies whose decimal point has most likely slipped.

    Judged without the cell itself, by the median of what the cell costs on other devices (another misprint
    among them does no harm), and only where those agree: where they do not, an odd value may well be real.
    """
    found = []
    quantities: tuple[Literal["power_w", "energy_j"], ...] = ("power_w", "energy_j")
    for quantity in quantities:
        values = getattr(table, quantity)
        fit = two_way(values)
        residual = np.log(values) - fit.device[:, None] - fit.cell
        # A cell pulls its own fit towards itself: it lies further off than its residual says, never nearer.
        for row, column in zip(*np.nonzero(np.abs(residual) > MISPRINT_FROM / 2), strict=True):
            found += _misprint(table, quantity, int(row), int(column))
    return found


def _misprint(
    table: ScoreTable, quantity: Literal["power_w", "energy_j"], row: int, column: int
) -> list[Misprint]:
    values = getattr(table, quantity)
    value = float(values[row, column])
    off = _off(values, row, column)
    places = 0 if math.isnan(off) else round(off / math.log(10))
    if places == 0 or abs(off) < MISPRINT_FROM or abs(off - places * math.log(10)) > MISPRINT_TO:
        return []
    # A slip in one of the two puts the time that both imply off as well; a delegate that fell back does not.
    time_off = _off(table.energy_j / table.power_w, row, column)
    slipped_off = time_off if quantity == "energy_j" else -time_off
    if not math.isnan(time_off) and slipped_off * math.copysign(1, off) < MISPRINT_FROM / 2:
        return []
    mended, unit = float(f"{value / 10**places:.12g}"), "W" if quantity == "power_w" else "J"
    times = f"{value:g} {unit} is {math.exp(abs(off)):.1f} times off what it should be here"
    flag = _flag(table, "possible-misprint", column, f"{times}; {mended:g} {unit} would fit")
    return [Misprint(row, column, quantity, mended, flag)]


def _off(values: NDArray[np.float64], row: int, column: int) -> float:
    """How far, in logarithms, a cell is off what it is on other devices; NaN where those do not agree."""
    without = values.copy()
    without[row, column] = np.nan
    device = two_way(without).device
    others = np.log(without[:, column]) - device
    others = others[~np.isnan(others)]
    if len(others) < 3 or math.isnan(device[row]) or math.isnan(values[row, column]):
        return math.nan
    usual = float(np.median(others))
    if np.quantile(np.abs(others - usual), AGREEING) > MISPRINT_FROM / 2:
        return math.nan
    return math.log(float(values[row, column])) - float(device[row]) - usual


def mended(table: ScoreTable) -> ScoreTable:
    """The table with every suspected misprint put right, to show what it changes."""
    values = {"power_w": table.power_w.copy(), "energy_j": table.energy_j.copy()}
    for each in suspected_misprints(table):
        values[each.quantity][each.row, each.column] = each.mended
    return replace(table, power_w=values["power_w"], energy_j=values["energy_j"])
