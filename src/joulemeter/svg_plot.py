"""Bubble plots as SVG in the page's own colours, to look at beside a table that says the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

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


Scale = Callable[[float], float]
"""From values to pixels."""


def svg(
    bubbles: list[Bubble], x_name: str, y_name: str, label: str, *, log_y: bool = False, line: bool = True
) -> str:
    """The plot; ``x`` is logarithmic. ``label`` says it in words; ``line`` joins the bubbles on the front."""
    spread = [value for each in bubbles for value in (each.low, each.x, each.high)]
    x, x_ticks = _scale(spread, _LEFT, WIDTH - _RIGHT, log=True)
    y, y_ticks = _scale([each.y for each in bubbles], HEIGHT - _BOTTOM, _TOP, log=log_y)
    largest = max((each.size for each in bubbles if not math.isnan(each.size)), default=math.nan)
    parts = [_axes(x, x_ticks, y, y_ticks, x_name, y_name)]
    parts += [_front(bubbles, x, y)] if line else []
    parts += [_bubble(each, x, y, largest) for each in bubbles]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="100%"'
    return f'<svg {box} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _scale(values: list[float], start: float, end: float, log: bool) -> tuple[Scale, list[float]]:
    """A function from values to pixels with some room at both ends, and ticks at round values."""
    known = [value for value in values if not math.isnan(value) and (value > 0 or not log)]
    ends = (math.log(min(known)), math.log(max(known))) if log else (min(known), max(known))
    room = 0.08 * (ends[1] - ends[0]) or (0.1 if log else max(1.0, abs(ends[0]) * 0.1))
    low, high = ends[0] - room, ends[1] + room

    def at(value: float) -> float:
        """Where ``value`` lies on the axis, in the plot's units."""
        return start + ((math.log(value) if log else value) - low) / (high - low) * (end - start)

    return at, _ticks(math.exp(low) if log else low, math.exp(high) if log else high, log)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log and high / low > 8:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        # Few decades: three ticks in each; many: whole ones, as many as can be read side by side.
        steps, each = ((1, 2, 5), 1) if len(decades) < 5 else ((1,), 1 + len(decades) // 9)
        return [k * 10.0**d for d in decades[::each] for k in steps if low <= k * 10.0**d <= high]
    rough = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(x: Scale, x_ticks: list[float], y: Scale, y_ticks: list[float], x_name: str, y_name: str) -> str:
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


def _front(shown: list[Bubble], x: Scale, y: Scale) -> str:
    points = sorted((x(each.x), y(each.y)) for each in shown if each.front)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    style = 'fill="none" stroke="var(--accent)" stroke-width="2" stroke-dasharray="6 4"'
    return f'<polyline points="{path}" {style}/>'


def _bubble(each: Bubble, x: Scale, y: Scale, largest: float) -> str:
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
