"""Products of two activations: matrix by matrix, many at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("matmul",)

# (products, rows, inner, columns): attention written out (Swin's windows, BERT, MaxViT), similarity heads.
_LAYERS = (
    (192, 49, 32, 49), (192, 49, 49, 32), (96, 49, 32, 49), (48, 49, 49, 32), (24, 49, 32, 49),
    (24, 49, 49, 32),
    (12, 128, 64, 128), (12, 128, 128, 64), (12, 197, 64, 197), (12, 197, 197, 64), (8, 64, 64, 64),
    (1, 512, 512, 512),
    (1, 256, 1024, 256), (16, 512, 64, 512), (128, 64, 32, 64), (32, 196, 32, 196),
)  # fmt: skip

_SUBNORMAL = 3.8e-44
"""exp(−100), as softmax makes of masked scores."""


def form(kernel: Kernel) -> Form:
    """``products`` times (rows × inner by inner × columns)."""
    n = int(kernel.dimension("products")) * kernel.batch
    rows, inner, columns = (int(kernel.dimension(name)) for name in ("rows", "inner", "columns"))
    # MACs = n · rows · inner · columns
    macs = n * rows * inner * columns
    shapes = (n, rows, inner), (n, inner, columns), (n, rows, columns)
    a, b, y = (Operand(shape, kernel.dtype) for shape in shapes)
    a = replace(a, rare=(kernel.dimension("subnormal", 0) / 100, _SUBNORMAL))
    return Form((a, b), (), (y,), 2 * macs, macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A product of a real network, jittered."""
    n, rows, inner, columns = pick(rng, _LAYERS)
    names = ("products", "rows", "inner", "columns")
    values = (around(rng, n, 0.8), around(rng, rows, 0.6), around(rng, inner, 0.6), around(rng, columns, 0.6))
    shape: dict[str, int | str] = dict(zip(names, values, strict=True))
    if rng.random() < 0.5:
        shape["second"] = "transposed"
    elif rng.random() < 0.2:
        shape["subnormal"] = int(rng.integers(1, 60))
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.matmul``; ``second: transposed`` gives the second operand as a transposed view."""
    import torch

    transposed = kernel.shape.get("second") == "transposed"

    def call(a: Any, b: Any) -> Any:
        """The product, of a second operand that may be a transposed view."""
        return torch.matmul(
            a, b.reshape(b.shape[0], b.shape[2], b.shape[1]).transpose(1, 2) if transposed else b
        )

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """MatMul."""
    return (OnnxNode("MatMul", ("x0", "x1"), ("y0",)),)
