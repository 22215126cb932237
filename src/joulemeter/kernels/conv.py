"""Convolutions in one, two and three dimensions, grouped or dilated, alone or with what follows fused on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, batch_size, channels, pick

if TYPE_CHECKING:
    import numpy as np

_FUSED = ("", "-relu", "-hswish", "-silu", "-bn", "-bn-relu", "-bn-hswish", "-bn-silu", "-add", "-add-relu")
NAMES = tuple(f"{kind}{fused}" for kind in ("conv", "dwconv") for fused in _FUSED)

# (height, in_channels, out_channels, kernel, stride, groups) of layers of AlexNet, VGG, ResNet, ResNeXt,
# Inception,
# GoogLeNet, DenseNet, SqueezeNet, ShuffleNet, MobileNet, RegNet, EfficientNet, and the patch layers of ViT,
# Swin, ConvNeXt.
_LAYERS = (
    (224, 3, 64, 11, 4, 1), (27, 64, 192, 5, 1, 1), (13, 192, 384, 3, 1, 1), (13, 384, 256, 3, 1, 1),
    (224, 3, 64, 3, 1, 1), (224, 64, 64, 3, 1, 1), (112, 64, 128, 3, 1, 1), (112, 128, 128, 3, 1, 1),
    (56, 128, 256, 3, 1, 1), (56, 256, 256, 3, 1, 1), (28, 256, 512, 3, 1, 1), (28, 512, 512, 3, 1, 1),
    (224, 3, 64, 7, 2, 1), (56, 64, 64, 3, 1, 1), (56, 64, 64, 1, 1, 1), (56, 64, 256, 1, 1, 1),
    (56, 256, 64, 1, 1, 1), (56, 64, 128, 3, 2, 1), (56, 256, 512, 1, 2, 1), (28, 128, 128, 3, 1, 1),
    (28, 512, 128, 1, 1, 1), (28, 128, 512, 1, 1, 1), (28, 128, 256, 3, 2, 1), (28, 512, 1024, 1, 2, 1),
    (14, 256, 256, 3, 1, 1), (14, 1024, 256, 1, 1, 1), (14, 256, 1024, 1, 1, 1), (14, 256, 512, 3, 2, 1),
    (14, 1024, 2048, 1, 2, 1), (7, 512, 512, 3, 1, 1), (7, 2048, 512, 1, 1, 1), (7, 512, 2048, 1, 1, 1),
    (56, 128, 128, 3, 1, 32), (28, 256, 256, 3, 1, 32), (14, 512, 512, 3, 1, 32), (7, 1024, 1024, 3, 1, 32),
    (56, 256, 256, 3, 2, 32), (28, 512, 512, 3, 2, 32), (28, 104, 104, 3, 1, 13), (14, 208, 208, 3, 1, 26),
    (14, 400, 400, 3, 2, 25), (28, 64, 64, 3, 1, 4), (14, 160, 160, 3, 1, 10), (14, 784, 784, 3, 1, 7),
    (28, 192, 64, 1, 1, 1), (28, 192, 96, 1, 1, 1), (28, 96, 128, 3, 1, 1), (28, 16, 32, 3, 1, 1),
    (14, 480, 192, 1, 1, 1), (14, 112, 224, 3, 1, 1), (14, 528, 128, 1, 1, 1), (7, 832, 384, 1, 1, 1),
    (35, 192, 48, 1, 1, 1), (35, 48, 64, 5, 1, 1), (17, 768, 160, 1, 1, 1), (8, 1280, 320, 1, 1, 1),
    (56, 96, 128, 1, 1, 1), (56, 128, 32, 3, 1, 1), (28, 320, 128, 1, 1, 1), (14, 640, 128, 1, 1, 1),
    (14, 128, 32, 3, 1, 1), (7, 864, 128, 1, 1, 1), (7, 128, 32, 3, 1, 1), (56, 256, 128, 1, 1, 1),
    (55, 96, 16, 1, 1, 1), (55, 16, 64, 3, 1, 1), (55, 16, 64, 1, 1, 1), (27, 256, 32, 1, 1, 1),
    (27, 32, 128, 3, 1, 1), (13, 512, 64, 1, 1, 1), (13, 64, 256, 3, 1, 1), (13, 512, 1000, 1, 1, 1),
    (28, 58, 58, 1, 1, 1), (14, 116, 116, 1, 1, 1), (7, 232, 232, 1, 1, 1), (7, 464, 1024, 1, 1, 1),
    (224, 3, 32, 3, 2, 1), (112, 32, 64, 1, 1, 1), (56, 64, 128, 1, 1, 1), (28, 128, 256, 1, 1, 1),
    (14, 256, 512, 1, 1, 1), (14, 512, 512, 1, 1, 1), (7, 1024, 1024, 1, 1, 1), (112, 32, 16, 1, 1, 1),
    (112, 16, 96, 1, 1, 1), (56, 144, 24, 1, 1, 1), (56, 24, 144, 1, 1, 1), (28, 32, 192, 1, 1, 1),
    (28, 192, 32, 1, 1, 1), (14, 64, 384, 1, 1, 1), (14, 384, 96, 1, 1, 1), (14, 576, 96, 1, 1, 1),
    (7, 160, 960, 1, 1, 1), (7, 960, 320, 1, 1, 1), (7, 320, 1280, 1, 1, 1), (14, 112, 672, 1, 1, 1),
    (14, 672, 112, 1, 1, 1), (7, 192, 1152, 1, 1, 1), (7, 1152, 192, 1, 1, 1), (28, 40, 240, 1, 1, 1),
    (1, 32, 8, 1, 1, 1), (1, 96, 4, 1, 1, 1), (1, 6, 144, 1, 1, 1), (1, 480, 20, 1, 1, 1),
    (1, 28, 672, 1, 1, 1),
    (1, 1152, 48, 1, 1, 1), (1, 48, 1152, 1, 1, 1), (1, 960, 240, 1, 1, 1), (1, 240, 960, 1, 1, 1),
    (112, 24, 24, 3, 1, 1), (112, 24, 96, 3, 2, 1), (56, 48, 192, 3, 1, 1), (28, 64, 256, 3, 1, 1),
    (224, 3, 768, 16, 16, 1), (224, 3, 96, 4, 4, 1), (56, 96, 192, 2, 2, 1), (28, 192, 384, 2, 2, 1),
    (14, 384, 768, 2, 2, 1), (224, 3, 768, 32, 32, 1),
)  # fmt: skip
# (height, channels, kernel, stride) of the depthwise layers of MobileNet, MnasNet, ProxylessNAS,
# EfficientNet, ShuffleNet, ConvNeXt.
_DEPTHWISE = (
    (112, 32, 3, 1), (112, 64, 3, 2), (56, 128, 3, 1), (56, 128, 3, 2), (28, 256, 3, 1), (28, 256, 3, 2),
    (14, 512, 3, 1), (14, 512, 3, 2), (7, 1024, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (56, 144, 5, 2),
    (28, 192, 3, 1), (28, 240, 5, 1), (28, 240, 3, 2), (14, 384, 3, 1), (14, 480, 5, 1), (14, 672, 5, 1),
    (14, 672, 5, 2), (7, 960, 3, 1), (7, 1152, 5, 1), (7, 960, 5, 1), (112, 16, 3, 1), (56, 72, 5, 2),
    (28, 120, 5, 1), (56, 48, 7, 2), (28, 96, 7, 1), (14, 192, 7, 1), (56, 24, 3, 2), (28, 58, 3, 1),
    (14, 116, 3, 1), (7, 232, 3, 1), (28, 116, 3, 2), (56, 96, 7, 1), (28, 192, 7, 1), (14, 384, 7, 1),
    (7, 768, 7, 1), (56, 128, 7, 1), (28, 256, 7, 1), (14, 512, 7, 1), (7, 1024, 7, 1),
)  # fmt: skip


def _axes(kernel: Kernel) -> list[str]:
    """The names of its space dimensions, outermost first."""
    if "length" in kernel.shape:
        return ["length"]
    return ["depth", "height", "width"] if "depth" in kernel.shape else ["height", "width"]


def _along(kernel: Kernel, what: str, otherwise: int) -> list[int]:
    return [int(kernel.dimension(f"{what}_{axis}", otherwise)) for axis in _axes(kernel)]


def _window(kernel: Kernel) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel size, stride, padding and dilation along each axis; padding not named is "same"."""
    size, stride, dilation = (_along(kernel, what, 1) for what in ("kernel", "stride", "dilation"))
    same = [d * (k - 1) // 2 for d, k in zip(dilation, size, strict=True)]
    padding = [
        int(kernel.dimension(f"padding_{axis}", pad)) for axis, pad in zip(_axes(kernel), same, strict=True)
    ]
    return size, stride, padding, dilation


def output_size(kernel: Kernel) -> list[int]:
    """The result's size along each axis: ⌊(n + 2p − d(k − 1) − 1) / s⌋ + 1."""
    window = zip(_axes(kernel), *_window(kernel), strict=True)
    return [(int(kernel.dimension(a)) + 2 * p - d * (k - 1) - 1) // s + 1 for a, k, s, p, d in window]


def form(kernel: Kernel) -> Form:
    """A product over in_channels / groups × window for each result, then what is fused on, elementwise."""
    c_in, c_out, groups = (int(kernel.dimension(n)) for n in ("in_channels", "out_channels", "groups"))
    layout = str(kernel.shape.get("layout", ""))
    space = tuple(int(kernel.dimension(axis)) for axis in _axes(kernel))
    size = _window(kernel)[0]
    x = Operand((kernel.batch, c_in, *space), kernel.dtype, layout)
    w = Operand((c_out, c_in // groups, *size), kernel.dtype)
    y = Operand((kernel.batch, c_out, *output_size(kernel)), kernel.dtype, layout)
    fused = kernel.family.split("-")[1:]
    # MACs = N · C_out · Π out_i · (C_in / g) · Π k_i
    macs = y.elements * (c_in // groups) * math.prod(size)
    # The bias adds 1 a result; bn scales and shifts, 2; add and relu 1 each; hswish 4; silu 4.
    bias = int(kernel.dimension("bias", 0))
    extra = bias + sum({"bn": 2, "add": 1, "relu": 1, "hswish": 4, "silu": 4}[each] for each in fused)
    added = (y,) if "add" in fused else ()
    vector = Operand((c_out,), kernel.dtype)
    running = replace(vector, statistic=True)
    norm = (running, running, vector, vector) if "bn" in fused else ()
    weights = (w, *[vector] * bias, *norm)
    return Form((x, *added), weights, (y,), 2 * macs + extra * y.elements, macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network with its channels, size and window jittered together."""
    if name.startswith("dwconv"):
        height, c_in, size, stride = pick(rng, _DEPTHWISE)
        c_in = c_out = groups = channels(rng, c_in)
    else:
        height, c_in, c_out, size, stride, groups = pick(rng, _LAYERS)
        c_in, c_out, groups = _channels(rng, c_in, c_out, groups)
    height = height if height == 1 else max(around(rng, height, 0.4), size)
    if size in (3, 5, 7) and rng.random() < 0.15:
        size = int(rng.choice([3, 5, 7]))
    shape: dict[str, int | str] = {"in_channels": c_in, "out_channels": c_out, "groups": groups, "bias": 0}
    patch = size == stride and size > 1
    for axis in ("height", "width"):
        shape |= {axis: height, f"kernel_{axis}": size, f"stride_{axis}": stride}
        if patch:
            shape[f"padding_{axis}"] = 0
    _unusual(shape, rng, patch, "-" not in name)
    batch = 1 if height > 100 else batch_size(rng)
    return Kernel(name, shape, batch=batch)


def _channels(rng: np.random.Generator, c_in: int, c_out: int, groups: int) -> tuple[int, int, int]:
    if groups == 1:
        return channels(rng, c_in), channels(rng, c_out), 1
    each = max(1, around(rng, c_in // groups, 0.7, 4))
    groups = around(rng, groups, 0.5)
    return groups * each, groups * each, groups


def _unusual(shape: dict[str, int | str], rng: np.random.Generator, patch: bool, alone: bool) -> None:
    """Now and then a bias, a non-square image or window, a dilation, or channels last."""
    if alone and (patch or rng.random() < 0.35):
        shape["bias"] = 1
    size = int(shape["kernel_height"])
    if not patch and shape["height"] != 1 and rng.random() < 0.1:
        shape["width"] = max(size, around(rng, int(shape["height"]), 1.0))
    if 3 <= size <= 7 and not patch and shape["groups"] == 1 and rng.random() < 0.1:
        shape["kernel_height"], shape["kernel_width"] = ((1, size), (size, 1))[int(rng.integers(2))]
    elif size == 3 and shape["stride_height"] == 1 and rng.random() < 0.04:
        shape["dilation_height"] = shape["dilation_width"] = 2
    if alone and (size == 7 or patch) and shape["groups"] != 1 and rng.random() < 0.6:
        shape["layout"] = "channels-last"


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.conv*d``, then batch_norm, addition and activation as the family says."""
    import torch.nn.functional as F

    conv = (F.conv1d, F.conv2d, F.conv3d)[len(_axes(kernel)) - 1]
    _, stride, padding, dilation = _window(kernel)
    fused = kernel.family.split("-")[1:]
    groups, biased = int(kernel.dimension("groups")), int(kernel.dimension("bias", 0))
    acts = {"relu": F.relu_, "hswish": lambda y: F.hardswish(y, True), "silu": lambda y: F.silu(y, True)}
    act: Callable[..., Any] | None = next((acts[each] for each in fused if each in acts), None)

    def call(x: Any, *rest: Any) -> Any:
        """The convolution, and what its family fuses after it."""
        added, weights = (rest[:1], rest[1:]) if "add" in fused else ((), rest)
        y = conv(x, weights[0], weights[1] if biased else None, stride, padding, dilation, groups)
        if "bn" in fused:
            mean, var, scale, shift = weights[1 + biased :]
            y = F.batch_norm(y, mean.detach(), var.detach(), scale, shift)
        y = y.add_(added[0]) if added else y
        return act(y) if act else y

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Conv, then BatchNormalization, Add and the activation as the family says."""
    size, stride, padding, dilation = _window(kernel)
    fused = kernel.family.split("-")[1:]
    biased = int(kernel.dimension("bias", 0))
    attributes = {
        "kernel_shape": size,
        "strides": stride,
        "pads": padding * 2,
        "dilations": dilation,
        "group": int(kernel.dimension("groups")),
    }
    steps: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("Conv", ("x0", "w0", *(("w1",) if biased else ())), attributes)
    ]
    if "bn" in fused:
        mean, var, scale, shift = (f"w{1 + biased + i}" for i in range(4))
        steps.append(("BatchNormalization", ("?", scale, shift, mean, var), {}))
    if "add" in fused:
        steps.append(("Add", ("?", "x1"), {}))
    acts = {"relu": ("Relu",), "hswish": ("HardSwish",), "silu": ("Sigmoid", "Mul")}
    for step in next((acts[each] for each in fused if each in acts), ()):
        steps.append((step, ("?", "??") if step == "Mul" else ("?",), {}))
    return _chain(steps)


def _chain(steps: list[tuple[str, tuple[str, ...], dict[str, Any]]]) -> tuple[OnnxNode, ...]:
    """The steps one after the other: ``?`` is the value before, ``??`` the one before that."""
    nodes = []
    for i, (operator, inputs, attributes) in enumerate(steps):
        names = {"?": f"t{i - 1}", "??": f"t{i - 2}"}
        output = "y0" if i == len(steps) - 1 else f"t{i}"
        nodes.append(OnnxNode(operator, tuple(names.get(n, n) for n in inputs), (output,), attributes))
    return tuple(nodes)
