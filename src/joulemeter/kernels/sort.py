"""Rows put in order: sort, and the largest few."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("sort",)

# (rows, columns, kept): experts of a word, words of a vocabulary, boxes by score, queries of a detector.
_ROWS = (
    (128, 8, 2),
    (512, 64, 8),
    (1, 50257, 50),
    (1, 1000, 5),
    (1, 8400, 300),
    (1, 20000, 1000),
    (256, 1024, 0),
)


def form(kernel: Kernel) -> Form:
    """Values and places of the ``kept`` largest of each row; all of them where ``kept`` is 0."""
    rows, columns = int(kernel.dimension("rows")) * kernel.batch, int(kernel.dimension("columns"))
    kept = int(kernel.dimension("kept", 0)) or columns
    x = Operand((rows, columns), kernel.dtype)
    results = Operand((rows, kept), kernel.dtype), Operand((rows, kept), "int64")
    # Comparisons = N log2 K: a sort's, or those of N numbers with the K largest so far (Knuth, TAOCP 3, 5.3).
    return Form((x,), (), results, float(x.elements * math.log2(max(kept, 2))))


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A router's, a detector's or a language model's rows, jittered."""
    rows, columns, kept = pick(rng, _ROWS)
    shape: dict[str, int | str] = {"rows": around(rng, rows, 0.8), "columns": around(rng, columns, 0.8)}
    if kept:
        shape["kept"] = min(around(rng, kept, 0.7), int(shape["columns"]))
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.topk`` or ``torch.sort``."""
    import torch

    kept = int(kernel.dimension("kept", 0))
    return (lambda x: torch.topk(x, kept)) if kept else torch.sort


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """TopK."""
    kept = int(kernel.dimension("kept", 0)) or int(kernel.dimension("columns"))
    return (OnnxNode("TopK", ("x0", "c0"), ("y0", "y1"), {"axis": -1}, {"c0": [kept]}),)
