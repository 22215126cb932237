"""Squeeze-and-excitation: the mean of each channel through two small layers gives the channel's factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("se",)

# (height, channels, reduced) of MobileNetV3, EfficientNet, RegNetY.
_LAYERS = (
    (56, 16, 8),
    (28, 120, 32),
    (14, 480, 120),
    (14, 672, 168),
    (7, 960, 240),
    (28, 240, 10),
    (7, 1152, 48),
    (14, 208, 26),
)


def form(kernel: Kernel) -> Form:
    """Mean, two 1 × 1 convolutions with bias, relu, hardsigmoid, product."""
    height, width, c = (int(kernel.dimension(n)) for n in ("height", "width", "in_channels"))
    r = int(kernel.dimension("reduced", max(1, c // 4)))
    x = Operand((kernel.batch, c, height, width), kernel.dtype)
    shapes = (r, c, 1, 1), (r,), (c, r, 1, 1), (c,)
    # MACs = N · (C·r + r·C); around them: mean 1 and product 1 a pixel, bias and relu 2r, bias and
    # hardsigmoid 5C.
    macs = kernel.batch * 2 * c * r
    flops = 2 * macs + 2 * x.elements + kernel.batch * (2 * r + 5 * c)
    return Form((x,), tuple(Operand(s, kernel.dtype) for s in shapes), (x,), float(flops), macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A block of a real network, jittered."""
    height, c, reduced = pick(rng, _LAYERS)
    height, c = around(rng, height, 0.4), channels(rng, c)
    shape: dict[str, int | str] = {
        "height": height,
        "width": height,
        "in_channels": c,
        "reduced": around(rng, reduced),
    }
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """The block as torchvision writes it."""
    import torch.nn.functional as F

    def call(x: Any, w: Any, b: Any, v: Any, d: Any) -> Any:
        """Pool, two layers, and the image scaled."""
        y = F.relu_(F.conv2d(F.adaptive_avg_pool2d(x, 1), w, b))
        return x * F.hardsigmoid(F.conv2d(y, v, d))

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """GlobalAveragePool, Conv, Relu, Conv, HardSigmoid, Mul."""
    return (
        OnnxNode("GlobalAveragePool", ("x0",), ("t0",)),
        OnnxNode("Conv", ("t0", "w0", "w1"), ("t1",)),
        OnnxNode("Relu", ("t1",), ("t2",)),
        OnnxNode("Conv", ("t2", "w2", "w3"), ("t3",)),
        OnnxNode("HardSigmoid", ("t3",), ("t4",)),
        OnnxNode("Mul", ("x0", "t4"), ("y0",)),
    )
