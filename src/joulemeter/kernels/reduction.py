"""Softmax, sums and means along rows, running sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("softmax", "reduction")

# (rows, columns): attention scores of Swin, BERT, MaxViT, ViT; classifier outputs; means over tokens and
# pixels.
_ROWS = (
    (9408, 49), (4704, 49), (2352, 49), (1176, 49), (1536, 128), (2364, 197), (1, 1000), (512, 64),
    (4096, 64), (1024, 49),
    (960, 49), (196, 768), (12, 64), (64, 257), (768, 196),
)  # fmt: skip

_MASKED = -100.0
"""What Swin adds to scores that do not count: their exponentials are subnormal numbers."""


def form(kernel: Kernel) -> Form:
    """Softmax: maximum 1, difference 1, exponential 4, sum 1, division 1 for each number. A reduction: 1."""
    rows, columns = int(kernel.dimension("rows")) * kernel.batch, int(kernel.dimension("columns"))
    x = Operand((rows, columns), kernel.dtype)
    if kernel.family == "softmax":
        x = replace(x, rare=(kernel.dimension("subnormal", 0) / 100, _MASKED))
        return Form((x,), (), (x,), 8.0 * x.elements)
    return Form((x,), (), (Operand((rows, 1), kernel.dtype),), float(x.elements))


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """The scores or maps of a real network, jittered."""
    rows, columns = pick(rng, _ROWS)
    shape: dict[str, int | str] = {
        "rows": rows if rows == 1 else around(rng, rows, 1.0),
        "columns": around(rng, columns, 0.7),
    }
    if name == "reduction" and rng.random() < 0.3:
        shape["along"] = "rows"
    if name == "softmax" and rng.random() < 0.2:
        shape["subnormal"] = int(rng.integers(1, 60))
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``softmax`` or ``mean``; ``along: rows`` reduces the outer dimension of a transposed view."""
    import torch

    if kernel.family == "softmax":
        return lambda x: torch.softmax(x, -1)
    if kernel.shape.get("along") == "rows":
        return lambda x: x.view(x.shape[1], x.shape[0]).mean(0)
    return lambda x: x.mean(-1)


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Softmax or ReduceMean."""
    if kernel.family == "softmax":
        return (OnnxNode("Softmax", ("x0",), ("y0",), {"axis": -1}),)
    return (OnnxNode("ReduceMean", ("x0", "c0"), ("y0",), {"keepdims": 1}, {"c0": [-1]}),)
