"""Resizing of images: nearest neighbour or bilinear."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("resize",)

_LAYERS = (
    (28, 256, 2),
    (33, 21, 8),
    (50, 64, 2),
    (14, 512, 2),
    (7, 256, 2),
    (64, 3, 2),
)  # (height, channels, factor)


def form(kernel: Kernel) -> Form:
    """Bilinear: four weighted neighbours, 7 FLOPs a result. Nearest: none."""
    height, width, c, out_h, out_w = (
        int(kernel.dimension(n)) for n in ("height", "width", "in_channels", "out_height", "out_width")
    )
    x, y = (Operand((kernel.batch, c, *size), kernel.dtype) for size in ((height, width), (out_h, out_w)))
    return Form((x,), (), (y,), 7.0 * y.elements if kernel.shape.get("mode") == "bilinear" else 0.0)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A decoder's or a pre-processing's resize, jittered."""
    height, c, factor = pick(rng, _LAYERS)
    height = around(rng, height, 0.5)
    shape: dict[str, int | str] = {
        "in_channels": channels(rng, c),
        "mode": str(rng.choice(["bilinear", "nearest"])),
    }
    for axis in ("height", "width"):
        shape |= {axis: height, f"out_{axis}": height * factor}
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.interpolate``."""
    import torch.nn.functional as F

    size = int(kernel.dimension("out_height")), int(kernel.dimension("out_width"))
    mode = str(kernel.shape.get("mode", "nearest"))
    corners = False if mode == "bilinear" else None
    return lambda x: F.interpolate(x, size, mode=mode, align_corners=corners)


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Resize."""
    mode = "linear" if kernel.shape.get("mode") == "bilinear" else "nearest"
    sizes = [kernel.batch, *(int(kernel.dimension(n)) for n in ("in_channels", "out_height", "out_width"))]
    return (OnnxNode("Resize", ("x0", "", "", "c0"), ("y0",), {"mode": mode}, {"c0": sizes}),)
