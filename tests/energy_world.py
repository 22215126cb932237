"""A device whose costs are known, and the runs that it would record."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from joulemeter import butter, topology
from joulemeter.device import MemoryLevel
from joulemeter.models.hierarchy.terms import design
from joulemeter.models.hierarchy.training import Runs, Training

LEVELS = (MemoryLevel("L1", 1e6), MemoryLevel("L2", 4e7), MemoryLevel("DRAM", math.inf))
PER_BATCH_J, PER_FLOP_J, PER_DRAM_BYTE_J, PER_EPOCH_J = 0.5, 1e-10, 2e-9, 1.0
NOISE = 0.05


def training(
    dataset: str = "adult", *, shape: str = "rectangle", size: int = 4096, depth: int = 4
) -> Training:
    facts = butter.DATASETS[dataset]
    solved = topology.solve(shape, depth=depth, size=size, inputs=facts.inputs, outputs=facts.outputs)
    return Training(
        dataset, shape, size, depth, facts.inputs, facts.outputs, tuple(solved.widths), facts.rows
    )


def true_energy(trainings: list[Training]) -> np.ndarray:
    counts = design(trainings, LEVELS)
    costs = np.zeros(counts.shape[1])
    costs[1], costs[2], costs[-5], costs[-1] = PER_EPOCH_J, PER_BATCH_J, PER_FLOP_J, PER_DRAM_BYTE_J
    return counts @ costs


def runs(count: int = 160, *, seed: int = 0, noise: float = NOISE, device: str = "cpu") -> Runs:
    """Random networks of the study's grid, with log-normal noise, at 300 W."""
    random = np.random.default_rng(seed)
    names = ["adult", "banana", "nursery", "mnist", "201_pol", "splice"]
    trainings = [
        training(
            str(random.choice(names)),
            shape=str(random.choice(butter.SHAPES)),
            size=int(2 ** random.integers(5, 25)),
            depth=int(random.choice(butter.DEPTHS)),
        )
        for _ in range(count)
    ]
    energy = true_energy(trainings) * np.exp(random.normal(0, noise, count))
    return Runs(
        tuple(trainings),
        np.arange(count),
        np.full(count, device),
        energy,
        energy / 300,
        np.full(count, np.nan),
    )


def write_csv(path: Path, given: Runs) -> Path:
    """``given`` in the layout of the published table."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["device", "dataset", "shape", "size", "depth", "power_W", "run_time_s", "std_energy_J"]
        )
        for k, device, energy, time in zip(
            given.which, given.device, given.energy_j, given.time_s, strict=True
        ):
            t = given.trainings[int(k)]
            rows.writerow([device, t.dataset, t.shape, t.size, t.depth, energy / time, time, energy])
    return path
