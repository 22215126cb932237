"""The leaderboard: one self-contained page of scores, with bubble plots and Pareto fronts.

Everything stands in plain HTML and SVG; the script only sorts and filters the tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from joulemeter import scoring
from joulemeter.report.html import document, section, table
from joulemeter.units import joules

WIDTH, HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 20, 46


@dataclass(frozen=True, slots=True)
class Bubble:
    """One thing in a plot; ``low`` to ``high`` bounds its ``x``; ``size`` is what its area stands for."""

    name: str
    x: float
    low: float
    high: float
    y: float
    size: float
    front: bool


def page(data: dict[str, Any]) -> str:
    """The page of what `joulemeter score --json` prints."""
    sections = [
        _summary(data),
        _device_plot(data),
        _devices(data),
        _network_plot(data),
        _networks(data),
        _doubts(data),
    ]
    names = [name for name, html in sections if html]
    body = "\n".join(html for _, html in sections if html)
    heading = "<h1>Energy leaderboard</h1>"
    return document("Energy leaderboard", heading, body, names, {}, "leaderboard.js")


def _summary(data: dict[str, Any]) -> tuple[str, str]:
    best = [each["device"] for each in data["devices"] if each["iecs"]["rank"][0] == 1]
    who = f"{' and '.join(best)}: most inferences per joule" if best else "No device could be scored"
    if len(best) > 1:
        who += ", and not to be told apart"
    said = f'<p class="figure" style="font-size:1.3rem">{escape(who)}.</p>'
    said += (
        f"<p>IECS counts inferences per joule, {escape(data['reference'])} being 100; twice the score is "
        "half the joules. PCS is 100 · mean of (1 − power / TDP). "
        f"The cells are {escape(data['origin'])}; every figure has its 95 % interval.</p>"
    )
    pairs = [f"{one} and {other}" for one, other in data["cannot_be_told_apart"]["iecs"]]
    notes = [*data["notes"], *([f"cannot be told apart by IECS: {'; '.join(pairs)}"] if pairs else [])]
    notes += _agreement(data)
    return section("Summary", said + "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")


def _agreement(data: dict[str, Any]) -> list[str]:
    found = data["published"]
    if not found or found["iecs_pearson"] is None:
        return []
    mended = found["iecs_pearson_misprints_mended"]
    with_mended = "" if mended is None else f", {mended:.3f} with suspected misprints mended"
    return [f"correlation with the published IECS: {found['iecs_pearson']:.3f}{with_mended}"]


# ── plots ────────────────────────────────────────────────────────────────────────────────────────────


def _device_plot(data: dict[str, Any]) -> tuple[str, str]:
    """IECS against accuracy, or PCS where no accuracy is given; area by price, where that is given."""
    devices = data["devices"]
    key = "accuracy" if any(each["accuracy"] is not None for each in devices) else "PCS"
    ys = np.array([_nan(each["accuracy"] if key == "accuracy" else each["pcs"]["value"]) for each in devices])
    xs = np.array([_nan(each["iecs"]["value"]) for each in devices])
    price = np.array([_nan(each["price"]) for each in devices])
    goods = (xs, ys) if np.isnan(price).all() else (xs, ys, -price)
    front = scoring.pareto(*goods)
    bubbles = [
        Bubble(
            each["device"],
            xs[i],
            _nan(each["iecs"]["low"]),
            _nan(each["iecs"]["high"]),
            ys[i],
            price[i],
            bool(front[i]),
        )
        for i, each in enumerate(devices)
    ]
    name = "Devices compared"
    return _plot(name, bubbles, "IECS (inferences per joule; more is better)", key, more_is_better=True)


def _network_plot(data: dict[str, Any]) -> tuple[str, str]:
    """Energy per inference against accuracy; only where the table gives accuracies."""
    networks = data["networks"]
    ys = np.array([_nan(each["accuracy"]) for each in networks])
    energies = [each["energy_per_inference"] for each in networks]
    xs = np.array([_nan(each["energy_j"]) for each in energies])
    front = scoring.pareto(-xs, ys) if len(xs) else np.zeros(0, bool)
    bubbles = [
        Bubble(
            each["network"],
            xs[i],
            _nan(energies[i]["low_j"]),
            _nan(energies[i]["high_j"]),
            ys[i],
            math.nan,
            bool(front[i]),
        )
        for i, each in enumerate(networks)
    ]
    return _plot(
        "Networks compared",
        bubbles,
        "joules per inference (less is better)",
        "accuracy",
        more_is_better=False,
    )


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _plot(
    name: str, bubbles: list[Bubble], x_name: str, y_name: str, more_is_better: bool
) -> tuple[str, str]:
    shown = [each for each in bubbles if not math.isnan(each.x) and not math.isnan(each.y)]
    if len(shown) < 2:
        return name, ""
    x, x_ticks = _scale([v for b in shown for v in (b.low, b.x, b.high)], _LEFT, WIDTH - _RIGHT, log=True)
    y, y_ticks = _scale([each.y for each in shown], HEIGHT - _BOTTOM, _TOP, log=False)
    parts = [_axes(x, x_ticks, y, y_ticks, x_name, y_name), _front(shown, x, y)]
    largest = max((each.size for each in shown if not math.isnan(each.size)), default=math.nan)
    parts += [_bubble(each, x, y, largest) for each in shown]
    best = ", ".join(each.name for each in shown if each.front)
    label = f"{name}: {x_name} against {y_name}. On the Pareto front: {best}."
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="100%"'
    svg = f'<svg {box} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    left_out = len(bubbles) - len(shown)
    said = f"<p>On the Pareto front, where no other is better in all: <strong>{escape(best)}</strong>.</p>"
    size = "" if math.isnan(largest) else " The area of a bubble is the price."
    hint = f'<p class="soft">Bars are 95 % intervals; the line is the front.{size}'
    hint += f" {left_out} not drawn: a figure is not known.</p>" if left_out else "</p>"
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}, plot">'
    return section(name, f"{region}{svg}</div>{said}{hint}")


def _scale(values: list[float], start: float, end: float, log: bool) -> tuple[Any, list[float]]:
    """A function from values to pixels with some room at both ends, and ticks at round values."""
    known = [value for value in values if not math.isnan(value) and (value > 0 or not log)]
    ends = (math.log(min(known)), math.log(max(known))) if log else (min(known), max(known))
    room = 0.08 * (ends[1] - ends[0]) or (0.1 if log else max(1.0, abs(ends[0]) * 0.1))
    low, high = ends[0] - room, ends[1] + room

    def at(value: float) -> float:
        return start + ((math.log(value) if log else value) - low) / (high - low) * (end - start)

    return at, _ticks(math.exp(low) if log else low, math.exp(high) if log else high, log)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log and high / low > 8:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [k * 10.0**d for d in decades for k in (1, 2, 5) if low <= k * 10.0**d <= high]
    rough = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(x: Any, x_ticks: list[float], y: Any, y_ticks: list[float], x_name: str, y_name: str) -> str:
    floor, line = HEIGHT - _BOTTOM, 'stroke="var(--line)"'
    parts = [
        f'<line x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{floor}" {line}/>'
        f'<text x="{x(t):.1f}" y="{floor + 16}" text-anchor="middle">{t:g}</text>'
        for t in x_ticks
    ]
    parts += [
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}" {line}/>'
        f'<text x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in y_ticks
    ]
    middle = (_TOP + floor) / 2
    parts.append(
        f'<text x="{(_LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
    )
    turn = f'transform="rotate(-90 16 {middle})"'
    parts.append(f'<text x="16" y="{middle}" text-anchor="middle" {turn}>{escape(y_name)}</text>')
    return "".join(parts)


def _front(shown: list[Bubble], x: Any, y: Any) -> str:
    points = sorted((x(each.x), y(each.y)) for each in shown if each.front)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    style = 'fill="none" stroke="var(--accent)" stroke-width="2" stroke-dasharray="6 4"'
    return f'<polyline points="{path}" {style}/>'


def _bubble(each: Bubble, x: Any, y: Any, largest: float) -> str:
    # Area, not radius, stands for the size: that is what an eye compares.
    radius = (
        7.0 if math.isnan(each.size) or not largest > 0 else 4 + 14 * math.sqrt(max(0.0, each.size) / largest)
    )
    fill = "var(--accent)" if each.front else "var(--idle)"
    bar = ""
    if not math.isnan(each.low) and not math.isnan(each.high):
        bar = (
            f'<line x1="{x(each.low):.1f}" x2="{x(each.high):.1f}" y1="{y(each.y):.1f}" y2="{y(each.y):.1f}" '
            f'stroke="{fill}" stroke-width="2"/>'
        )
    near_end = x(each.x) > WIDTH * 0.75
    side = (
        f'x="{x(each.x) - radius - 4:.1f}" text-anchor="end"'
        if near_end
        else f'x="{x(each.x) + radius + 4:.1f}"'
    )
    return (
        f'{bar}<circle cx="{x(each.x):.1f}" cy="{y(each.y):.1f}" r="{radius:.1f}" '
        f'fill="{fill}" fill-opacity="0.75"/>'
        f'<text {side} y="{y(each.y) - radius - 2:.1f}">{escape(each.name)}</text>'
    )


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────


def _devices(data: dict[str, Any]) -> tuple[str, str]:
    extra = [key for key in ("accuracy", "price") if any(each[key] is not None for each in data["devices"])]
    heads = (
        "Device",
        "IECS",
        "Rank",
        "PCS",
        "Rank by PCS",
        "PCS if TDP ∓ 10 %",
        "Coverage",
        *map(str.title, extra),
        "Doubts",
    )
    ordered = sorted(data["devices"], key=lambda each: -(each["iecs"]["value"] or -math.inf))
    rows = "".join(_device_row(each, extra) for each in ordered)
    field = '<input type="search" class="filter" data-table="devices-table">'
    tools = f'<div class="tools"><label>Filter {field}</label></div>'
    return section(
        "Devices",
        tools + _sortable("devices-table", table(heads, rows, "Below each score: its 95 % interval.")),
    )


def _device_row(each: dict[str, Any], extra: list[str]) -> str:
    pcs = each["pcs"]
    if "exact" in pcs:
        ends = f"{pcs['tdp_minus_10_percent']:.0f} to {pcs['tdp_plus_10_percent']:.0f}"
    else:
        ends = "unknown"
    missing = sum(count["missing"] for count in each["coverage_by_processor"].values())
    covered = f"{each['coverage']:.0%}" + (f"<small>{missing} missing</small>" if missing else "")
    cells = [
        _scored(each["iecs"], 0),
        _rank(each["iecs"]["rank"]),
        _scored(pcs, 0),
        _rank(pcs["rank"]),
        ends,
        covered,
    ]
    cells += ["" if each[key] is None else f"{each[key]:g}" for key in extra]
    cells.append(str(len(each["flags"])))
    inside = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(each["device"])}</th>{inside}</tr>'


def _scored(score: dict[str, Any], digits: int) -> str:
    if score["value"] is None:
        return "unknown"
    low, high = (("unknown" if score[key] is None else f"{score[key]:.{digits}f}") for key in ("low", "high"))
    return f"{score['value']:.{digits}f}<small>{low} to {high}</small>"


def _rank(ends: list[int]) -> str:
    best, worst = ends
    return "" if best == 0 else str(best) if best == worst else f"{best} to {worst}"


def _networks(data: dict[str, Any]) -> tuple[str, str]:
    extra = any(each["accuracy"] is not None for each in data["networks"])
    heads = (
        "Network",
        "Task",
        "Energy per inference",
        "Times the task's mean",
        "Label",
        *(["Accuracy"] if extra else []),
    )
    rows = "".join(_network_row(each, extra) for each in data["networks"])
    caption = "Labels A to G compare with the networks of the same task; see the documented limits."
    return section("Networks", _sortable("networks-table", table(heads, rows, caption)))


def _network_row(each: dict[str, Any], extra: bool) -> str:
    energy = each["energy_per_inference"]
    known = energy["energy_j"] is not None
    ends = (
        f"<small>{joules(_nan(energy['low_j']))} to {joules(_nan(energy['high_j']))}</small>" if known else ""
    )
    times = "" if each["times_task_mean"] is None else f"{each['times_task_mean']:.2f}"
    sure = each["label_best"] == each["label_worst"]
    span = "" if sure else f"<small>{each['label_best']} to {each['label_worst']}</small>"
    cells = [
        escape(each["task"]),
        joules(_nan(energy["energy_j"])) + ends,
        times,
        f"<b>{each['label']}</b>{span}",
    ]
    cells += (["" if each["accuracy"] is None else f"{each['accuracy']:g}"]) if extra else []
    inside = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(each["network"])}</th>{inside}</tr>'


def _doubts(data: dict[str, Any]) -> tuple[str, str]:
    rows = "".join(
        f'<tr><th scope="row">{escape(device["device"])}</th><td>{escape(flag["kind"])}</td>'
        f"<td>{escape(flag['network'])} {escape(flag['processor'])}</td>"
        f"<td>{escape(flag['detail'])}</td></tr>"
        for device in data["devices"]
        for flag in device["flags"]
    )
    if not rows:
        return "Doubts", ""
    caption = "Told, not mended: every cell counts as given."
    listed = table(("Device", "Doubt", "Cell", "Why"), rows, caption)
    return section("Doubts", listed.replace("<table>", '<table class="words">', 1))


def _sortable(name: str, html: str) -> str:
    return html.replace("<table>", f'<table id="{name}" class="sortable">', 1)
