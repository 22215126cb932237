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
        raise UsageError(f"{path}: plots are .png or .svg")
    if path.exists() and not force:
        raise UsageError(f"will not overwrite {path}", "--force")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: is no folder", f"mkdir -p {path.parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots need matplotlib", "pip install 'joulemeter[plot]'") from None


def draw(found: Scaling, path: Path) -> None:
    """Writes the plot to ``path``, as PNG or SVG by its ending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = found.x
    energy = [point.found.energy for point in found.points]
    joules = [Interval(each.energy_j, each.low_j, each.high_j) for each in energy]
    unit = "bytes of the arguments / B" if found.axis == "bytes" else "size"
    time = [point.found.time for point in found.points]
    per = "B" if found.axis == "bytes" else "unit"
    _panel(left, x, joules, found.energy, ("energy of one call / J", f"J/{per}", BLUE, "o"))
    _panel(right, x, time, found.time, ("time of one call / s", f"s/{per}", ORANGE, "s"))
    for axes in (left, right):
        axes.set_xlabel(unit)
    figure.suptitle(f"{found.function} ({found.origin}), 95 % intervals", fontsize=11)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def _panel(
    axes: Any, x: np.ndarray[Any, Any], y: list[Interval], line: Line, look: tuple[str, str, str, str]
) -> None:
    from joulemeter.units import si

    label, unit, colour, marker = look
    value = np.array([each.value for each in y])
    spread = np.array([[each.value - each.low for each in y], [each.high - each.value for each in y]])
    axes.errorbar(x, value, np.maximum(spread, 0), fmt=marker, color=colour, capsize=3, label="sizes")
    ends = np.linspace(x.min(), x.max(), 200)
    fit = f"fit: {si(line.slope.value, unit)}, R² {line.r2:.3f}"
    axes.plot(ends, line.intercept.value + line.slope.value * ends, color="0.35", linestyle="--", label=fit)
    if x.max() > 30 * x.min() and min(each.low for each in y) > 0:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_ylabel(label)
    axes.grid(True, color="0.9")
    axes.legend(frameon=False, fontsize=9)
