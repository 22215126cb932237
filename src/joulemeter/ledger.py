"""Energy by site, with intervals; conserves: attributed + idle + unattributed is what the rail saw."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from joulemeter.reading import Rail, outermost
from joulemeter.span import Site
from joulemeter.timeline import Gap
from joulemeter.units import joules

CONSERVATION = 1e-9
"""Relative error within which a rail's parts add up to its whole."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules with a 95 % interval; all three NaN where nobody can say."""

    energy_j: float
    low_j: float
    high_j: float

    def to_json(self) -> dict[str, float | None]:
        """The three figures; null where not known."""
        return {key: number(getattr(self, key)) for key in ("energy_j", "low_j", "high_j")}


UNKNOWN = Energy(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class RailLedger:
    """What one rail measured and where it went. ``energy`` is gross, gaps left out."""

    rail: Rail
    energy: Energy
    idle: Energy
    attributed_j: float
    unattributed_j: float
    tail_j: float = 0.0
    """The part of ``unattributed_j`` that lies in a device's tail after its last span."""
    gaps: tuple[Gap, ...] = ()
    lag_ns: int = 0
    """The lag used: the rail's own, or estimated where the rail does not say."""
    window_ns: int = 0
    """The averaging window used, likewise."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The rail's object of the JSON report."""
        return {
            "id": self.rail.id,
            "name": self.rail.name,
            "origin": self.rail.origin,
            **self.energy.to_json(),
            "idle_j": number(self.idle.energy_j),
            "idle_low_j": number(self.idle.low_j),
            "idle_high_j": number(self.idle.high_j),
            "attributed_j": number(self.attributed_j),
            "unattributed_j": number(self.unattributed_j),
            "tail_j": number(self.tail_j),
            "kind": self.rail.kind,
            "inside": self.rail.inside,
            "source": self.rail.source,
            "lag_ns": self.lag_ns,
            "window_ns": self.window_ns,
            "gaps": [{"start_ns": g.start_ns, "end_ns": g.end_ns, "reason": g.reason} for g in self.gaps],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class SiteRail:
    """One site's energy on one rail, net of idle.

    ``resolved`` is False where the meter cannot tell the site from ``confounded_with`` (site ids), or,
    where that is empty, from nothing; ``joint`` is then the group's exclusive energy. A resolved site may
    be among those that another is confounded with; it names none itself.
    """

    rail: int
    resolved: bool
    confounded_with: tuple[int, ...]
    exclusive: Energy
    inclusive: Energy
    joint: Energy | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the site draws on other rails only: a call beside a device's, a kernel beside a host's."""
        return self.resolved and self.exclusive.high_j == 0

    def to_json(self) -> dict[str, Any]:
        """The site's entry for this rail in the JSON report."""
        return {
            "rail": self.rail,
            "resolved": self.resolved,
            "confounded_with": list(self.confounded_with),
            "exclusive": self.exclusive.to_json(),
            "inclusive": self.inclusive.to_json(),
            "joint": None if self.joint is None else self.joint.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SiteLedger:
    """One site: how often it ran, for how long (exclusive and inclusive seconds), and its joules."""

    site: Site
    calls: int
    time_s: float
    exclusive_s: float
    rails: tuple[SiteRail, ...]

    def to_json(self) -> dict[str, Any]:
        """The site's object of the JSON report."""
        site = self.site
        return {
            "id": site.id,
            "name": site.name,
            "kind": site.kind,
            "file": site.file,
            "line": site.line,
            "column": site.column,
            "function": site.function,
            "calls": self.calls,
            "time_s": self.time_s,
            "exclusive_s": self.exclusive_s,
            "arguments": site.arguments,
            "rails": [each.to_json() for each in self.rails],
        }


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where the joules of a run went."""

    rails: tuple[RailLedger, ...]
    sites: tuple[SiteLedger, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Energy:
        """The outermost rails together; NaN where one of them is not known, or where there is none.

        Rails' errors are taken as dependent (one machine, one thermal state): interval ends add.
        """
        outer = {rail.id for rail in outermost(tuple(each.rail for each in self.rails))}
        parts = [each.energy for each in self.rails if each.rail.id in outer]
        if not parts:
            return UNKNOWN
        return Energy(*(sum(getattr(part, key) for part in parts) for key in ("energy_j", "low_j", "high_j")))

    def check(self) -> None:
        """Raises AssertionError if a rail's parts do not add up to the whole, within CONSERVATION.

        A site that ran only while the rail saw nothing is not known (NaN), and no part of the sum.
        """
        for each in self.rails:
            whole = each.energy.energy_j
            if math.isnan(whole):
                continue
            parts = each.attributed_j + each.idle.energy_j + each.unattributed_j
            assert abs(parts - whole) <= CONSERVATION * max(1.0, abs(whole)), (each.rail.name, parts, whole)
            exclusive = math.fsum(
                entry.exclusive.energy_j
                for site in self.sites
                for entry in site.rails
                if entry.rail == each.rail.id and not math.isnan(entry.exclusive.energy_j)
            )
            assert abs(exclusive - each.attributed_j) <= CONSERVATION * max(1.0, abs(whole)), each.rail.name

    def __str__(self) -> str:
        """The ledger as plain text: a table a rail, then the notes."""
        tables = [_text_table(rail, self.sites) for rail in self.rails] or ["Nothing was metered."]
        return "\n\n".join([*tables, *(f"note: {note}" for note in self.remarks())])

    def _repr_html_(self) -> str:
        """The ledger as tables and notes, for notebooks."""
        tables = [_html_table(rail, self.sites) for rail in self.rails] or ["<p>Nothing was metered.</p>"]
        return "".join([*tables, *(f"<p>note: {escape(note)}</p>" for note in self.remarks())])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython in a terminal shows: the text."""
        printer.text("Ledger(…)" if cycle else str(self))

    def remarks(self) -> list[str]:
        """What is to be said of the rails, under their names where there are several, and of the run."""
        several = len(self.rails) > 1
        of_rails = (f"{r.rail.name}: {note}" if several else note for r in self.rails for note in r.notes)
        return list(dict.fromkeys([*of_rails, *self.notes]))

    def to_json(self) -> dict[str, Any]:
        """The object that ``joulemeter report --format json`` prints."""
        return {
            "schema": 1,
            "rails": [rail.to_json() for rail in self.rails],
            "sites": [site.to_json() for site in self.sites],
            "total": self.total.to_json(),
            "notes": list(self.notes),
        }


MOST_SHOWN = 20
"""Sites of a rail that a notebook or a printed ledger shows; the rest are one row."""

_HEADS = ("site", "calls", "energy", "95 % interval")


def _table(rail: RailLedger, sites: tuple[SiteLedger, ...]) -> list[tuple[str, ...]]:
    """Rows under ``_HEADS``: the hungriest sites, idle, unattributed, total."""
    names = {site.site.id: site.site.name for site in sites}
    entries = hungriest_first(sites, rail.rail.id)
    twins = Counter(line_of(site) for site, _ in entries)
    rows = [
        (f"{site.site.name}  {place(site, twins)}".strip(), f"{site.calls:,}", *site_figures(entry, names))
        for site, entry in entries[:MOST_SHOWN]
    ]
    if len(entries) > MOST_SHOWN:
        rest_j = math.fsum(entry.exclusive.energy_j for _, entry in entries[MOST_SHOWN:])
        rows.append((f"{len(entries) - MOST_SHOWN} more", "", joules(rest_j), ""))
    rows.append(("idle", "", *_energy_figures(rail.idle)))
    rows.append(("unattributed", "", joules(rail.unattributed_j), ""))
    return [*rows, ("total", "", *_energy_figures(rail.energy))]


def _html_table(rail: RailLedger, sites: tuple[SiteLedger, ...]) -> str:
    rows = [tuple(map(escape, row)) for row in _table(rail, sites)]
    rows[-1] = ("<b>total</b>", *rows[-1][1:])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    caption = f"{escape(rail.rail.name)}, {rail.rail.origin}"
    return f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _text_table(rail: RailLedger, sites: tuple[SiteLedger, ...]) -> str:
    rows = [_HEADS, *_table(rail, sites)]
    wide = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [
        "  ".join([row[0].ljust(wide[0]), *(row[at].rjust(wide[at]) for at in (1, 2, 3))]).rstrip()
        for row in rows
    ]
    return "\n".join([f"{rail.rail.name}, {rail.rail.origin}", *lines])


def line_of(site: SiteLedger) -> tuple[str, str, int]:
    """What tells sites apart to a reader, but for the column."""
    return site.site.name, site.site.file, site.site.line


def place(site: SiteLedger, twins: Mapping[tuple[str, str, int], int]) -> str:
    """File and line; the column too where one line makes the same call twice (``twins`` counts line_of).

    Empty for what has no file, and for a program that is named after its own.
    """
    name = os.path.basename(site.site.file)
    line = f":{site.site.line}" if name and site.site.line > 0 else ""
    column = f":{site.site.column}" if line and twins[line_of(site)] > 1 else ""
    return "" if name + line == site.site.name else name + line + column


def hungriest_first(sites: Iterable[SiteLedger], rail: int) -> list[tuple[SiteLedger, SiteRail]]:
    """The sites that a rail feeds, by their own joules; those that are not known come last."""
    fed = [(site, each) for site in sites for each in site.rails if each.rail == rail and not each.elsewhere]
    return sorted(fed, key=lambda each: _unknown_last(each[1].exclusive.energy_j))


def _unknown_last(energy_j: float) -> tuple[bool, float]:
    return math.isnan(energy_j), -energy_j


def site_figures(entry: SiteRail, names: dict[int, str]) -> tuple[str, str]:
    """A site's own joules and interval; where the meter cannot tell them, what it can."""
    own = entry.exclusive
    if math.isnan(own.energy_j):
        return "unknown", ""
    if entry.resolved:
        return _energy_figures(own)
    if entry.confounded_with and entry.joint is not None:
        others = ", ".join(names.get(other, f"#{other}") for other in entry.confounded_with[:3])
        return f"not told apart from {others}", f"jointly {_energy_figures(entry.joint)[1]}"
    if own.low_j > 0:
        return "not resolved", _energy_figures(own)[1]
    return "below resolution", f"≤ {joules(own.high_j)}"


def _energy_figures(energy: Energy) -> tuple[str, str]:
    return joules(energy.energy_j), f"{joules(energy.low_j)} – {joules(energy.high_j)}"


def number(value: float) -> float | None:
    """``value``, or None where it is not known: JSON has no NaN."""
    return None if math.isnan(value) or math.isinf(value) else value
