"""The plot of a data-size experiment: energy and time against bytes, with intervals and fitted lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from joulemeter.errors import UsageError
from joulemeter.isolation import Interval
from joulemeter.scale import Line, Scaling

BLUE, ORANGE = "#0072b2", "#d55e00"
"""Told apart by every kind of colour vision (Okabe and Ito, 2008); markers and line styles differ too."""


def check(path: Path, force: bool) -> None:
    """Raises UsageError, before anything is measured, where ``path`` could not be written."""
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"{path}: plots are .png or .svg", f"--plot {path.stem or 'plot'}.png")
    if path.exists() and not force:
        raise UsageError(f"will not overwrite {path}", "--force")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: is no folder", f"mkdir -p {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots need matplotlib", "pip install 'joulemeter[plot]'") from None


def draw(found: Scaling, path: Path) -> None:
    """Writes the plot to ``path``, as PNG or SVG by its ending. A size whose energy cannot be told from
    nothing is an arrow from the highest that it can be; where none can be told, no line is drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    energy = [point.found.energy for point in found.points]
    joules = [Interval(each.energy_j, each.low_j, each.high_j) for each in energy]
    seen = np.array([point.found.resolved for point in found.points])
    time = [point.found.time for point in found.points]
    per = "B" if found.axis == "bytes" else "unit"
    fit = found.energy if seen.any() else None
    _panel(left, found.x, joules, seen, fit, ("J", f"J/{per}", BLUE, "o"))
    _panel(right, found.x, time, np.full(len(time), True), found.time, ("s", f"s/{per}", ORANGE, "s"))
    left.set_ylabel("energy of one call, above rest")
    right.set_ylabel("time of one call")
    for axes in (left, right):
        axes.set_xlabel("bytes of the arguments" if found.axis == "bytes" else "size")
        _scale(axes.xaxis, found.x.min(), found.x.max(), "B" if found.axis == "bytes" else "")
    figure.suptitle(f"{found.function} ({found.origin}), 95 % intervals", fontsize=11)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def _panel(
    axes: Any,
    x: np.ndarray[Any, Any],
    y: list[Interval],
    seen: np.ndarray[Any, Any],
    line: Line | None,
    look: tuple[str, str, str, str],
) -> None:
    from joulemeter.units import si

    unit, slope_unit, colour, marker = look
    value, low, high = (np.array([getattr(each, end) for each in y]) for end in ("value", "low", "high"))
    if seen.any():
        spread = np.maximum([(value - low)[seen], (high - value)[seen]], 0)
        axes.errorbar(x[seen], value[seen], spread, fmt=marker, color=colour, capsize=3, label="sizes")
    if not seen.all():
        most, below = high[~seen], (high - low)[~seen]
        label = "not seen, at most"
        axes.errorbar(x[~seen], most, 0.1 * below, fmt="_", color=colour, uplims=True, label=label)
    if line is not None:
        ends = np.geomspace(x.min(), x.max(), 200)
        fit = f"fit: {si(line.slope.value, slope_unit)}, R² {line.r2:.3f}"
        axes.plot(ends, line.intercept.value + line.slope.value * ends, "--", color="0.35", label=fit)
    least = low[seen].min(initial=np.inf) if seen.all() else 0.0
    _scale(axes.yaxis, least, np.nanmax(high), unit)
    if least <= 0:
        axes.set_ylim(0, 1.08 * np.nanmax(high))
    axes.grid(True, color="0.9")
    axes.legend(
        frameon=False,
        fontsize=9,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        borderpad=0,
        columnspacing=1,
    )


def _scale(axis: Any, low: float, high: float, unit: str) -> None:
    """A logarithmic axis where the values span more than a factor of 30, else a linear one; few labels, with
    prefixes (400 kB), so that they stand apart."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    if low > 0 and high > 30 * low:
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 3.0), numticks=8))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(EngFormatter(unit=unit))
