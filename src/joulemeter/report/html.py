"""One self-contained page: no network, dark and light, for mouse, keyboard and screen reader.

The head figures, tables of rails, gaps, arguments and the comparison are plain HTML and need no script.
Power, flame graph, table of sites and source are drawn by ``run.js`` from one JSON object in the page,
thinned beforehand so that ten million spans open as fast as ten thousand. A content security policy
forbids the page any network.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from joulemeter import argument_sizes, calltree, comparison, source_lines, svg_plot, thinning
from joulemeter.ledger import Energy, Ledger, RailLedger, SiteLedger, number
from joulemeter.run import Run
from joulemeter.timeline import Timeline
from joulemeter.units import joules, seconds, si, watts

EXTENSION = "html"
BINARY = False

MOST_NODES = 4000
"""Nodes of the flame graph kept; the lighter ones are merged into their callers, and said to be."""

MOST_LANES = 16
"""Lanes drawn, the busiest; the others are counted."""

MOST_BUBBLES = 25
"""Sites in the plot of argument sizes, the dearest per call: more names would hide each other."""

_HERE = Path(__file__).parent


def render(run: Run, ledger: Ledger) -> str:
    """The page of one run."""
    return page(run, ledger)


def page(run: Run, ledger: Ledger, before: tuple[Run, Ledger] | None = None) -> str:
    """The page of a run, with its comparison to the run ``before`` where one is given."""
    title = f"Energy of {_command(run)}"
    sections = [
        _summary(run, ledger),
        *([_comparison(before[0], before[1], ledger)] if before else []),
        _timeline_section(run),
        section("Flame graph", _asset("flame.html")),
        section("Sites", _asset("sites.html")),
        _source_section(run, ledger),
        _arguments(ledger),
        _gaps(run, ledger),
        _notes(ledger),
    ]
    names = [name for name, html in sections if html]
    body = "\n".join(html for _, html in sections if html)
    return document(title, _heading(run), _rail_bar(ledger) + body, names, _payload(run, ledger), "run.js")


def document(
    title: str, heading: str, body: str, sections: list[str], data: dict[str, Any], script: str
) -> str:
    """A whole page: the frame that all pages share, style and script inside."""
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in sections)
    # A "<" inside JSON could end the script element; its escape means the same to JSON.parse.
    inline = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header class="page">{heading}
<button type="button" id="theme">Dark or light</button></header>
<nav class="page" aria-label="Sections">{links}</nav>
<main id="content" tabindex="-1">
{body}
<noscript><p class="warning">Charts need JavaScript; the figures above do not.</p></noscript>
</main>
<footer><p class="soft">Written by joulemeter. Every figure has an origin and a 95 % interval.</p></footer>
<div id="tip" aria-hidden="true" hidden></div>
<script type="application/json" id="data">{inline}</script>
<script>
{_asset(script)}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def section(name: str, inside: str) -> tuple[str, str]:
    """A section with its heading, and its name for the page's links."""
    html = f'<section id="{_anchor(name)}" aria-labelledby="{_anchor(name)}-h">'
    return name, f'{html}<h2 id="{_anchor(name)}-h">{escape(name)}</h2>{inside}</section>'


def _command(run: Run) -> str:
    return " ".join(map(str, run.header.get("argv", ()))) or run.folder.name


# ── head and summary ─────────────────────────────────────────────────────────────────────────────────


def _heading(run: Run) -> str:
    return f"<h1>Energy of <code>{escape(_command(run))}</code></h1>"


def _origins(ledger: Ledger) -> str:
    return " and ".join(sorted({rail.rail.origin for rail in ledger.rails})) or "no rails"


def _summary(run: Run, ledger: Ledger) -> tuple[str, str]:
    total = ledger.total
    figure = (
        f'<p><span class="figure">{joules(total.energy_j)}</span> '
        f"<span>95 % interval {_range(total)}; {escape(_origins(ledger))}</span></p>"
    )
    facts = f'<p class="soft">{escape("; ".join(_facts(run)))}</p>'
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in _warnings(run, ledger))
    return section("Summary", figure + facts + warnings + _rails_table(ledger))


