"""Normalisation: batch (inference, and ``bn-train`` by the batch's own statistics), layer, RMS and group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, batch_size, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("bn", "bn-relu", "bn-train", "layernorm", "rmsnorm", "groupnorm")

# (height, channels) of CNN layers; (rows, width) of transformers.
_MAPS = (
    (112, 64), (56, 64), (56, 256), (28, 128), (28, 512), (14, 256), (14, 1024), (7, 512), (7, 2048),
    (112, 32), (112, 96),
    (56, 144), (28, 240), (14, 480), (14, 672), (7, 960), (7, 1152), (28, 58), (14, 116), (7, 232),
    (56, 128), (28, 320),
    (14, 640), (56, 24), (28, 40), (14, 112), (7, 192), (28, 16), (14, 48),
)  # fmt: skip
_ROWS = (
    (197, 768), (50, 768), (197, 1024), (3136, 96), (784, 192), (196, 384), (49, 768), (3136, 128),
    (784, 256), (196, 512),
    (128, 768), (64, 512), (384, 768), (1, 768), (256, 256), (784, 384), (196, 768), (49, 1536),
)  # fmt: skip
_ROWWISE = ("layernorm", "rmsnorm")
_OWN = (*_ROWWISE, "groupnorm")
"""Norms by the statistics of what they read."""


def form(kernel: Kernel) -> Form:
    """Row-wise norms read ``rows`` × ``width``; the others ``in_channels`` × ``height`` × ``width``."""
    c = int(kernel.dimension("features" if kernel.family in _ROWWISE else "in_channels"))
    if kernel.family in _ROWWISE:
        shape: tuple[int, ...] = (int(kernel.dimension("rows")) * kernel.batch, c)
    else:
        shape = (kernel.batch, c, int(kernel.dimension("height")), int(kernel.dimension("width")))
    x = Operand(shape, kernel.dtype, str(kernel.shape.get("layout", "")))
    vector = Operand((c,), kernel.dtype)
    running = () if kernel.family in _OWN else (replace(vector, statistic=True),) * 2
    trained = 1 if kernel.family == "rmsnorm" else 2
    # bn: x·a + b, 2. The others but RMS: sum 1, squares 2, (x − µ)/σ 2, ·γ + β 2. RMS: squares 2, /r 1, ·γ 1.
    each = {"bn": 2, "bn-relu": 3, "bn-train": 7, "layernorm": 7, "rmsnorm": 4, "groupnorm": 7}[kernel.family]
    return Form((x,), (*running, *(vector,) * trained), (x,), float(each * x.elements))


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered."""
    if name in _ROWWISE:
        rows, c = pick(rng, _ROWS)
        shape: dict[str, int | str] = {
            "rows": rows if rows == 1 else around(rng, rows, 0.8),
            "features": around(rng, c, 0.7, 8),
        }
        return Kernel(name, shape, batch=int(rng.choice([1, 1, 2, 4])))
    height, c = pick(rng, _MAPS)
    height = around(rng, height, 0.4)
    shape = {"height": height, "width": height, "in_channels": channels(rng, c)}
    if name == "groupnorm":
        groups = int(rng.choice([8, 16, 32]))
        shape |= {"groups": groups, "in_channels": max(1, round(c / groups)) * groups}
    return Kernel(name, shape, batch=1 if height > 100 else batch_size(rng))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``batch_norm`` with its running statistics, ``layer_norm``, ``rms_norm`` or ``group_norm``."""
    import torch.nn.functional as F

    c = int(kernel.dimension("features"))
    groups = int(kernel.dimension("groups"))

    def batch_norm(x: Any, mean: Any, var: Any, scale: Any, shift: Any, training: bool = False) -> Any:
        """By statistics that have no gradient; in training by the batch's own, which change them."""
        return F.batch_norm(x, mean.detach(), var.detach(), scale, shift, training)

    named: dict[str, Callable[..., Any]] = {
        "bn": batch_norm,
        "bn-relu": lambda x, *weights: F.relu_(batch_norm(x, *weights)),
        "bn-train": partial(batch_norm, training=True),
        "layernorm": lambda x, scale, shift: F.layer_norm(x, (c,), scale, shift),
        "rmsnorm": lambda x, scale: F.rms_norm(x, (c,), scale),
        "groupnorm": lambda x, scale, shift: F.group_norm(x, groups, scale, shift),
    }
    return named[kernel.family]


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """BatchNormalization, LayerNormalization, RMSNormalization or GroupNormalization."""
    if kernel.family in ("bn", "bn-relu"):
        first = OnnxNode("BatchNormalization", ("x0", "w2", "w3", "w0", "w1"), ("y0",))
        if kernel.family == "bn":
            return (first,)
        return OnnxNode("BatchNormalization", first.inputs, ("t0",)), OnnxNode("Relu", ("t0",), ("y0",))
    if kernel.family == "layernorm":
        return (OnnxNode("LayerNormalization", ("x0", "w0", "w1"), ("y0",)),)
    if kernel.family == "groupnorm":
        groups = {"num_groups": int(kernel.dimension("groups"))}
        return (OnnxNode("GroupNormalization", ("x0", "w0", "w1"), ("y0",), groups),)
    return ()
