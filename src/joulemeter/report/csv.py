"""A row for every site on every rail, and for what no site explains; blank where not known."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from joulemeter.ledger import UNKNOWN, Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.run import Run

EXTENSION = "csv"
BINARY = False

COLUMNS: dict[str, type] = {
    "rail": str,
    "origin": str,
    "site": int,
    "name": str,
    "kind": str,
    "file": str,
    "line": int,
    "function": str,
    "calls": int,
    "time_s": float,
    "exclusive_s": float,
    "resolved": bool,
    "confounded_with": str,
    "exclusive_j": float,
    "exclusive_low_j": float,
    "exclusive_high_j": float,
    "inclusive_j": float,
    "inclusive_low_j": float,
    "inclusive_high_j": float,
}
"""The columns and their types. ``kind`` is a site's, or ``idle``, ``unattributed``, ``total``."""


def render(run: Run, ledger: Ledger) -> str:
    """The table with a heading."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(ledger))
    return out.getvalue()


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    """The rows, dearest site first within a rail; None where something is not known or does not apply.

    The exclusive joules of a rail's rows, its total left out, add up to the total.
    """
    return [row for rail in ledger.rails for row in _rail_rows(rail, ledger)]


def _rail_rows(rail: RailLedger, ledger: Ledger) -> list[dict[str, Any]]:
    common = {**dict.fromkeys(COLUMNS), "rail": rail.rail.name, "origin": rail.rail.origin}
    entries = [(site, entry) for site in ledger.sites for entry in site.rails if entry.rail == rail.rail.id]
    entries.sort(key=lambda pair: _order(pair[1].exclusive.energy_j))
    unattributed = Energy(rail.unattributed_j, math.nan, math.nan)
    rest = (("idle", rail.idle), ("unattributed", unattributed), ("total", rail.energy))
    return [{**common, **_site(site, entry)} for site, entry in entries] + [
        {
            **common,
            "name": name,
            "kind": name,
            **_energy("exclusive", energy),
            **_energy("inclusive", UNKNOWN),
        }
        for name, energy in rest
    ]


def _order(energy_j: float) -> float:
    return math.inf if math.isnan(energy_j) else -energy_j


def _site(ledger: SiteLedger, entry: SiteRail) -> dict[str, Any]:
    site = ledger.site
    return {
        "site": site.id,
        "name": site.name,
        "kind": site.kind,
        "file": site.file or None,
        "line": site.line or None,
        "function": site.function or None,
        "calls": ledger.calls,
        "time_s": _known(ledger.time_s),
        "exclusive_s": _known(ledger.exclusive_s),
        "resolved": entry.resolved,
        "confounded_with": " ".join(map(str, entry.confounded_with)) or None,
        **_energy("exclusive", entry.exclusive),
        **_energy("inclusive", entry.inclusive),
    }


def _energy(name: str, energy: Energy) -> dict[str, float | None]:
    parts = {"": energy.energy_j, "_low": energy.low_j, "_high": energy.high_j}
    return {f"{name}{part}_j": _known(value) for part, value in parts.items()}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
