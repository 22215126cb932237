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


def working_sets(training: Training) -> list[WorkingSet]:
    """The published working sets of one training step: layers forward, backward, update; network; data."""
    batch, sets = training.batch_size, []
    for k, (a, b) in enumerate(training.layers):
        weights, activations = FLOAT_BYTES * (a + 1) * b, FLOAT_BYTES * batch * (a + b)
        forward = weights + activations
        sets.append(WorkingSet(f"layer {k + 1} forward", forward, forward))
        sets.append(WorkingSet(f"layer {k + 1} backward", 2 * forward, 2 * forward))
        sets.append(WorkingSet(f"layer {k + 1} update", ADAM_STATE * weights, ADAM_TRAFFIC * weights))
    moved = sum(each.moved_bytes for each in sets)
    return [*sets, WorkingSet("network", network_bytes(training), moved), _data_set(training)]


def network_bytes(training: Training) -> float:
    """Bytes that a whole training step holds: weights with Adam's state, activations and their gradients."""
    state = ADAM_STATE * FLOAT_BYTES * training.parameters
    return state + 2 * FLOAT_BYTES * training.batch_size * sum(training.widths)


def _data_set(training: Training) -> WorkingSet:
    row = FLOAT_BYTES * (training.inputs + training.outputs)
    return WorkingSet("data set", row * training.train_rows, row * training.batch_size)


def level_bytes(training: Training, levels: Sequence[MemoryLevel]) -> Floats:
    """Bytes that one training batch moves at each level, shape (levels,): what the levels nearer missed."""
    sets = working_sets(training)
    held = np.array([each.held_bytes for each in sets])
    moved = np.array([each.moved_bytes for each in sets])
    # The first level is touched by everything; each next one by what the level before it missed.
    nearer = [0.0, *[level.size_bytes for level in levels[:-1]]]
    return np.array([moved @ missing_share(held, capacity) for capacity in nearer])


def missing_share(held_bytes: Floats, capacity_bytes: float) -> Floats:
    """Share of a set that a cache cannot hold: (1 − C/S)⁺, elementwise."""
    return np.maximum(0.0, 1.0 - capacity_bytes / np.maximum(held_bytes, 1.0))


def home(held_bytes: float, levels: Sequence[MemoryLevel]) -> MemoryLevel:
    """The level nearest to the arithmetic that holds ``held_bytes`` whole."""
    return next((level for level in levels if held_bytes <= level.size_bytes), levels[-1])
