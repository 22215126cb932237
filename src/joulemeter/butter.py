"""Facts of the BUTTER-E study: its 13 data sets as they were encoded, and the nodes it ran on.

BUTTER-E: Energy Consumption Data for the BUTTER Empirical Deep Learning Dataset, OEDI submission 5991,
DOI 10.25984/2329316; Tripp, Perr-Sauer, Gafur, Nag, Purkayastha, Zisman, Bensen 2024 (arXiv:2403.08151);
CC-BY-4.0. Rows, inputs and outputs follow from the PMLB tables by the study's encoding rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from joulemeter.device import MemoryLevel

KIB, MIB = 2.0**10, 2.0**20


@dataclass(frozen=True, slots=True)
class Facts:
    """Rows of a data set before the split, and its encoded inputs and outputs."""

    rows: int
    inputs: int
    outputs: int


DATASETS = {
    "201_pol": Facts(15000, 26, 11),
    "294_satellite_image": Facts(6435, 36, 6),
    "505_tecator": Facts(240, 124, 1),
    "529_pollen": Facts(3848, 4, 1),
    "537_houses": Facts(20640, 8, 1),
    "adult": Facts(48842, 81, 1),
    "banana": Facts(5300, 2, 1),
    "connect_4": Facts(67557, 126, 3),
    "mnist": Facts(70000, 784, 10),
    "nursery": Facts(12958, 26, 4),
    "sleep": Facts(105908, 141, 5),
    "splice": Facts(3188, 287, 3),
    "wine_quality_white": Facts(4898, 11, 7),
}

DEPTHS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20)
SHAPES = (
    "rectangle",
    "rectangle_residual",
    "trapezoid",
    "exponential",
    "wide_first_2x",
    "wide_first_4x",
    "wide_first_8x",
    "wide_first_16x",
)
BATCH_SIZE = 256
EPOCHS = 3000
TEST_SHARE = 0.2

NODES: dict[str, tuple[MemoryLevel, ...]] = {
    # 2 × Xeon Gold 6154: 36 cores with 32 KiB of L1d and 1 MiB of L2 each, 24.75 MiB of L3 a socket.
    "cpu": (
        MemoryLevel("L1", 36 * 32 * KIB),
        MemoryLevel("L2", 36 * MIB),
        MemoryLevel("L3", 2 * 24.75 * MIB),
        MemoryLevel("DRAM", math.inf),
    ),
    # 2 × V100-16GB, mirrored: each holds all weights in its own 6 MiB of L2.
    "gpu": (MemoryLevel("L2", 6 * MIB), MemoryLevel("HBM", math.inf)),
}
"""Memory levels of the study's node types, all cores of a node together."""
