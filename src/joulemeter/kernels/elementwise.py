"""Arithmetic between tensors, element by element: add, multiply, compare, select; whole or broadcast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("add", "add-relu", "mul", "sub", "div", "elementwise")

# (outer, channels, inner): an image's channels × pixels, or a sentence's tokens × width.
_SHAPES = (
    (1, 256, 56 * 56), (1, 512, 28 * 28), (1, 1024, 14 * 14), (1, 2048, 49), (1, 64, 56 * 56),
    (1, 128, 28 * 28),
    (1, 512, 49), (1, 24, 56 * 56), (1, 40, 28 * 28), (1, 112, 196), (1, 160, 49), (1, 96, 112 * 112),
    (1, 144, 56 * 56),
    (1, 240, 28 * 28), (1, 672, 196), (1, 1152, 49), (197, 768, 1), (128, 768, 1), (3136, 96, 1),
    (784, 192, 1),
    (196, 384, 1), (49, 768, 1), (64, 512, 1), (128, 3072, 1), (12, 128, 128), (64, 3 * 49, 49),
    (1, 768, 1), (1, 1, 4096),
)  # fmt: skip
_UNARY = ("neg", "exp", "sqrt", "abs")


def form(kernel: Kernel) -> Form:
    """One FLOP a result, two for add-relu. ``broadcast`` says what the second operand spans:
    ``channels`` (one number a channel), ``scalar``, ``outer`` (one batch of it), or nothing for all."""
    outer, c, inner = (int(kernel.dimension(n)) for n in ("outer", "channels", "inner"))
    outer *= kernel.batch
    # A lone count of elements is as good as three.
    inner *= int(kernel.dimension("elements"))
    spans = {"channels": (1, c, 1), "scalar": (1, 1, 1), "outer": (1, c, inner), "inner": (outer, 1, inner)}
    layout = str(kernel.shape.get("layout", ""))
    x = Operand((outer, c, inner), kernel.dtype)
    second = Operand(spans.get(str(kernel.shape.get("broadcast", "")), x.shape), kernel.dtype, layout)
    extra = int(kernel.dimension("operands", 1 if kernel.family == "elementwise" else 2)) - 1
    flops = x.elements * (2 if kernel.family == "add-relu" else 1)
    return Form((x, *[second] * extra), (), (x,), float(flops))


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered; a third of the second operands are broadcast."""
    outer, c, inner = pick(rng, _SHAPES)
    shape: dict[str, int | str] = {
        "outer": outer if outer == 1 else around(rng, outer, 0.7),
        "channels": around(rng, c, 0.7) if c > 1 else 1,
        "inner": inner if inner == 1 else around(rng, inner, 0.7),
    }
    if name == "elementwise":
        shape["operator"] = str(rng.choice(_UNARY))
        return Kernel(name, shape)
    kind = str(rng.choice(["", "", "channels", "scalar", "outer"] if name != "add-relu" else [""]))
    if kind:
        shape["broadcast"] = kind
    elif rng.random() < 0.3:
        shape["layout"] = "channels-last"
    if name in ("add", "mul") and rng.random() < 0.4:
        shape["in_place"] = 1
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``+ − × ÷`` of PyTorch, in place where the shape says so; one of some functions for ``elementwise``."""
    import torch

    if kernel.family == "elementwise":
        return _unary(kernel)
    inside = bool(kernel.dimension("in_place", 0))
    fresh: dict[str, Callable[..., Any]] = {
        "add": torch.add,
        "mul": torch.mul,
        "sub": torch.sub,
        "div": torch.div,
    }
    if kernel.family == "add-relu":
        return lambda a, b: torch.relu_(torch.add(a, b))
    if inside:
        return {"add": torch.Tensor.add_, "mul": torch.Tensor.mul_}.get(kernel.family, fresh[kernel.family])
    return fresh[kernel.family]


def _unary(kernel: Kernel) -> Callable[..., Any]:
    """The named function where PyTorch has it, otherwise a stand-in with as many operands."""
    import torch

    named = {"neg": torch.neg, "exp": torch.exp, "sqrt": torch.sqrt, "abs": torch.abs}
    function = named.get(str(kernel.shape.get("operator", "")))
    operands = int(kernel.dimension("operands", 1))
    if function is not None and operands == 1:
        return function
    if operands >= 3:
        return torch.clamp if kernel.dtype != "bool" else lambda a, b, c, *rest: torch.logical_or(a, b)
    if operands == 2:
        return torch.maximum
    return torch.neg if kernel.dtype != "bool" else torch.logical_not


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """The operator of the same name."""
    named = {"add": "Add", "mul": "Mul", "sub": "Sub", "div": "Div"}
    if kernel.family in named:
        return (OnnxNode(named[kernel.family], ("x0", "x1"), ("y0",)),)
    if kernel.family == "add-relu":
        return OnnxNode("Add", ("x0", "x1"), ("t0",)), OnnxNode("Relu", ("t0",), ("y0",))
    if kernel.dimension("operands", 1) != 1:
        return ()
    operators = {"neg": "Neg", "exp": "Exp", "sqrt": "Sqrt", "abs": "Abs"}
    return (OnnxNode(operators.get(str(kernel.shape.get("operator", "")), "Neg"), ("x0",), ("y0",)),)
