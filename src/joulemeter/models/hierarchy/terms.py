"""Terms: the columns of the energy model, each a count that physics multiplies by a cost ≥ 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from joulemeter.device import MemoryLevel
from joulemeter.models.hierarchy.training import FLOAT_BYTES, FLOPS_PER_WEIGHT, Training
from joulemeter.models.hierarchy.working_sets import layers_of, level_bytes

Floats = NDArray[np.float64]

WIDTHS = (1, 2, 4, 16, 28, 40, 64, 256, 4096, 2**23)
"""Knots of the cost of a layer against its width: libraries begin to share a layer among threads at
some tens of neurons, and a layer's calls then cost several times more (docs/energy-model.md)."""
VECTOR = 4
"""float32 numbers in the shortest vector register: a layer whose width is no multiple leaves a remainder."""
SHARED = 32
"""Hidden width from which an addition is long enough to be shared among threads, which costs more."""

OWN_MEMORY = ("HBM", "GDDR", "device memory")
"""Last levels that the host's rows must first be copied to."""


@dataclass(frozen=True, slots=True)
class Term:
    """A column: its name, and the unit of its count; a cost is joules (or seconds) per unit."""

    name: str
    unit: str


def terms(levels: Sequence[MemoryLevel]) -> list[Term]:
    """The columns for a device with these memory levels, in the order of ``design``."""
    return [
        Term("start", "run"),
        Term("epoch", "epoch"),
        Term("batch", "batch"),
        *[Term(f"layer of width {width}", "layer and batch") for width in WIDTHS],
        Term("layer of odd width", "layer and batch"),
        Term("residual addition", "addition and batch"),
        Term("shared residual addition", "addition and batch"),
        Term("rows copied to the device", "byte"),
        Term("arithmetic", "FLOP"),
        Term("activations", "byte"),
        *[Term(level.name, "byte") for level in levels],
    ]


def design(trainings: Sequence[Training], levels: Sequence[MemoryLevel]) -> Floats:
    """Counts of every term for whole trainings, shape (trainings, terms), all ≥ 0."""
    layers = layers_of(trainings)
    apart = float(levels[-1].name in OWN_MEMORY)
    epochs = np.array([float(each.epochs) for each in trainings])
    steps = epochs * np.array([each.batches for each in trainings])
    samples = epochs * np.array([each.samples for each in trainings])
    additions = np.array([float(each.additions) for each in trainings])
    shared = np.array([each.widths[-2:][0] > SHARED for each in trainings])
    per_step = [
        layers.total(hats(np.log2(layers.outputs), np.log2(WIDTHS))),
        (layers.total((layers.outputs % VECTOR != 0).astype(float)) - _odd_outputs(trainings))[:, None],
        additions[:, None],
        (additions * shared)[:, None],
    ]
    return np.hstack(
        [
            np.ones((len(trainings), 1)),
            epochs[:, None],
            steps[:, None],
            *[steps[:, None] * columns for columns in per_step],
            (FLOAT_BYTES * samples * _row_numbers(trainings) * apart)[:, None],
            (FLOPS_PER_WEIGHT * samples * layers.total(layers.inputs * layers.outputs))[:, None],
            (FLOAT_BYTES * samples * layers.total(layers.outputs))[:, None],
            steps[:, None] * level_bytes(trainings, levels),
        ]
    )


def _row_numbers(trainings: Sequence[Training]) -> Floats:
    """Numbers that a row hands to the device: inputs and targets."""
    return np.array([float(each.inputs + each.outputs) for each in trainings])


def _odd_outputs(trainings: Sequence[Training]) -> Floats:
    return np.array([float(each.widths[-1] % VECTOR != 0) for each in trainings])


def hats(values: Floats, knots: Floats) -> Floats:
    """Linear interpolation weights, shape (values, knots): rows ≥ 0 that sum to 1; clamped at the ends."""
    right = np.clip(np.searchsorted(knots, values, side="right"), 1, len(knots) - 1)
    share = np.clip((values - knots[right - 1]) / (knots[right] - knots[right - 1]), 0.0, 1.0)
    weights = np.zeros((len(values), len(knots)))
    rows = np.arange(len(values))
    weights[rows, right - 1] = 1.0 - share
    weights[rows, right] = share
    return weights
