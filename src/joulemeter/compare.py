"""Two runs, or two series of runs, compared: in all and site by site."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulemeter import series
from joulemeter.comparison import Difference, difference
from joulemeter.errors import UsageError
from joulemeter.ledger import Energy, Ledger, SiteLedger
from joulemeter.reading import outermost
from joulemeter.series import Series


@dataclass(frozen=True, slots=True)
class SiteDifference:
    """One site in both: its exclusive energy over the outermost rails, a call of it, and how often it ran."""

    name: str
    place: str
    calls: tuple[int, int]
    difference: Difference
    resolved: bool

    def to_json(self) -> dict[str, Any]:
        """One plain object."""
        return {
            "name": self.name,
            "place": self.place,
            "calls": list(self.calls),
            "resolved": self.resolved,
            **self.difference.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A."""

    total: Difference
    sites: tuple[SiteDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    origins: tuple[tuple[str, ...], tuple[str, ...]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One plain object for ``joulemeter compare --json``."""
        return {
            "schema": 1,
            "total": self.total.to_json(),
            "sites": [site.to_json() for site in self.sites],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "origins": [list(each) for each in self.origins],
            "notes": list(self.notes),
        }


def compare(a: Path, b: Path) -> Comparison:
    """The runs or series in folders ``a`` and ``b``.

    In all: the gross energy of the program; of a series the mean with the scatter's interval. Sites are
    matched by name, file name and function, not by line, so that an edit above does not unmatch them.
    """
    first, second = series.load(a), series.load(b)
    origins = (_origins(first), _origins(second))
    if origins[0] != origins[1]:
        raise UsageError(
            f"{a} is {_words(origins[0])} and {b} is {_words(origins[1])}: "
            "their difference would say more of the meters than of the programs",
            "two runs with the same --source",
        )
    left, right = _sites(first), _sites(second)
    both = [key for key in left if key in right]
    found = [_site_difference(key, left[key], right[key]) for key in both]
    found.sort(key=lambda site: -abs(site.difference.joules.value) if site.resolved else 0.0)
    return Comparison(
        total=difference(_total(first), _total(second)),
        sites=tuple(found),
        only_a=tuple(" ".join(key) for key in left if key not in right),
        only_b=tuple(" ".join(key) for key in right if key not in left),
        origins=origins,
        notes=tuple(dict.fromkeys([*first.notes, *second.notes])),
    )


def _origins(runs: Series) -> tuple[str, ...]:
    return tuple(sorted({rail.origin for each in runs.runs for rail in each.rails}))


def _words(origins: tuple[str, ...]) -> str:
    return ", ".join(origins) or "not metered"


def _total(runs: Series) -> Energy:
    return runs.energy if len(runs.runs) > 1 else runs.energies[0]


_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Site:
    calls: int
    energy: Energy
    resolved: bool


def _sites(runs: Series) -> dict[_Key, _Site]:
    """Of each site, calls and exclusive energy; of a series, means over its runs."""
    tables = [_of_ledger(each.ledger()) for each in runs.runs]
    keys = {key: None for table in tables for key in table}
    return {key: _mean([table[key] for table in tables if key in table]) for key in keys}


def _of_ledger(ledger: Ledger) -> dict[_Key, _Site]:
    outer = {rail.id for rail in outermost(tuple(each.rail for each in ledger.rails))}
    table: dict[_Key, _Site] = {}
    for site in ledger.sites:
        key = (site.site.name, Path(site.site.file).name, site.site.function)
        table[key] = _sum(table.get(key), _site(site, outer))
    return table


def _site(site: SiteLedger, outer: set[int]) -> _Site:
    entries = [entry for entry in site.rails if entry.rail in outer]
    parts = [entry.exclusive for entry in entries]
    return _Site(site.calls, _added(parts), bool(entries) and all(entry.resolved for entry in entries))


def _sum(one: _Site | None, other: _Site) -> _Site:
    if one is None:
        return other
    return _Site(one.calls + other.calls, _added([one.energy, other.energy]), one.resolved and other.resolved)


def _added(parts: list[Energy]) -> Energy:
    return Energy(
        *(math.fsum(getattr(part, key) for part in parts) for key in ("energy_j", "low_j", "high_j"))
    )


def _mean(sites: list[_Site]) -> _Site:
    n = len(sites)
    total = _added([site.energy for site in sites])
    energy = Energy(total.energy_j / n, total.low_j / n, total.high_j / n)
    return _Site(round(sum(site.calls for site in sites) / n), energy, all(site.resolved for site in sites))


def _site_difference(key: _Key, a: _Site, b: _Site) -> SiteDifference:
    name, file, function = key
    place = " ".join(part for part in (file, function) if part)
    return SiteDifference(
        name, place, (a.calls, b.calls), difference(a.energy, b.energy), a.resolved and b.resolved
    )
