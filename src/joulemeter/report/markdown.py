"""A summary for a pull request: what the run took, and the sites that took most of it."""

from __future__ import annotations

import math
from collections import Counter

from joulemeter.ledger import (
    Energy,
    Ledger,
    RailLedger,
    SiteLedger,
    SiteRail,
    hungriest_first,
    line_of,
    place,
    site_figures,
)
from joulemeter.run import Run
from joulemeter.units import joules, seconds

EXTENSION = "md"
BINARY = False

_MOST = 15


def render(run: Run, ledger: Ledger) -> str:
    """GitHub's Markdown: a table of rails, a table of sites a rail, and the notes."""
    command = " ".join(map(str, run.header.get("argv", ()))) or run.folder.name
    blocks = [f"### Energy of `{_code(command)}`", *_warnings(run, ledger), _rails(ledger)]
    blocks += [_sites(rail, ledger) for rail in ledger.rails]
    notes = ledger.remarks()
    if notes:
        blocks.append("\n".join(f"- {_plain(note)}" for note in notes))
    return "\n\n".join(blocks) + "\n"


def _warnings(run: Run, ledger: Ledger) -> list[str]:
    said = ["**Interrupted**: the run was killed; this is what had been recorded."] if run.interrupted else []
    if not any(rail.rail.origin in ("measured", "replayed") for rail in ledger.rails):
        said.append("**Nothing was metered**: no figure below was measured.")
    return said


def _rails(ledger: Ledger) -> str:
    heads = ("rail", "origin", "energy", "95 % interval", "idle", "attributed", "unattributed")
    rows: list[tuple[str, ...]] = [
        (
            _plain(rail.rail.name),
            rail.rail.origin,
            joules(rail.energy.energy_j),
            _range(rail.energy),
            joules(rail.idle.energy_j),
            joules(rail.attributed_j),
            joules(rail.unattributed_j),
        )
        for rail in ledger.rails
    ]
    if len(ledger.rails) > 1:
        total = ledger.total
        rows.append(("**outermost**", "", f"**{joules(total.energy_j)}**", _range(total), "", "", ""))
    return _table(heads, rows)


def _sites(rail: RailLedger, ledger: Ledger) -> str:
    entries = hungriest_first(ledger.sites, rail.rail.id)
    known = [pair for pair in entries if not math.isnan(pair[1].exclusive.energy_j)]
    names = {site.site.id: site.site.name for site in ledger.sites}
    heads = ("site", "calls", "time", "energy", "95 % interval")
    twins = Counter(line_of(site) for site, _ in known)
    lines = [
        f"**{_plain(rail.rail.name)}**, {rail.rail.origin}",
        "",
        _table(heads, [_row(*pair, twins, names) for pair in known[:_MOST]]),
    ]
    rest = math.fsum(entry.exclusive.energy_j for _, entry in known[_MOST:])
    if len(known) > _MOST:
        lines += ["", f"… and {len(known) - _MOST} sites more with {joules(rest)}."]
    if len(entries) > len(known):
        lines += ["", f"Of {len(entries) - len(known)} more nothing is known: the meter did not see them."]
    return "\n".join(lines)


def _row(
    ledger: SiteLedger, entry: SiteRail, twins: Counter[tuple[str, str, int]], names: dict[int, str]
) -> tuple[str, ...]:
    found = place(ledger, twins)
    shown = f" {_plain(found)}" if found else ""
    return (
        f"`{_code(ledger.site.name)}`{shown}",
        f"{ledger.calls:,}",
        seconds(ledger.exclusive_s),
        *map(_plain, site_figures(entry, names)),
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = tuple("---" if place == 0 else "---:" for place in range(len(heads)))
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rule, *rows])


def _range(energy: Energy) -> str:
    return f"{joules(energy.low_j)} – {joules(energy.high_j)}"


def _code(text: str) -> str:
    # A bar would end the cell, a backtick the code, a newline the row.
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _plain(text: str) -> str:
    # An angle bracket would start HTML.
    return _code(text).replace("&", "&amp;").replace("<", "&lt;")
