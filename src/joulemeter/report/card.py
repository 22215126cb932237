"""Cards of data sets, predictors and energy models: for a terminal, a pull request or a browser."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from html import escape

from joulemeter import svg_plot
from joulemeter.cards import Card, Sheet
from joulemeter.errors import UsageError
from joulemeter.report.html import document, section, table

FORMATS = ("text", "json", "markdown", "html")


def render_card(card: Card, form: str) -> str:
    """The card in one of FORMATS; raises UsageError for another."""
    makers = {"text": _text, "json": _json, "markdown": _markdown, "html": page}
    if form not in makers:
        raise UsageError(f"a {card.kind} cannot be shown as '{form}'", f"one of {', '.join(FORMATS)}")
    return makers[form](card)


def _text(card: Card) -> str:
    head = [f"{card.title}: {card.kind}, {card.origin}", *card.facts]
    return "\n\n".join(["\n".join(head), *map(_columns, card.sheets)]) + "\n"


def _columns(sheet: Sheet) -> str:
    rows = [sheet.heads, *sheet.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(sheet.heads))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([sheet.caption, *lines])


def _json(card: Card) -> str:
    data = asdict(card)
    data["points"] = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in point.items()
        }
        for point in data["points"]
    ]
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(card: Card) -> str:
    blocks = [f"### {card.title}: {card.kind}, {card.origin}", "\n".join(f"- {fact}" for fact in card.facts)]
    for sheet in card.sheets:
        rule = tuple("---" for _ in sheet.heads)
        rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in (sheet.heads, rule, *sheet.rows)]
        blocks += [f"**{sheet.caption}**", "\n".join(rows)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(card: Card) -> str:
    """The card as one self-contained page."""
    facts = "".join(f"<li>{escape(fact)}</li>" for fact in card.facts)
    summary = f"<p><strong>{escape(card.kind)}</strong>, {escape(card.origin)}</p><ul>{facts}</ul>"
    sections = [section("Summary", summary), _plot(card)]
    sections += [section(sheet.caption, _table(sheet)) for sheet in card.sheets]
    names = [name for name, html in sections if html]
    body = "\n".join(html for _, html in sections if html)
    heading = f"<h1>{escape(card.title)}</h1>"
    return document(f"{card.title}: {card.kind}", heading, body, names, {}, "leaderboard.js")


def _table(sheet: Sheet) -> str:
    words = frozenset(i for i in range(len(sheet.heads)) if all(_is_words(row[i]) for row in sheet.rows))
    rows = "".join(_row(row, words) for row in sheet.rows)
    made = table(sheet.heads, rows, f"{sheet.caption}, to sort by column", words)
    return made.replace("<table>", '<table class="sortable">', 1)


def _row(row: tuple[str, ...], words: frozenset[int]) -> str:
    cells = (f"<td{' class=left' * (i in words)}>{escape(text)}</td>" for i, text in enumerate(row) if i)
    return f'<tr><th scope="row">{escape(row[0])}</th>{"".join(cells)}</tr>'


def _is_words(text: str) -> bool:
    return not text.lstrip("±+-−")[:1].isdigit() and text != "unknown"


def _plot(card: Card) -> tuple[str, str]:
    name = "Energy against work"
    if len(card.points) < 2:
        return name, ""
    nan = math.nan
    bubbles = [svg_plot.Bubble("", p.flops, nan, nan, p.energy_j, nan, True) for p in card.points]
    label = f"{len(bubbles)} records: FLOPs of one execution against its joules, both logarithmic"
    drawn = svg_plot.svg(bubbles, "FLOPs", "joules", label, log_y=True, line=False)
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}, plot">{drawn}</div>'
    return section(name, f"{region}<p>{escape(label)}.</p>")