def _facts(run: Run) -> list[str]:
    host = run.header.get("host", {})
    begun = run.header.get("start", {}).get("wall_ns")
    first, last = _extent(run)
    said = [f"the outermost rails over {seconds((last - first) / 1e9)}"] if last > first else []
    if begun:
        said.append(f"begun {datetime.fromtimestamp(begun / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC")
    said += [f"on {host['name']}"] if host.get("name") else []
    said += [str(host["cpu"])] if host.get("cpu") else []
    return [*said, f"{len(run.spans):,} spans at {len(run.sites):,} sites"]


def _warnings(run: Run, ledger: Ledger) -> list[str]:
    said = ["The run was killed; this is what had been recorded."] if run.interrupted else []
    if not ledger.rails:
        said.append("Nothing was metered: the run has no rails. See: joulemeter doctor")
    elif not any(rail.rail.origin in ("measured", "replayed") for rail in ledger.rails):
        said.append(f"Nothing was metered: every joule here is {_origins(ledger)}. See: joulemeter doctor")
    for rail in ledger.rails:
        unseen_s = sum(gap.end_ns - gap.start_ns for gap in rail.gaps) / 1e9
        if unseen_s > 0:
            said.append(
                f"{rail.rail.name}: {seconds(unseen_s)} were not seen; their joules are in no figure here."
            )
    unresolved = {s.site.id for s in ledger.sites for e in s.rails if not e.resolved}
    if unresolved:
        said.append(f"{len(unresolved)} of {len(ledger.sites)} sites cannot be told apart on some rail.")
    return said


def _rails_table(ledger: Ledger) -> str:
    heads = (
        "Rail",
        "Origin",
        "Energy",
        "95 % interval",
        "Idle",
        "Attributed",
        "Tail",
        "Unattributed",
        "Shares",
    )
    rows = "".join(_rail_row(rail, ledger) for rail in ledger.rails)
    keys = "".join(
        f'<li><span class="key {name}"></span>{name}</li>'
        for name in ("attributed", "idle", "tail", "unattributed")
    )
    caption = "Attributed, idle and unattributed add up to the energy; the tail is part of the unattributed."
    return table(heads, rows, caption) + f'<ul class="legend">{keys}</ul>'


def _rail_row(rail: RailLedger, ledger: Ledger) -> str:
    inside = next((each.rail.name for each in ledger.rails if each.rail.id == rail.rail.inside), None)
    name = escape(rail.rail.name) + (f' <span class="soft">inside {escape(inside)}</span>' if inside else "")
    figures = (rail.idle.energy_j, rail.attributed_j, rail.tail_j, rail.unattributed_j)
    cells = [rail.rail.origin, joules(rail.energy.energy_j), _range(rail.energy), *map(joules, figures)]
    return f'<tr><th scope="row">{name}</th>{_cells(cells)}<td>{_stack(rail)}</td></tr>'


def _stack(rail: RailLedger) -> str:
    """The rail's parts side by side; the table beside it says the same in figures."""
    whole = rail.energy.energy_j
    parts = {
        "attributed": rail.attributed_j,
        "idle": rail.idle.energy_j,
        "tail": rail.tail_j,
        "unattributed": rail.unattributed_j - rail.tail_j,
    }
    if not whole > 0:
        return ""
    bars = "".join(
        f'<span class="{name}" style="width:{max(0.0, 100 * value / whole):.2f}%"></span>'
        for name, value in parts.items()
        if value > 0
    )
    return f'<div class="stack" aria-hidden="true">{bars}</div>'


