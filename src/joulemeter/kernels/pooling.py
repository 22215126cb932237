"""Pooling: the maximum or mean of windows, or of the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, batch_size, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("maxpool", "avgpool", "global-avgpool")

# (height, channels, kernel, stride) of AlexNet, VGG, ResNet, GoogLeNet, DenseNet, Inception.
_WINDOWS = (
    (112, 64, 3, 2), (55, 64, 3, 2), (27, 192, 3, 2), (13, 256, 3, 2), (224, 64, 2, 2), (112, 128, 2, 2),
    (56, 256, 2, 2), (28, 512, 2, 2), (14, 512, 2, 2), (28, 192, 3, 1), (14, 480, 3, 1), (56, 128, 2, 2),
    (35, 192, 3, 1), (17, 768, 3, 1), (7, 832, 3, 1), (28, 256, 2, 2),
)  # fmt: skip
_WHOLE = (
    (7, 512), (7, 2048), (7, 1280), (7, 768), (7, 1024), (112, 32), (56, 96), (28, 144), (28, 240), (14, 480),
    (14, 672), (7, 1152), (56, 64), (13, 1000), (7, 960), (14, 208), (28, 104), (1, 32),
)  # fmt: skip


def form(kernel: Kernel) -> Form:
    """One comparison or addition for each number of each window."""
    height, width, c = (int(kernel.dimension(n)) for n in ("height", "width", "in_channels"))
    x = Operand((kernel.batch, c, height, width), kernel.dtype, str(kernel.shape.get("layout", "")))
    out, window = _windows(kernel)
    y = Operand((kernel.batch, c, *out), kernel.dtype, x.layout)
    return Form((x,), (), (y,), float(y.elements * window))


def _windows(kernel: Kernel) -> tuple[tuple[int, int], int]:
    """The result's height and width, and the numbers in a window."""
    height, width = int(kernel.dimension("height")), int(kernel.dimension("width"))
    if kernel.family == "global-avgpool":
        return (1, 1), height * width
    out = (_out(kernel, "height"), _out(kernel, "width"))
    return out, math.prod(int(kernel.dimension(f"kernel_{axis}")) for axis in ("height", "width"))


def _out(kernel: Kernel, axis: str) -> int:
    n, k, s, p = (
        int(kernel.dimension(f"{w}{axis}", o))
        for w, o in (("", 1), ("kernel_", 1), ("stride_", 1), ("padding_", 0))
    )
    if not kernel.dimension("ceil", 0):
        return (n + 2 * p - k) // s + 1
    out = -((n + 2 * p - k) // -s) + 1
    return out - 1 if (out - 1) * s >= n + p else out  # the last window must start inside the image


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered."""
    if name == "global-avgpool":
        height, c = pick(rng, _WHOLE)
        height = height if height == 1 else around(rng, height, 0.4)
        shape: dict[str, int | str] = {"height": height, "width": height, "in_channels": channels(rng, c)}
        return Kernel(name, shape, batch=batch_size(rng))
    height, c, size, stride = pick(rng, _WINDOWS)
    height = max(around(rng, height, 0.4), size)
    shape = {"in_channels": channels(rng, c)}
    padding = (size - 1) // 2 if rng.random() < 0.7 else 0
    for axis in ("height", "width"):
        shape |= {axis: height, f"kernel_{axis}": size, f"stride_{axis}": stride, f"padding_{axis}": padding}
    return Kernel(name, shape, batch=1 if height > 100 else batch_size(rng))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``max_pool2d``, ``avg_pool2d`` or ``adaptive_avg_pool2d`` to 1 × 1."""
    import torch.nn.functional as F

    if kernel.family == "global-avgpool":
        return lambda x: F.adaptive_avg_pool2d(x, 1)
    size, stride, padding = _along(kernel)
    ceil = bool(kernel.dimension("ceil", 0))
    if kernel.family == "maxpool":
        return lambda x: F.max_pool2d(x, size, stride, padding, ceil_mode=ceil)
    return lambda x: F.avg_pool2d(x, size, stride, padding, ceil)


def _along(kernel: Kernel) -> list[list[int]]:
    whats = (("kernel", 1), ("stride", 1), ("padding", 0))
    return [[int(kernel.dimension(f"{what}_{axis}", o)) for axis in ("height", "width")] for what, o in whats]


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """MaxPool, AveragePool or GlobalAveragePool."""
    if kernel.family == "global-avgpool":
        return (OnnxNode("GlobalAveragePool", ("x0",), ("y0",)),)
    size, stride, padding = _along(kernel)
    attributes = {
        "kernel_shape": size,
        "strides": stride,
        "pads": padding * 2,
        "ceil_mode": int(kernel.dimension("ceil", 0)),
    }
    operator = "MaxPool" if kernel.family == "maxpool" else "AveragePool"
    return (OnnxNode(operator, ("x0",), ("y0",), attributes),)
