"""Transposed convolution: each input spreads over a window of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("transposed-conv",)

# (height, in_channels, out_channels, kernel, stride) of decoders: U-Net, DCGAN, FCN, CenterNet.
_LAYERS = (
    (7, 512, 256, 4, 2),
    (14, 256, 128, 4, 2),
    (28, 128, 64, 2, 2),
    (56, 64, 32, 2, 2),
    (14, 64, 64, 3, 2),
)


def _size(kernel: Kernel, axis: str) -> int:
    # out = (n − 1)s − 2p + k + output_padding
    n, s, p, k, extra = (
        int(kernel.dimension(name, otherwise))
        for name, otherwise in (
            (axis, 1),
            (f"stride_{axis}", 1),
            (f"padding_{axis}", 0),
            (f"kernel_{axis}", 1),
            (f"output_padding_{axis}", 0),
        )
    )
    return (n - 1) * s - 2 * p + k + extra


def form(kernel: Kernel) -> Form:
    """A product of window × out_channels / groups for each input number."""
    c_in, c_out, groups, kh, kw = (
        int(kernel.dimension(n))
        for n in ("in_channels", "out_channels", "groups", "kernel_height", "kernel_width")
    )
    size = int(kernel.dimension("height")), int(kernel.dimension("width"))
    x = Operand((kernel.batch, c_in, *size), kernel.dtype)
    w = Operand((c_in, c_out // groups, kh, kw), kernel.dtype)
    y = Operand((kernel.batch, c_out, _size(kernel, "height"), _size(kernel, "width")), kernel.dtype)
    # MACs = N · C_in · H · W · (C_out / g) · k_h · k_w
    macs = x.elements * (c_out // groups) * kh * kw
    bias = int(kernel.dimension("bias", 0))
    weights = (w, Operand((c_out,), kernel.dtype)) if bias else (w,)
    return Form((x,), weights, (y,), 2 * macs + bias * y.elements, macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A decoder's layer, jittered."""
    height, c_in, c_out, size, stride = pick(rng, _LAYERS)
    height = around(rng, height, 0.4)
    shape: dict[str, int | str] = {
        "in_channels": channels(rng, c_in),
        "out_channels": channels(rng, c_out),
        "bias": 1,
    }
    for axis in ("height", "width"):
        shape |= {
            axis: height,
            f"kernel_{axis}": size,
            f"stride_{axis}": stride,
            f"padding_{axis}": (size - 1) // 2,
        }
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.conv_transpose2d``."""
    import torch.nn.functional as F

    stride, padding, extra = (
        [int(kernel.dimension(f"{what}_{axis}", otherwise)) for axis in ("height", "width")]
        for what, otherwise in (("stride", 1), ("padding", 0), ("output_padding", 0))
    )
    groups = int(kernel.dimension("groups"))

    def call(x: Any, w: Any, b: Any = None) -> Any:
        """The transposed convolution."""
        return F.conv_transpose2d(x, w, b, stride, padding, extra, groups)

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """ConvTranspose."""
    along = {
        what: [int(kernel.dimension(f"{what}_{axis}", otherwise)) for axis in ("height", "width")]
        for what, otherwise in (("kernel", 1), ("stride", 1), ("padding", 0), ("output_padding", 0))
    }
    attributes = {
        "kernel_shape": along["kernel"],
        "strides": along["stride"],
        "pads": along["padding"] * 2,
        "output_padding": along["output_padding"],
        "group": int(kernel.dimension("groups")),
    }
    inputs = ("x0", "w0", "w1") if kernel.dimension("bias", 0) else ("x0", "w0")
    return (OnnxNode("ConvTranspose", inputs, ("y0",), attributes),)
