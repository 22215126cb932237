"""Rotary position embedding: pairs of numbers turned by an angle that grows with the position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("rotary",)

_LAYERS = (
    (32, 128, 128),
    (8, 128, 128),
    (12, 64, 256),
    (32, 128, 1),
    (16, 64, 64),
)  # (heads, head_width, queries)


def form(kernel: Kernel) -> Form:
    """x·cos + rotate(x)·sin: two products and a sum for each number."""
    heads, width, queries = (int(kernel.dimension(n)) for n in ("heads", "head_width", "queries"))
    x = Operand((kernel.batch, heads, queries, width), kernel.dtype)
    angle = Operand((queries, width), kernel.dtype)
    return Form((x, angle, angle), (), (x,), 3.0 * x.elements)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A block of a real network, jittered."""
    heads, width, queries = pick(rng, _LAYERS)
    queries = queries if queries == 1 else around(rng, queries, 0.8)
    return Kernel(name, {"heads": around(rng, heads, 0.7), "head_width": width, "queries": queries})


def torch(kernel: Kernel) -> Callable[..., Any]:
    """As transformers writes it: halves swapped, one negated."""
    import torch

    def call(x: Any, cos: Any, sin: Any) -> Any:
        """The two halves of each head turned by its angles."""
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * cos + turned * sin

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Split, Neg, Concat, two Mul and an Add."""
    return (
        OnnxNode("Split", ("x0",), ("a", "b"), {"axis": -1, "num_outputs": 2}),
        OnnxNode("Neg", ("b",), ("n",)),
        OnnxNode("Concat", ("n", "a"), ("r",), {"axis": -1}),
        OnnxNode("Mul", ("x0", "x1"), ("p",)),
        OnnxNode("Mul", ("r", "x2"), ("q",)),
        OnnxNode("Add", ("p", "q"), ("y0",)),
    )
