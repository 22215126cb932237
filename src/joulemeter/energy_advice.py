"""Advice: where a network's working sets sit, what it costs, and which other network costs less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulemeter import butter, topology
from joulemeter.energy_model import breakdown
from joulemeter.errors import UsageError
from joulemeter.models.hierarchy.effects import PHYSICAL
from joulemeter.models.hierarchy.energy import EnergyModel
from joulemeter.models.hierarchy.training import Runs, Training
from joulemeter.models.hierarchy.working_sets import home, working_sets

TOLERANCE = 0.2
"""How far parameters may lie from those asked for, as in the study."""
DENSE = ("fc", "fc-relu", "fc-gelu")
"""Kernel families of dense layers, alone or with their activation."""
LOSS_TOLERANCE = 0.02
"""Losses within this fraction count as the same: repetitions differ by about as much."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Joules of a training and of one trained row, each as (low, value, high) of a 90 % interval."""

    energy_j: tuple[float, float, float]
    datum_j: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another network, its cost, and ``saving``: the share of energy it saves, with a 90 % interval.

    ``loss`` is its lowest test loss, NaN where not known. ``measured``: the energies are of runs.
    """

    training: Training
    cost: Cost
    saving: tuple[float, float, float]
    loss: float = math.nan
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A working set, its bytes, and the nearest memory level that holds it."""

    name: str
    held_bytes: float
    level: str


@dataclass(frozen=True)
class Advice:
    """All that is said of one network on one device."""

    device: str
    origin: str
    training: Training
    cost: Cost
    places: tuple[Place, ...]
    breakdown: dict[str, float]
    same_size: tuple[Alternative, ...]
    same_loss: tuple[Alternative, ...]
    notes: tuple[str, ...] = ()


def training_of(
    dataset: str,
    *,
    size: int,
    depth: int,
    shape: str = "rectangle",
    epochs: int = butter.EPOCHS,
    batch_size: int = butter.BATCH_SIZE,
    facts: butter.Facts | None = None,
) -> Training:
    """The network of ``shape``, ``depth`` and ``size`` on a data set of the study, or on other ``facts``.

    Raises UsageError where the data set is not known or no such network comes within 20 % of the size.
    """
    known = facts or butter.DATASETS.get(dataset)
    if known is None:
        raise UsageError(
            f"the data set '{dataset}' is not known",
            f"--rows, --inputs and --outputs, or one of {', '.join(butter.DATASETS)}",
        )
    found = topology.solve(
        shape, depth=depth, size=size, inputs=known.inputs, outputs=known.outputs, tolerance=TOLERANCE
    )
    return Training(
        dataset,
        shape,
        size,
        depth,
        known.inputs,
        known.outputs,
        tuple(found.widths),
        known.rows,
        batch_size,
        epochs,
    )


def advise(
    model: EnergyModel, training: Training, *, origin: str, runs: Runs | None = None, most: int = 5
) -> Advice:
    """What ``training`` costs on the model's device, and what would cost less.

    Networks of the same size are compared by the model; those of the same loss by the ``runs`` of the same
    data set on the same device that have losses, where there are any.
    """
    notes = [*_far(model, training), *_notes(training, runs)]
    return Advice(
        device=model.device,
        origin=origin,
        training=training,
        cost=cost(model, training),
        places=tuple(places(model, training)),
        breakdown=breakdown(model, training),
        same_size=tuple(same_size(model, training)[:most]),
        same_loss=tuple(same_loss(model, training, runs)[:most]) if runs is not None else (),
        notes=tuple(notes),
    )


def _far(model: EnergyModel, training: Training) -> Iterable[str]:
    spread = float(model.spread([training])[0])
    if spread > model.scatter:
        yield (
            f"this lies outside of the fitted runs: fits without one data set differ by {spread:.0%} here, "
            "and the interval is wider for it"
        )


def _notes(training: Training, runs: Runs | None) -> Iterable[str]:
    if runs is not None and not (np.isfinite(runs.loss) & (runs.groups == training.dataset)).any():
        yield f"the runs have no losses for {training.dataset}: nothing is said about the same loss"


def cost(model: EnergyModel, training: Training) -> Cost:
    """The predicted cost of one training."""
    value, low, high = (float(v[0]) for v in model.predict([training]))
    per = training.datums
    return Cost((low, value, high), (low / per, value / per, high / per))


def places(model: EnergyModel, training: Training) -> list[Place]:
    """The working sets of a step, greatest first, with the level that each fits in."""
    sets = sorted(working_sets(training), key=lambda each: -each.held_bytes)
    return [Place(each.name, each.held_bytes, home(each.held_bytes, model.levels).name) for each in sets]