def table(heads: tuple[str, ...], rows: str, caption: str = "", words: frozenset[int] = frozenset()) -> str:
    """A table that scrolls by itself on a narrow screen; ``rows`` is HTML, ``words`` the columns of text."""
    top = "".join(
        f'<th scope="col"{" class=left" * (place in words)}>{escape(head)}</th>'
        for place, head in enumerate(heads)
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    label = escape(caption or heads[0])
    body = f"<table>{said}<thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{body}</div>'


def _cells(values: list[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _range(energy: Energy) -> str:
    return f"{joules(energy.low_j)} to {joules(energy.high_j)}"


# ── the sections that the script fills ───────────────────────────────────────────────────────────────


def _rail_bar(ledger: Ledger) -> str:
    names = ((rail.rail.id, f"{rail.rail.name} ({rail.rail.origin})") for rail in ledger.rails)
    options = "".join(f'<option value="{number}">{escape(name)}</option>' for number, name in names)
    label = f'<label>Flame graph, sites and source show <select id="rail">{options}</select></label>'
    return f'<div id="rail-bar"><div class="tools" style="margin:0">{label}</div></div>'


def _timeline_section(run: Run) -> tuple[str, str]:
    left_out = len(np.unique(run.spans.lane)) - MOST_LANES
    more = f'<p class="soft">{left_out} lanes with fewer spans are not drawn.</p>' if left_out > 0 else ""
    return section("Power over time", _asset("timeline.html") + more)


def _source_section(run: Run, ledger: Ledger) -> tuple[str, str]:
    files, missing = source_lines.files(run, ledger)
    said = f'<p class="soft">Not readable here: {escape(", ".join(missing))}.</p>' if missing else ""
    if not files:
        return section("Source", said) if missing else ("Source", "")
    options = "".join(f'<option value="{i}">{escape(each["path"])}</option>' for i, each in enumerate(files))
    changed = [each["path"] for each in files if each["changed"]]
    warning = (
        f'<p class="warning">Changed since the run: {escape(", ".join(changed))}.</p>' if changed else ""
    )
    tools = (
        f'<div class="tools"><label>File <select id="source-file">{options}</select></label>'
        '<label><input type="checkbox" id="whole-file"> Whole file</label></div>'
    )
    return section("Source", warning + tools + _asset("source.html") + said)


# ── arguments, gaps, notes, comparison: plain HTML ───────────────────────────────────────────────────


def _arguments(ledger: Ledger) -> tuple[str, str]:
    """Sizes against joules over all sites, then how often each site saw which argument."""
    lists = "".join(
        f"<h3><code>{escape(site.site.name)}</code></h3>{_distribution(site.site.name, name, seen)}"
        for site in ledger.sites
        for name, seen in argument_sizes.distributions(site.site.arguments)
    )
    if not lists:
        return "Argument sizes", ""
    inside = f"<details><summary>Every argument seen</summary>{lists}</details>"
    return section("Argument sizes", _size_plot(ledger) + inside)


def _size_plot(ledger: Ledger) -> str:
    """Bytes of a call's arguments against its own joules, on the first rail that has both for two sites."""
    for rail in ledger.rails:
        bubbles = [bubble for site in ledger.sites if (bubble := _sized(site, rail.rail.id))]
        bubbles = sorted(bubbles, key=lambda each: -each.y)[:MOST_BUBBLES]
        if len(bubbles) > 1:
            label = f"Bytes of arguments per call against own joules per call on {rail.rail.name}"
            drawn = svg_plot.svg(
                bubbles, "bytes of arguments per call", "J per call", label, log_y=True, line=False
            )
            region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}, plot">'
            return f"<p>{escape(label)} ({rail.rail.origin}).</p>{region}{drawn}</div>"
    return ""


def _sized(site: SiteLedger, rail: int) -> svg_plot.Bubble | None:
    size = argument_sizes.bytes_per_call(site.site.arguments)
    own = next((e.exclusive.energy_j for e in site.rails if e.rail == rail and e.resolved), math.nan)
    if not (size > 0 and own > 0 and site.calls > 0):
        return None
    return svg_plot.Bubble(site.site.name, size, size, size, own / site.calls, math.nan, True)


def _distribution(site: str, name: str, seen: list[argument_sizes.Seen], most: int = 12) -> str:
    # Sizes stand in their own order, values by how often they were seen.
    sized = all(not math.isnan(each.size_bytes) for each in seen)
    ordered = sorted(seen, key=lambda each: each.size_bytes if sized else -each.count)
    whole = max(each.count for each in seen)
    rows = "".join(
        f'<tr><th scope="row">{escape(each.text)}</th><td>{si(each.size_bytes, "B") if sized else ""}</td>'
        f'<td>{each.count:g}</td><td class="left" style="width:50%">'
        f'<span class="bar" style="width:{_percent(each.count, whole)}" aria-hidden="true"></span></td></tr>'
        for each in ordered[:most]
    )
    left = f'<p class="soft">{len(ordered) - most} more values.</p>' if len(ordered) > most else ""
    return table((f"Argument {name}", "Size", "Seen", "Of the most"), rows, f"{site}, argument {name}") + left


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}%" if whole > 0 else "0"


def _gaps(run: Run, ledger: Ledger) -> tuple[str, str]:
    first, _ = _extent(run)
    rows = "".join(
        f'<tr><th scope="row">{escape(rail.rail.name)}</th>'
        + _cells([seconds((g.start_ns - first) / 1e9), seconds((g.end_ns - g.start_ns) / 1e9), g.reason])
        + "</tr>"
        for rail in ledger.rails
        for g in rail.gaps[:100]
    )
    more = sum(max(0, len(rail.gaps) - 100) for rail in ledger.rails)
    left = f'<p class="soft">{more} more gaps.</p>' if more else ""
    caption = "What happened in a gap was seen by nobody: unknown, not zero."
    return (
        section("Gaps", table(("Rail", "From", "For", "Reason"), rows, caption) + left)
        if rows
        else ("Gaps", "")
    )


def _notes(ledger: Ledger) -> tuple[str, str]:
    notes = dict.fromkeys([*(f"{r.rail.name}: {n}" for r in ledger.rails for n in r.notes), *ledger.notes])
    for rail in ledger.rails:
        lag = f"{rail.rail.name} ({rail.rail.source or 'unknown source'}): read every {_period(rail)}"
        notes[f"{lag}, lag {seconds(rail.lag_ns / 1e9)}"] = None
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return section("Notes", f"<ul>{items}</ul>") if items else ("Notes", "")


def _period(rail: RailLedger) -> str:
    return seconds(rail.rail.period_ns / 1e9)


def _comparison(run: Run, before: Ledger, after: Ledger) -> tuple[str, str]:
    """Rails and sites of two runs with the same names, and what may be said of the difference."""
    rows = [("total of the outermost rails", before.total, after.total)]
    old_rails = {rail.rail.name: rail for rail in before.rails}
    for rail in after.rails:
        if rail.rail.name in old_rails:
            rows.append((f"rail {rail.rail.name}", old_rails[rail.rail.name].energy, rail.energy))
    old_sites, new_sites = _by_place(before), _by_place(after)
    shared = [key for key in new_sites if key in old_sites]
    shared.sort(key=lambda key: -_size(new_sites[key], old_sites[key]))
    rows += [
        (f"{name} on {rail}", old_sites[name, rail], new_sites[name, rail]) for name, rail in shared[:40]
    ]
    heads = ("What", "Before", "After", "Difference", "95 % interval", "Verdict")
    only = len(set(new_sites) ^ set(old_sites))
    left = f'<p class="soft">{only} entries stand in one of the two runs only.</p>' if only else ""
    caption = (
        f"Before: {_command(run)} ({run.folder.name}). Sites by name and function; own energy, net of idle."
    )
    return section("Comparison", table(heads, "".join(_difference_row(*row) for row in rows), caption) + left)


def _by_place(ledger: Ledger) -> dict[tuple[str, str], Energy]:
    """Own energy by (site's name and function, rail's name); sites that share both are added."""
    names = {rail.rail.id: rail.rail.name for rail in ledger.rails}
    found: dict[tuple[str, str], Energy] = {}
    for site in ledger.sites:
        label = site.site.name + (f" in {site.site.function}" if site.site.function else "")
        for entry in site.rails:
            key, one = (label, names[entry.rail]), entry.exclusive
            two = found.get(key, Energy(0.0, 0.0, 0.0))
            found[key] = Energy(one.energy_j + two.energy_j, one.low_j + two.low_j, one.high_j + two.high_j)
    return found


def _size(one: Energy, other: Energy) -> float:
    change = abs(one.energy_j - other.energy_j)
    return -math.inf if math.isnan(change) else change


def _difference_row(name: str, before: Energy, after: Energy) -> str:
    found = comparison.difference(before, after)
    cells = [joules(before.energy_j), joules(after.energy_j), joules(found.joules.value)]
    cells.append(f"{joules(found.joules.low)} to {joules(found.joules.high)}")
    kind = {"less": "less", "more": "more"}.get(found.verdict, "soft")
    row = f'<th scope="row"><code>{escape(name)}</code></th>{_cells(cells)}'
    return f'<tr>{row}<td class="{kind}">{found.verdict}</td></tr>'


# ── what the script draws ────────────────────────────────────────────────────────────────────────────


def _payload(run: Run, ledger: Ledger) -> dict[str, Any]:
    data = ledger.to_json()
    return {
        "rails": data["rails"],
        "sites": data["sites"],
        "timeline": _timeline(run, ledger),
        "tree": _tree(run, ledger),
        "sources": source_lines.files(run, ledger)[0],
    }


def _extent(run: Run) -> tuple[int, int]:
    """The first and last moment of readings and spans; (0, 0) of neither."""
    stamps = [each for each in (run.reading_t_ns, run.spans.start_ns, run.spans.end_ns) if len(each)]
    if not stamps:
        return 0, 0
    return min(int(each.min()) for each in stamps), max(int(each.max()) for each in stamps)


def _timeline(run: Run, ledger: Ledger) -> dict[str, Any]:
    first, last = _extent(run)
    curves = [_curve(timeline, first) for timeline in run.timelines() if len(timeline.t_ns) > 1]
    return {"length_ns": max(1, last - first), "rails": curves, "lanes": _lanes(run, first)}


def _curve(timeline: Timeline, first: int) -> dict[str, Any]:
    curve = thinning.power(timeline)
    known = curve.high_w[~np.isnan(curve.high_w)]
    return {
        "name": timeline.rail.name,
        "origin": timeline.rail.origin,
        "most_w": float(known.max()) if len(known) else 0.0,
        "label": watts(float(known.max())) if len(known) else "unknown",
        "t": (curve.t_ns - first).tolist(),
        "w": _rounded(curve.mean_w),
        "low": _rounded(curve.low_w),
        "high": _rounded(curve.high_w),
        "gaps": [[gap.start_ns - first, gap.end_ns - first, gap.reason] for gap in timeline.gaps[:2000]],
    }


def _rounded(values: Any) -> list[float | None]:
    return [number(float(f"{value:.5g}")) for value in values]


def _lanes(run: Run, first: int) -> list[dict[str, Any]]:
    strip = thinning.strip(run.spans)
    lanes, counts = np.unique(run.spans.lane, return_counts=True)
    busiest = sorted(lanes[np.argsort(-counts, kind="stable")[:MOST_LANES]].tolist())
    return [_lane(strip, lane, run.lane_name(lane), first) for lane in busiest]


def _lane(strip: thinning.Strip, lane: int, name: str, first: int) -> dict[str, Any]:
    mine = strip.lane == lane
    # A device's lane begins as deep as the calls that launched its kernels.
    top = int(strip.depth[mine].min(initial=2**31))
    return {
        "name": name,
        "deepest": int((strip.depth[mine] - top).max(initial=0)),
        "merged": bool((strip.count[mine] > 1).any()),
        "start": (strip.start_ns[mine] - first).tolist(),
        "took": (strip.end_ns[mine] - strip.start_ns[mine]).tolist(),
        "depth": (strip.depth[mine] - top).tolist(),
        "site": strip.site[mine].tolist(),
        "count": strip.count[mine].tolist(),
    }


def _tree(run: Run, ledger: Ledger) -> dict[str, Any]:
    tree = calltree.of(run.spans)
    energies = {rail.rail.id: calltree.energy_j(tree, ledger, rail.rail.id) for rail in ledger.rails}
    pruned = calltree.pruned(tree, [tree.exclusive_s, *map(np.nan_to_num, energies.values())], MOST_NODES)
    return {
        "site": pruned.site.tolist(),
        "parent": pruned.parent.tolist(),
        "energy_j": {
            str(rail): [number(float(v)) for v in pruned.gathered(own)] for rail, own in energies.items()
        },
    }
