"""The table of where the joules went, for a terminal or a log."""

from __future__ import annotations

import io
import math
from collections import Counter

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from joulemeter.ledger import (
    Energy,
    Ledger,
    RailLedger,
    SiteLedger,
    SiteRail,
    hungriest_first,
    line_of,
    place,
)
from joulemeter.run import Run
from joulemeter.units import joules, seconds

EXTENSION = "txt"
BINARY = False

_WIDTH = 120
_MOST_SITES = 40


def render(run: Run, ledger: Ledger) -> str:
    """The report without colour, ``_WIDTH`` columns wide."""
    out = io.StringIO()
    show(run, ledger, Console(file=out, width=_WIDTH, no_color=True, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def show(run: Run, ledger: Ledger, console: Console, most: int = _MOST_SITES) -> None:
    """Writes the report on ``console``: a warning where nothing was metered, a table a rail, the notes."""
    for line in _headlines(run, ledger):
        console.print(line)
    for rail in ledger.rails:
        console.print(rail_table(rail, ledger, most))
    for note in ledger.remarks():
        console.print(Text("note: " + note, style="dim"))


def _headlines(run: Run, ledger: Ledger) -> list[Text]:
    lines = []
    if not ledger.rails:
        lines.append(
            Text("Nothing was metered: the run has no rails. See: joulemeter doctor", style="bold red")
        )
    elif not any(rail.rail.origin in ("measured", "replayed") for rail in ledger.rails):
        origins = " and ".join(sorted({rail.rail.origin for rail in ledger.rails}))
        lines.append(
            Text(
                f"Nothing was metered: every joule below is {origins}. "
                "Which meters there could be: joulemeter doctor",
                style="bold yellow",
            )
        )
    if run.interrupted:
        lines.append(
            Text("interrupted: the run was killed; this is what had been recorded", style="bold red")
        )
    if len(ledger.rails) > 1:
        lines.append(Text(f"Total of the outermost rails: {_interval(ledger.total)}", style="bold"))
    return lines


def rail_table(rail: RailLedger, ledger: Ledger, most: int) -> Table:
    """One rail: its ``most`` hungriest sites, then idle, unattributed and total."""
    table = Table(
        box=box.SIMPLE_HEAD, title=_title(rail), title_justify="left", pad_edge=False, title_style="bold"
    )
    table.add_column("site", overflow="fold", ratio=3)
    for name in ("calls", "time", "energy", "95 % interval", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    whole = rail.energy.energy_j
    rows = hungriest_first(ledger.sites, rail.rail.id)
    twins = Counter(line_of(site) for site, _ in rows)
    for site, entry in rows[:most]:
        table.add_row(
            _where(site, twins), f"{site.calls:,}", seconds(site.exclusive_s), *_figures(entry, whole)
        )
    if len(rows) > most:
        rest = math.fsum(entry.exclusive.energy_j for _, entry in rows[most:])
        table.add_row(f"… {len(rows) - most} more sites", "", "", joules(rest), "", _share(rest, whole))
    table.add_section()
    table.add_row(
        "idle", "", "", joules(rail.idle.energy_j), _range(rail.idle), _share(rail.idle.energy_j, whole)
    )
    table.add_row("unattributed", "", "", joules(rail.unattributed_j), "", _share(rail.unattributed_j, whole))
    if rail.tail_j > 0:
        table.add_row("  of it in tails", "", "", joules(rail.tail_j), "", _share(rail.tail_j, whole))
    table.add_row("total", "", "", joules(whole), _range(rail.energy), _share(whole, whole), style="bold")
    return table


def _title(rail: RailLedger) -> str:
    gaps = sum(gap.end_ns - gap.start_ns for gap in rail.gaps) / 1e9
    reasons = ", ".join(sorted({gap.reason for gap in rail.gaps}))
    unseen = f"; {seconds(gaps)} not seen ({reasons})" if gaps else ""
    return f"{rail.rail.name}: {joules(rail.energy.energy_j)} {rail.rail.origin}{unseen}"


def _where(site: SiteLedger, twins: Counter[tuple[str, str, int]]) -> Text:
    found = place(site, twins)
    shown = f"  {found}" if found else ""
    kind = "" if site.site.kind in ("call", "span") else f"  [{site.site.kind}]"
    return Text.assemble(site.site.name, (shown + kind, "dim"))


def _figures(entry: SiteRail, whole: float) -> tuple[str, str, str]:
    if entry.resolved:
        return (
            joules(entry.exclusive.energy_j),
            _range(entry.exclusive),
            _share(entry.exclusive.energy_j, whole),
        )
    if entry.confounded_with and entry.joint is not None:
        others = ", ".join(f"#{other}" for other in entry.confounded_with[:3])
        return f"with {others}", f"jointly {_range(entry.joint)}", _share(entry.exclusive.energy_j, whole)
    if math.isnan(entry.exclusive.energy_j):
        return "unknown", "", ""
    if entry.exclusive.low_j > 0:
        return "not resolved", _range(entry.exclusive), ""
    return "below resolution", f"≤ {joules(entry.exclusive.high_j)}", ""


def _interval(energy: Energy) -> str:
    return f"{joules(energy.energy_j)} ({_range(energy)})"


def _range(energy: Energy) -> str:
    return f"{joules(energy.low_j)} – {joules(energy.high_j)}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 and not math.isnan(part) else ""
