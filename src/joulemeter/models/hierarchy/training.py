"""Training: what was trained on how much, and Runs: the energies that trainings took, in columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from joulemeter import topology

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FLOAT_BYTES = 4
FORWARD_SHARE = 1 / 3
"""An evaluation goes forward only; a training step goes forward, and backward at twice that cost."""

FLOPS_PER_WEIGHT = 6.0
"""A multiply and an add forward, twice that backward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)."""


@dataclass(frozen=True, slots=True)
class Training:
    """A fully connected network and how it is trained. Widths end with the output layer.

    ``rows`` are all rows of the data set; ``test_share`` of them are evaluated once an epoch, the others
    trained on in batches of ``batch_size``. ``dataset`` names the data, ``size`` is the number of
    parameters that was asked for.
    """

    dataset: str
    shape: str
    size: int
    depth: int
    inputs: int
    outputs: int
    widths: tuple[int, ...]
    rows: int
    batch_size: int = 256
    epochs: int = 3000
    test_share: float = 0.2

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        return topology.layers(self.inputs, self.widths)

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return topology.parameters(self.inputs, self.widths)

    @property
    def additions(self) -> int:
        """Residual additions in one forward pass."""
        return topology.additions(self.shape, self.widths)

    @property
    def train_rows(self) -> int:
        """Rows trained on in an epoch."""
        return self.rows - self.test_rows

    @property
    def test_rows(self) -> int:
        """Rows evaluated in an epoch; scikit-learn rounds the test share up."""
        return math.ceil(self.rows * self.test_share - 1e-9)

    @property
    def batches(self) -> float:
        """Batches of an epoch in units of a training step: an evaluated batch counts a third."""
        evaluated = math.ceil(self.test_rows / self.batch_size)
        return math.ceil(self.train_rows / self.batch_size) + FORWARD_SHARE * evaluated

    @property
    def samples(self) -> float:
        """Rows of an epoch in units of a trained row: an evaluated row counts a third."""
        return self.train_rows + FORWARD_SHARE * self.test_rows

    @property
    def datums(self) -> float:
        """Trained rows times epochs: what "energy per datum" divides by."""
        return float(self.train_rows * self.epochs)

    @property
    def flops(self) -> float:
        """Floating-point operations of the training: 6 per weight and trained row, 2 per evaluated row."""
        weights = sum(a * b for a, b in self.layers)
        return FLOPS_PER_WEIGHT * weights * self.samples * self.epochs


@dataclass(frozen=True)
class Runs:
    """Runs in columns, each of length n: ``which`` indexes ``trainings``; ``energy_j`` > 0.

    ``time_s`` is NaN where unknown. ``loss`` is the lowest test loss, NaN where unknown. ``left_out``
    says in words what was read and not taken, with counts.
    """

    trainings: tuple[Training, ...]
    which: Integers
    device: NDArray[np.str_]
    energy_j: Floats
    time_s: Floats
    loss: Floats
    origin: str = "measured"
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.which)

    @property
    def devices(self) -> list[str]:
        """The devices present, sorted."""
        return sorted({str(name) for name in np.unique(self.device)})

    @property
    def groups(self) -> NDArray[np.str_]:
        """The data set of each run."""
        names = np.array([training.dataset for training in self.trainings])
        return np.asarray(names[self.which])

    def take(self, rows: NDArray[np.bool_] | Integers) -> Runs:
        """The runs at ``rows``; trainings that nobody refers to any more are dropped."""
        used, which = np.unique(self.which[rows], return_inverse=True)
        return Runs(
            tuple(self.trainings[int(k)] for k in used),
            which.astype(np.int64),
            self.device[rows],
            self.energy_j[rows],
            self.time_s[rows],
            self.loss[rows],
            self.origin,
            self.left_out,
        )

    def of_device(self, device: str) -> Runs:
        """The runs on ``device``."""
        return self.take(self.device == device)

    def pooled(self) -> Runs:
        """One run per training: the geometric mean of its repetitions' energies and times."""
        if len(self.which) == len(self.trainings):
            return self
        rows = np.unique(self.which, return_index=True)[1]
        pooled = self.take(rows)
        return replace(
            pooled,
            energy_j=_geometric_means(self.which, self.energy_j),
            time_s=_geometric_means(self.which, self.time_s),
            loss=np.full(len(rows), np.nan),
        )


def _geometric_means(which: Integers, values: Floats) -> Floats:
    total = np.bincount(which, weights=np.log(values))
    return np.asarray(np.exp(total / np.bincount(which)))


def joined(parts: Sequence[Runs]) -> Runs:
    """Runs after runs, with the left-out sayings of all."""
    offsets = np.cumsum([0, *[len(part.trainings) for part in parts]])
    return Runs(
        tuple(training for part in parts for training in part.trainings),
        np.concatenate([part.which + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.device for part in parts]),
        np.concatenate([part.energy_j for part in parts]),
        np.concatenate([part.time_s for part in parts]),
        np.concatenate([part.loss for part in parts]),
        parts[0].origin,
        tuple(saying for part in parts for saying in part.left_out),
    )
