"""Optimizer steps: the parameters moved along their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("sgd", "adam")

_ELEMENTS = (64, 512, 9408, 36864, 147456, 589824, 2359296, 2048 * 1000, 768 * 3072, 1280 * 320, 4096 * 1024)


def form(kernel: Kernel) -> Form:
    """SGD with momentum: m ← µm + g, p ← p − ηm. Adam: two running means, their correction, the step."""
    x = Operand((int(kernel.dimension("elements")),), kernel.dtype)
    # SGD: 2 for m, 2 for p. Adam: m 3, v 4, √v + ε 2, corrections 2, step 2.
    if kernel.family == "sgd":
        return Form((x, x, x), (), (x, x), 4.0 * x.elements)
    return Form((x, x, x, x), (), (x, x, x), 13.0 * x.elements)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A weight tensor of a real network, jittered."""
    return Kernel(name, {"elements": around(rng, pick(rng, _ELEMENTS), 1.0)}, direction="step")


def torch(kernel: Kernel) -> Callable[..., Any]:
    """The tensor operations of ``torch.optim`` without ``foreach``."""
    import torch

    def sgd(p: Any, g: Any, m: Any) -> Any:
        """A step with momentum."""
        return p.add_(m.mul_(0.9).add_(g), alpha=-1e-3)

    def adam(p: Any, g: Any, m: Any, v: Any) -> Any:
        """A step of Adam, without its correction of the first steps."""
        m.lerp_(g, 0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        return p.addcdiv_(m, v.abs().sqrt_().add_(1e-8), value=-1e-3)

    return sgd if kernel.family == "sgd" else torch.no_grad()(adam)


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """None: ONNX Runtime's inference has no optimizer."""
    return ()