def same_size(model: EnergyModel, training: Training) -> list[Alternative]:
    """Networks with the same number of parameters within 20 % that cost less, cheapest first.

    Savings are of the physics and the shape's own effect: what the study's calendar did to single
    depths is no reason to choose one. The interval is that of the ratio of two single runs.
    """
    others = [each for each in _variants(training) if each.widths != training.widths]
    if not others:
        return []
    values, _, _ = model.predict([training, *others], only=PHYSICAL)
    ratios = values[1:] / values[0]
    reference = cost(model, training)
    return [
        _cheaper(model, others[int(k)], reference, float(ratios[k]))
        for k in np.argsort(ratios)
        if ratios[k] < 1
    ]


def _cheaper(model: EnergyModel, training: Training, reference: Cost, ratio: float) -> Alternative:
    low, value, high = (each * ratio for each in reference.energy_j)
    per = training.datums
    return Alternative(
        training, Cost((low, value, high), (low / per, value / per, high / per)), _saving(model, ratio)
    )


def _variants(training: Training) -> list[Training]:
    found: dict[tuple[int, ...], Training] = {}
    for shape in butter.SHAPES:
        for depth in butter.DEPTHS:
            try:
                solved = topology.solve(
                    shape,
                    depth=depth,
                    size=training.parameters,
                    inputs=training.inputs,
                    outputs=training.outputs,
                    tolerance=TOLERANCE,
                )
            except UsageError:
                continue
            other = replace(training, shape=shape, depth=depth, widths=tuple(solved.widths))
            found.setdefault((other.additions, *other.widths), other)
    return list(found.values())


def _saving(model: EnergyModel, ratio: float) -> tuple[float, float, float]:
    spread = (model.high - model.low) / 2 * math.sqrt(2)
    return 1 - ratio * math.exp(spread), 1 - ratio, 1 - ratio * math.exp(-spread)


def same_loss(model: EnergyModel, training: Training, runs: Runs) -> list[Alternative]:
    """Runs of the same data set and device that reached the loss of the nearest run for less energy."""
    rows = np.flatnonzero(
        (runs.groups == training.dataset) & np.isfinite(runs.loss) & (runs.device == model.device)
    )
    if not len(rows):
        return []
    candidates = [runs.trainings[int(runs.which[k])] for k in rows]
    nearest = int(np.argmin([_distance(training, each) for each in candidates]))
    energy, loss = runs.energy_j[rows], runs.loss[rows]
    good = (loss <= loss[nearest] * (1 + LOSS_TOLERANCE)) & (energy < energy[nearest])
    order = [int(k) for k in np.argsort(energy) if good[k]]
    return [
        _measured(model, candidates[k], float(energy[k]), float(loss[k]), float(energy[nearest]))
        for k in order
    ]


def _distance(one: Training, other: Training) -> float:
    return (
        abs(math.log2(one.parameters / other.parameters))
        + abs(math.log2(one.depth / other.depth))
        + 0.5 * (one.shape != other.shape)
    )


def _measured(
    model: EnergyModel, training: Training, energy_j: float, loss: float, reference_j: float
) -> Alternative:
    per = training.datums
    exact = Cost((energy_j,) * 3, (energy_j / per,) * 3)
    return Alternative(training, exact, _saving(model, energy_j / reference_j), loss, True)


def of_layers(
    name: str, layers: Sequence[tuple[int, int]], *, rows: int, epochs: int, batch_size: int
) -> Training:
    """A training of a network given by its dense layers, each (inputs, outputs), in order."""
    if not layers:
        raise UsageError(f"{name}: has no dense layer", "a network of fully connected layers")
    widths = tuple(b for _, b in layers)
    shape = "rectangle" if len(set(widths[:-1])) <= 1 else "custom"
    size = topology.parameters(layers[0][0], widths)
    return Training(
        name, shape, size, len(widths), layers[0][0], widths[-1], widths, rows, batch_size, epochs
    )


def of_file(path: Path, *, rows: int, dataset: str, epochs: int, batch_size: int) -> Training:
    """The training of a network read from a file, on ``rows`` rows; only dense networks are understood.

    Raises UsageError where it has kernels with parameters that are not dense layers: this model knows no
    price for them.
    """
    from joulemeter import graphs, kernels

    network = graphs.read(str(path)).kernels
    dense = [kernel for kernel in network if kernel.family in DENSE]
    strange = sorted({k.family for k in network if k.family not in DENSE and kernels.work(k).parameters > 0})
    if strange:
        raise UsageError(
            f"{path}: has {', '.join(strange)}; this model prices dense layers alone",
            "joulemeter predict for other networks",
        )
    layers = [(int(k.shape["in_features"]), int(k.shape["out_features"])) for k in dense]
    return of_layers(dataset or path.stem, layers, rows=rows, epochs=epochs, batch_size=batch_size)
