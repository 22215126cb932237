"""Fully connected layers: every row times the weights, plus a bias, alone or with the activation fused on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("fc", "fc-relu", "fc-gelu")

# (rows, in_features, out_features): classifiers of CNNs; ViT, Swin and ConvNeXt blocks; BERT and GPT-2 at
# several lengths.
_LAYERS = (
    (1, 9216, 4096), (1, 4096, 4096), (1, 4096, 1000), (1, 25088, 4096), (1, 512, 1000), (1, 2048, 1000),
    (1, 1024, 1000), (1, 1280, 1000), (1, 768, 1000), (1, 768, 768), (197, 768, 2304), (197, 768, 768),
    (197, 768, 3072),
    (197, 3072, 768), (50, 768, 3072), (50, 768, 2304), (197, 1024, 4096), (197, 384, 1536), (3136, 96, 384),
    (3136, 384, 96), (784, 192, 768), (784, 768, 192), (196, 384, 1536), (196, 1536, 384), (49, 768, 3072),
    (49, 3072, 768), (3136, 96, 288), (3136, 96, 96), (784, 192, 576), (784, 384, 192), (196, 384, 1152),
    (196, 768, 384), (49, 768, 2304), (49, 1536, 768), (128, 768, 768), (128, 768, 3072), (128, 3072, 768),
    (128, 768, 2304), (64, 512, 512), (64, 512, 2048), (256, 256, 1024), (128, 312, 1200), (64, 768, 50257),
    (32, 1024, 4096), (512, 768, 3072), (784, 256, 1024), (3136, 128, 512), (196, 512, 2048),
    (49, 1024, 4096),
    (128, 128, 512), (16, 256, 1000), (225, 512, 3), (225, 2, 512),
)  # fmt: skip


def form(kernel: Kernel) -> Form:
    """rows × in_features by in_features × out_features. ``rows`` counts those of one batch element."""
    rows = int(kernel.dimension("rows")) * kernel.batch
    c_in, c_out = int(kernel.dimension("in_features")), int(kernel.dimension("out_features"))
    bias = int(kernel.dimension("bias", 1))
    # MACs = rows · in · out
    macs = rows * c_in * c_out
    # The bias adds 1 a result; relu 1; gelu 8.
    extra = bias + {"fc": 0, "fc-relu": 1, "fc-gelu": 8}[kernel.family]
    stored = (c_in, c_out) if kernel.shape.get("weight") == "in-out" else (c_out, c_in)
    w, b = Operand(stored, kernel.dtype), Operand((c_out,), kernel.dtype)
    x, y = Operand((rows, c_in), kernel.dtype), Operand((rows, c_out), kernel.dtype)
    return Form((x,), (w, b) if bias else (w,), (y,), 2 * macs + extra * y.elements, macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered; now and then with GPT-2's weights stored the other way round."""
    rows, c_in, c_out = pick(rng, _LAYERS)
    shape: dict[str, int | str] = {
        "rows": 1 if rows == 1 else around(rng, rows, 0.8),
        "in_features": channels(rng, c_in),
        "out_features": channels(rng, c_out),
        "bias": int(rng.random() < 0.85 or name != "fc"),
    }
    if rows > 1 and name == "fc" and rng.random() < 0.2:
        shape |= {"weight": "in-out", "bias": 1}
    return Kernel(name, shape, batch=int(rng.choice([1, 1, 1, 2, 4])))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.linear`` (or ``addmm`` for weights stored in × out), then the activation."""
    import torch
    import torch.nn.functional as F

    act = {"fc": None, "fc-relu": F.relu_, "fc-gelu": F.gelu}[kernel.family]

    def call(x: Any, w: Any, b: Any = None) -> Any:
        """The layer, and what its family fuses after it."""
        y = torch.addmm(b, x, w) if kernel.shape.get("weight") == "in-out" else F.linear(x, w, b)
        return act(y) if act else y

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Gemm, then the activation."""
    inputs = ("x0", "w0", "w1") if kernel.dimension("bias", 1) else ("x0", "w0")
    stored = {"transB": 0 if kernel.shape.get("weight") == "in-out" else 1}
    act = {"fc": None, "fc-relu": "Relu", "fc-gelu": "Gelu"}[kernel.family]
    if act is None:
        return (OnnxNode("Gemm", inputs, ("y0",), stored),)
    return OnnxNode("Gemm", inputs, ("t0",), stored), OnnxNode(act, ("t0",), ("y0",))
