"""The leaderboard: one self-contained page of scores, with bubble plots and Pareto fronts.

Everything stands in plain HTML and SVG; the script only sorts and filters the tables.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np

from joulemeter import scoring, svg_plot
from joulemeter.report.html import document, section, table
from joulemeter.svg_plot import Bubble
from joulemeter.units import joules


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
    best = ", ".join(each.name for each in shown if each.front)
    drawn = svg_plot.svg(
        shown, x_name, y_name, f"{name}: {x_name} against {y_name}. On the Pareto front: {best}."
    )
    left_out = len(bubbles) - len(shown)
    said = f"<p>On the Pareto front, where no other is better in all: <strong>{escape(best)}</strong>.</p>"
    size = "" if all(math.isnan(each.size) for each in shown) else " The area of a bubble is the price."
    hint = f'<p class="soft">Bars are 95 % intervals; the line is the front.{size}'
    hint += f" {left_out} not drawn: a figure is not known.</p>" if left_out else "</p>"
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}, plot">'
    return section(name, f"{region}{drawn}</div>{said}{hint}")


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
    known = score["low"] is not None
    ends = (
        f"{score['low']:.{digits}f} to {score['high']:.{digits}f}" if known else "no interval: see its doubts"
    )
    return f"{score['value']:.{digits}f}<small>{ends}</small>"


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
    return section("Networks", _sortable("networks-table", table(heads, rows, caption, frozenset({1}))))


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
        joules(_nan(energy["energy_j"])) + ends,
        times,
        f"<b>{each['label']}</b>{span}",
    ]
    cells += (["" if each["accuracy"] is None else f"{each['accuracy']:g}"]) if extra else []
    task = f'<td class="left">{escape(each["task"])}</td>'
    inside = task + "".join(f"<td>{cell}</td>" for cell in cells)
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
