"""A series of runs as text."""

from __future__ import annotations

import math

from joulemeter.isolation import Interval
from joulemeter.series import Series
from joulemeter.units import joules, seconds


def text(series: Series) -> str:
    """One line a run, the means with their intervals, the outliers and what disturbed them."""
    origins = sorted({rail.origin for run in series.runs for rail in run.rails})
    many = f"{len(series.runs)} run{'s' if len(series.runs) != 1 else ''}"
    lines = [f"{many}, {', '.join(origins) or 'not metered'}, gross energy of the program"]
    for number, (energy, time_s) in enumerate(zip(series.energies, series.time_s.values, strict=True), 1):
        mark = "  outlier" if number - 1 in series.energy_j.outliers else ""
        lines.append(f"  {number:>4}  {joules(energy.energy_j):>9}  {seconds(time_s):>9}{mark}")
    lines += _means(series) if math.isfinite(series.energy_j.mean.value) else ["  mean  not known by one run"]
    lines += [f"note: {note}" for note in series.notes]
    lines.append(f"Series: {series.folder}   (compare it: joulemeter compare {series.folder} OTHER)")
    return "\n".join(lines) + "\n"


def _means(series: Series) -> list[str]:
    energy, time = series.energy, series.time_s.mean
    return [
        f"  mean  {joules(energy.energy_j):>9}  ({joules(energy.low_j)} – {joules(energy.high_j)})",
        f"  time  {seconds(time.value):>9}  ({seconds(max(time.low, 0.0))} – {seconds(time.high)})",
        f"  scatter ± {_percent(series.energy_j.mean)} of the mean (95 %); outliers lie over 3.5 scaled",
        "  median absolute deviations from the median, and are counted in the mean",
    ]


def _percent(interval: Interval) -> str:
    return f"{100 * interval.relative:.1f} %"
