"""Working sets of a training step, and the bytes that they move at each memory level.

After the study's account (Tripp et al. 2024, arXiv:2403.08151, section 5): the network's energy
follows which cache its working sets fit in. A set is touched over and over; what does not fit in a
level must come from the next one. Of a set of S bytes the share (1 − C/S)⁺ misses in a cache of C
bytes: all of it when it is far larger, none when it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulemeter.device import MemoryLevel
from joulemeter.models.hierarchy.training import FLOAT_BYTES, Training

Floats = NDArray[np.float64]
ADAM_STATE = 4
"""Numbers held per weight: the weight, its gradient and Adam's two moments (Kingma and Ba 2014)."""
ADAM_TRAFFIC = 7
"""Numbers moved per weight in an update: four read, and weight and moments written back."""


@dataclass(frozen=True, slots=True)
class WorkingSet:
    """Bytes that are held together, and bytes that one batch moves through them."""

    name: str
    held_bytes: float
    moved_bytes: float


@dataclass(frozen=True)
class Layers:
    """Layers of many trainings in a row, each array of shape (layers,), and where each training starts."""

    inputs: Floats
    outputs: Floats
    batch: Floats
    starts: NDArray[np.int64]

    def total(self, values: Floats) -> Floats:
        """Sums over the layers of each training: (trainings, …) from (layers, …)."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))


def layers_of(trainings: Sequence[Training]) -> Layers:
    """The layers of ``trainings``, one training after another."""
    depths = np.array([len(each.widths) for each in trainings])
    pairs = np.array([pair for each in trainings for pair in each.layers], dtype=float)
    batch = np.repeat([float(each.batch_size) for each in trainings], depths)
    return Layers(pairs[:, 0], pairs[:, 1], batch, np.concatenate([[0], np.cumsum(depths)[:-1]]))


def layer_sets(layers: Layers) -> tuple[Floats, Floats]:
    """Bytes held and bytes moved by each layer forward, backward and in its update, each (layers, 3)."""
    weights = FLOAT_BYTES * (layers.inputs + 1) * layers.outputs
    forward = weights + FLOAT_BYTES * layers.batch * (layers.inputs + layers.outputs)
    held = np.stack([forward, 2 * forward, ADAM_STATE * weights], axis=1)
    moved = np.stack([forward, 2 * forward, ADAM_TRAFFIC * weights], axis=1)
    return held, moved


def working_sets(training: Training) -> list[WorkingSet]:
    """The published working sets of one training step: layers forward, backward, update; network; data."""
    held, moved = layer_sets(layers_of([training]))
    names = ("forward", "backward", "update")
    sets = [
        WorkingSet(f"layer {k + 1} {name}", float(held[k, j]), float(moved[k, j]))
        for k in range(len(held))
        for j, name in enumerate(names)
    ]
    whole, data = network_bytes(training), data_bytes(training)
    return [
        *sets,
        WorkingSet("network", whole, float(moved.sum())),
        WorkingSet("data set", data, data / training.train_rows * training.batch_size),
    ]


def network_bytes(training: Training) -> float:
    """Bytes that a whole training step holds: weights with Adam's state, activations and their gradients."""
    state = ADAM_STATE * FLOAT_BYTES * training.parameters
    return float(state + 2 * FLOAT_BYTES * training.batch_size * sum(training.widths))


def data_bytes(training: Training) -> float:
    """Bytes of the rows that are trained on."""
    return float(FLOAT_BYTES * (training.inputs + training.outputs) * training.train_rows)


def level_bytes(trainings: Sequence[Training], levels: Sequence[MemoryLevel]) -> Floats:
    """Bytes that a training batch moves at each level, (trainings, levels): what nearer ones missed."""
    layers = layers_of(trainings)
    held, moved = layer_sets(layers)
    through = layers.total(moved.sum(axis=1))
    network = np.array([network_bytes(each) for each in trainings])
    data = np.array([data_bytes(each) for each in trainings])
    batch = data * np.array([each.batch_size / each.train_rows for each in trainings])
    # The first level is touched by everything; each next one by what the level before it missed.
    columns = [
        layers.total((moved * missing_share(held, capacity)).sum(axis=1))
        + through * missing_share(network, capacity)
        + batch * missing_share(data, capacity)
        for capacity in (0.0, *(level.size_bytes for level in levels[:-1]))
    ]
    return np.stack(columns, axis=1)


def missing_share(held_bytes: Floats, capacity_bytes: float) -> Floats:
    """Share of a set that a cache cannot hold: (1 − C/S)⁺, elementwise."""
    return np.maximum(0.0, 1.0 - capacity_bytes / np.maximum(held_bytes, 1.0))


def home(held_bytes: float, levels: Sequence[MemoryLevel]) -> MemoryLevel:
    """The level nearest to the arithmetic that holds ``held_bytes`` whole."""
    return next((level for level in levels if held_bytes <= level.size_bytes), levels[-1])
