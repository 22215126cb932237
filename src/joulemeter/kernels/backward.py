"""Backward passes: the gradients of a family's inputs and weights, given those of its results."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joulemeter import kernels
from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = "-backward"
# Without a gradient: steps of an optimizer, and views.
_NONE = ("optimizer", "backward")


def _names() -> tuple[str, ...]:
    found: list[str] = []
    for module in pkgutil.iter_modules(kernels.__path__):
        if module.name not in _NONE:
            found += importlib.import_module(f"{kernels.__name__}.{module.name}").NAMES
    return tuple(f"{name}{_SUFFIX}" for name in found if name != "view")


NAMES = _names()


def forward(kernel: Kernel) -> Kernel:
    """The forward kernel whose gradients ``kernel`` computes."""
    return replace(kernel, family=kernel.family.removesuffix(_SUFFIX), direction="forward")


def of(kernel: Kernel) -> Kernel:
    """The backward pass of a forward ``kernel``; gradients are never computed in place."""
    shape = {name: value for name, value in kernel.shape.items() if name != "in_place"}
    return replace(kernel, family=f"{kernel.family}{_SUFFIX}", shape=shape, direction="backward")


def form(kernel: Kernel) -> Form:
    """Reads the results' gradients and the saved operands, writes the gradients of inputs and weights.

    Each product has two: dX = dY Wᵀ and dW = Xᵀ dY; any other FLOP counts once.
    """
    made = kernels.form(forward(kernel))
    gradients = tuple(
        each
        for each in (*made.inputs, *made.weights)
        if not each.dtype.startswith("int") and not each.statistic
    )
    flops = made.flops + 2 * made.multiply_adds
    return Form((*made.inputs, *made.results), made.weights, gradients, flops, 2 * made.multiply_adds)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """The backward pass of a sample of the forward family."""
    plain = name.removesuffix(_SUFFIX)
    return of(kernels.family(plain).sample(plain, rng))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """The forward function; whoever launches it keeps its graph and asks for the gradients."""
    first = forward(kernel)
    return kernels.family(first.family).torch(first)


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """None: ONNX Runtime's inference computes no gradients."""
    return ()
