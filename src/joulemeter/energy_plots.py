"""Plots of energy data sets and their models: energy per datum, energy against loss, model error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from joulemeter.energy_model import Fitted
from joulemeter.errors import UsageError
from joulemeter.models.hierarchy.training import Runs
from joulemeter.models.hierarchy.working_sets import network_bytes

MARKS = {"blue": "#0072b2", "orange": "#d55e00", "grey": "#666666"}
"""Told apart by every kind of colour vision (Okabe and Ito, 2008)."""
CROWDED = 5000
"""Runs from which a plot shows how many lie where, not each of them."""
TICKS = ((0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0), (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0))
"""Of predicted over true energy: over a wide span, and over a narrow one."""
KINDS = ("cost", "loss", "error")


def draw(
    runs: Runs, fitted: Fitted, folder: Path, *, endings: tuple[str, ...] = ("png", "svg")
) -> list[Path]:
    """Writes every plot that the runs allow into ``folder``; returns the paths.

    ``cost-DEVICE``: energy per datum against parameters and against the network's working set, the caches'
    edges marked. ``loss-DEVICE``: energy against test loss with its Pareto front, for each data set that has
    losses. ``error-DEVICE``: predicted against true energy, and the error by parameters.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib", "pip install 'joulemeter[plot]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for device in runs.devices:
        mine = runs.of_device(device)
        if device not in fitted.models:
            continue
        for kind, plot in PLOTS.items():
            if kind == "loss" and not np.isfinite(mine.loss).any():
                continue
            figure = Figure(figsize=(10, 4.4), layout="constrained")
            plot(figure, mine, fitted)
            made += _written(figure, folder / f"{kind}-{device.replace('/', '-')}", endings)
    return made


def _written(figure: Any, stem: Path, endings: tuple[str, ...]) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in endings]
    for path in paths:
        figure.savefig(path, dpi=140, metadata={"Date": None} if path.suffix == ".svg" else {})
    return paths


def _cost(figure: Any, runs: Runs, fitted: Fitted) -> None:
    model = fitted.models[runs.devices[0]]
    left, right = figure.subplots(1, 2, sharey=True)
    datum = runs.energy_j / np.array([t.datums for t in runs.trainings])[runs.which]
    depth = np.array([t.depth for t in runs.trainings])[runs.which]
    parameters = np.array([t.parameters for t in runs.trainings], dtype=float)[runs.which]
    held = np.array([network_bytes(t) for t in runs.trainings])[runs.which]
    _cloud(figure, left, parameters, datum, depth)
    _cloud(figure, right, held, datum, depth, bar=True)
    edges = [(level.name, level.size_bytes) for level in model.levels if np.isfinite(level.size_bytes)]
    for k, (name, size) in enumerate(edges):
        right.axvline(size, color=MARKS["grey"], linestyle="--", linewidth=1)
        right.annotate(
            f"{name} ends",
            (
                size,
                1.01 + 0.045 * (k % 2),
            ),  # above the runs, and two caches of nearly one size above each other
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=8,
        )
    left.set(xlabel="trainable parameters", ylabel="energy of one trained row / J")
    right.set(xlabel="working set of the network / B")
    _readable(left.yaxis, datum)
    figure.suptitle(f"{runs.devices[0]}: {len(runs)} runs ({runs.origin}), gross energy", fontsize=11)


def _cloud(figure: Any, axes: Any, x: Any, y: Any, depth: Any, *, bar: bool = False) -> None:
    axes.set(xscale="log", yscale="log")
    axes.grid(True, which="major", alpha=0.25)
    if len(x) > CROWDED:
        shown = axes.hexbin(
            x, y, xscale="log", yscale="log", gridsize=60, mincnt=1, bins="log", cmap="viridis"
        )
        label = "runs"
    else:
        shown = axes.scatter(x, y, c=depth, cmap="viridis", s=14, linewidths=0)
        label = "depth"
    if bar:
        figure.colorbar(shown, ax=axes, label=label)


def _readable(axis: Any, values: Any) -> None:
    """Few ticks in plain numbers where a logarithmic axis spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if values.max() < 100 * values.min():
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _loss(figure: Any, runs: Runs, fitted: Fitted) -> None:
    axes = figure.subplots(1, 1)
    known = runs.take(np.isfinite(runs.loss) & (runs.loss > 0))
    names = sorted(set(known.groups.tolist()))
    colours = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
    for k, name in enumerate(names[: len(colours)]):
        rows = known.groups == name
        energy, loss = known.energy_j[rows], known.loss[rows]
        axes.scatter(energy, loss, s=12, alpha=0.6, color=colours[k], linewidths=0, label=name)
        front = pareto(energy, loss)
        axes.step(energy[front], loss[front], where="post", color=colours[k], linewidth=1.5)
    axes.set(xscale="log", yscale="log", xlabel="energy of the training / J", ylabel="lowest test loss")
    axes.grid(True, which="major", alpha=0.25)
    _readable(axes.xaxis, known.energy_j)
    _readable(axes.yaxis, known.loss)
    figure.legend(fontsize=8, title="lines: Pareto fronts", loc="outside right upper")
    shown = "" if len(names) <= len(colours) else f"; {len(names) - len(colours)} data sets not shown"
    figure.suptitle(f"{runs.devices[0]}: energy against loss ({runs.origin}{shown})", fontsize=11)


def pareto(energy: Any, loss: Any) -> Any:
    """Rows that no other beats in both energy and loss, by rising energy."""
    order = np.lexsort((loss, energy))
    best = np.minimum.accumulate(loss[order])
    first = np.concatenate([[True], best[1:] < best[:-1]])
    return order[first]


def _error(figure: Any, runs: Runs, fitted: Fitted) -> None:
    model = fitted.models[runs.devices[0]]
    predicted, low, high = (values[runs.which] for values in model.predict(runs.trainings))
    ratio = predicted / runs.energy_j
    depth = np.array([t.depth for t in runs.trainings])[runs.which]
    parameters = np.array([t.parameters for t in runs.trainings], dtype=float)[runs.which]
    left, right = figure.subplots(1, 2)
    _cloud(figure, left, runs.energy_j, predicted, depth)
    ends = np.array([runs.energy_j.min(), runs.energy_j.max()])
    left.plot(ends, ends, color=MARKS["grey"], linewidth=1)
    left.set(xlabel="energy of the run / J", ylabel="predicted / J")
    _readable(left.xaxis, runs.energy_j)
    _readable(left.yaxis, predicted)
    _cloud(figure, right, parameters, ratio, depth, bar=True)
    right.axhline(1, color=MARKS["grey"], linewidth=1)
    for offset in (model.low, model.high):
        right.axhline(np.exp(-offset), color=MARKS["grey"], linestyle=":", linewidth=1)
    ticks = [
        tick
        for tick in TICKS[int(ratio.max() < 4 * ratio.min())]
        if ratio.min() * 0.95 < tick < ratio.max() * 1.05
    ]
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.minorticks_off()
    right.set(xlabel="trainable parameters", ylabel="predicted / true (dotted: 90 % interval)")
    error, inside = np.abs(ratio - 1), (low <= runs.energy_j) & (runs.energy_j <= high)
    figure.suptitle(
        f"{runs.devices[0]}, {len(runs)} runs: mean error {error.mean():.1%}, median {np.median(error):.1%}, "
        f"{inside.mean():.0%} within the 90 % interval (flattering where the model was fitted to these)",
        fontsize=10,
    )


PLOTS: dict[str, Callable[[Any, Runs, Fitted], None]] = {"cost": _cost, "loss": _loss, "error": _error}
