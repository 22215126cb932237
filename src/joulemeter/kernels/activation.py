"""Activations: one number in, one number out, in place or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

# FLOPs of one number. A comparison, addition or product is 1; an exponential, tanh or erf is 4.
_FLOPS = {
    "relu": 1,  # max(x, 0)
    "relu6": 2,  # min(max(x, 0), 6)
    "leaky-relu": 2,  # max(x, a x)
    "sigmoid": 6,  # 1 / (1 + exp(−x))
    "hardsigmoid": 4,  # min(max(x + 3, 0), 6) / 6
    "hswish": 5,  # x · hardsigmoid(x)
    "silu": 7,  # x · sigmoid(x)
    "gelu": 8,  # x/2 · (1 + erf(x/√2))
    "gelu-tanh": 12,  # x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))
    "tanh": 4,
    "elu": 6,
    "swiglu": 8,  # silu(a) · b
    "dropout": 3,  # x · (draw < keep) / keep, in training
}
NAMES = tuple(_FLOPS)
_ONNX = {
    "relu": "Relu",
    "leaky-relu": "LeakyRelu",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "hswish": "HardSwish",
    "tanh": "Tanh",
    "elu": "Elu",
}

# Elements an image or a sentence: maps of CNNs, hidden layers of transformers.
_ELEMENTS = (
    64 * 112 * 112, 64 * 56 * 56, 256 * 56 * 56, 128 * 28 * 28, 512 * 28 * 28, 256 * 14 * 14,
    1024 * 14 * 14, 512 * 7 * 7,
    2048 * 7 * 7, 96 * 112 * 112, 144 * 56 * 56, 240 * 28 * 28, 672 * 14 * 14, 1152 * 7 * 7, 4096, 1024,
    64, 197 * 3072,
    128 * 3072, 3136 * 384, 784 * 768, 196 * 1536, 49 * 3072, 64 * 224 * 224, 16, 960, 58 * 28 * 28,
    16 * 55 * 55, 768,
)  # fmt: skip


def form(kernel: Kernel) -> Form:
    """So many FLOPs an element; SwiGLU reads two."""
    x = Operand((kernel.batch, int(kernel.dimension("elements"))), kernel.dtype)
    inputs = (x, x) if kernel.family == "swiglu" else (x,)
    return Form(inputs, (), (x,), float(_FLOPS[kernel.family] * x.elements))


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """The size of a real layer, jittered; in place half of the time where frameworks do so."""
    shape: dict[str, int | str] = {"elements": around(rng, pick(rng, _ELEMENTS), 1.0)}
    if name in ("relu", "relu6", "hswish", "silu", "leaky-relu") and rng.random() < 0.6:
        shape["in_place"] = 1
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """The function of ``torch.nn.functional``, in place where the shape says so."""
    import torch
    import torch.nn.functional as F

    if kernel.dimension("in_place", 0):
        inside: dict[str, Callable[..., Any]] = {
            "relu": F.relu_,
            "relu6": lambda x: F.relu6(x, True),
            "hswish": lambda x: F.hardswish(x, True),
            "silu": lambda x: F.silu(x, True),
            "leaky-relu": F.leaky_relu_,
        }
        if kernel.family in inside:
            return inside[kernel.family]
    fresh: dict[str, Callable[..., Any]] = {
        "relu": F.relu,
        "relu6": F.relu6,
        "leaky-relu": F.leaky_relu,
        "sigmoid": torch.sigmoid,
        "hardsigmoid": F.hardsigmoid,
        "hswish": F.hardswish,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
        "tanh": torch.tanh,
        "elu": F.elu,
        "swiglu": lambda a, b: F.silu(a) * b,
        "dropout": lambda x: F.dropout(x, 0.5, True),
    }
    return fresh[kernel.family]


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """The operator of the same name; two or three nodes for those ONNX has none for; none in training."""
    if kernel.family == "dropout":
        return ()
    if kernel.family in _ONNX:
        return (OnnxNode(_ONNX[kernel.family], ("x0",), ("y0",)),)
    if kernel.family == "relu6":
        return (OnnxNode("Clip", ("x0", "c0", "c1"), ("y0",), {}, {"c0": [0.0], "c1": [6.0]}),)
    if kernel.family in ("gelu", "gelu-tanh"):
        kind = "tanh" if kernel.family == "gelu-tanh" else "none"
        return (OnnxNode("Gelu", ("x0",), ("y0",), {"approximate": kind}),)
    first = OnnxNode("Sigmoid", ("x0",), ("t0",))
    if kernel.family == "silu":
        return first, OnnxNode("Mul", ("x0", "t0"), ("y0",))
    return first, OnnxNode("Mul", ("x0", "t0"), ("t1",)), OnnxNode("Mul", ("t1", "x1"), ("y0",))
