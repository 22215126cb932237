"""Moving numbers without changing them: concat, split, copies that reorder, channel shuffle; and views,
which move none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, batch_size, channels, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("concat", "split", "copy", "channelshuffle", "view")

# (height, channels, parts) of GoogLeNet, DenseNet, SqueezeNet, ShuffleNet, Inception.
_PARTS = (
    (28, 256, 4), (28, 480, 4), (14, 512, 4), (14, 832, 4), (7, 1024, 4), (56, 128, 3), (56, 256, 6),
    (28, 320, 7),
    (28, 512, 12), (14, 640, 13), (14, 1024, 24), (7, 1024, 16), (55, 128, 2), (27, 256, 2), (13, 512, 2),
    (28, 116, 2),
    (14, 232, 2), (7, 464, 2), (35, 256, 4), (17, 768, 4),
)  # fmt: skip
# (outer, middle, inner): a copy that swaps middle and outer, in runs of ``inner`` numbers that stay together.
_COPIES = (
    (197, 12, 64), (12, 197, 64), (49, 3, 32), (64, 49, 96), (8, 7, 8 * 96), (784, 192, 1), (3136, 96, 1),
    (192, 784, 1),
    (2, 58, 784), (2, 116, 196), (4, 28, 28 * 192), (128, 12, 64), (56, 56, 96), (28, 28, 192),
    (14, 14, 384), (7, 7, 768),
)  # fmt: skip


def form(kernel: Kernel) -> Form:
    """No FLOPs; everything read once and written once, and nothing at all for a view."""
    if kernel.family == "view":
        return Form((Operand((1, 1), kernel.dtype, read=0.0),), (), (), 0.0)
    if kernel.family == "copy":
        outer, middle, inner = (int(kernel.dimension(n)) for n in ("outer", "middle", "inner"))
        inner *= int(kernel.dimension("elements"))
        x = Operand((kernel.batch * outer, middle, inner), kernel.dtype)
        return Form((x,), (), (x,), 0.0)
    c, parts, height, width = (int(kernel.dimension(n)) for n in ("in_channels", "parts", "height", "width"))
    whole = Operand((kernel.batch, c, height, width), kernel.dtype)
    if kernel.family == "channelshuffle":
        return Form((whole,), (), (whole,), 0.0)
    pieces = tuple(Operand((kernel.batch, each, height, width), kernel.dtype) for each in _shares(c, parts))
    return Form(pieces, (), (whole,), 0.0) if kernel.family == "concat" else Form((whole,), (), pieces, 0.0)


def _shares(c: int, parts: int) -> list[int]:
    """``c`` in ``parts`` as equal as can be."""
    return [c // parts + (i < c % parts) for i in range(parts)]


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A layer of a real network, jittered."""
    if name == "view":
        return Kernel(name, {})
    if name == "copy":
        names = ("outer", "middle", "inner")
        sizes = (n if n == 1 else around(rng, n, 0.7) for n in pick(rng, _COPIES))
        shape: dict[str, int | str] = dict(zip(names, sizes, strict=True))
        return Kernel(name, shape, batch=int(rng.choice([1, 1, 2, 4])))
    height, c, parts = pick(rng, _PARTS)
    height, c = around(rng, height, 0.4), max(parts, channels(rng, c))
    if name != "concat":
        parts = 2
        c += c % 2
    shape = {"height": height, "width": height, "in_channels": c, "parts": parts}
    return Kernel(name, shape, batch=batch_size(rng))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``cat``; ``split`` whose parts are made contiguous; ``contiguous`` of a transposed view; a view."""
    import torch

    parts = int(kernel.dimension("parts"))

    def split(x: Any) -> Any:
        """Each part copied out."""
        return [part.contiguous() for part in torch.chunk(x, parts, 1)]

    def shuffle(x: Any) -> Any:
        """Channels of all groups in turn."""
        n, c, h, w = x.shape
        return x.view(n, parts, c // parts, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    named: dict[str, Callable[..., Any]] = {
        "concat": lambda *pieces: torch.cat(pieces, 1),
        "split": split,
        "copy": lambda x: (
            x.transpose(0, 1).contiguous() if kernel.shape.get("order") != "kept" else x.clone()
        ),
        "channelshuffle": shuffle,
        "view": lambda x: x.transpose(0, 1),
    }
    return named[kernel.family]


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Concat, Split or Transpose; a channel shuffle is two reshapes around one."""
    if kernel.family == "concat":
        names = tuple(f"x{i}" for i in range(int(kernel.dimension("parts"))))
        return (OnnxNode("Concat", names, ("y0",), {"axis": 1}),)
    if kernel.family == "split":
        parts = int(kernel.dimension("parts"))
        return (
            OnnxNode(
                "Split", ("x0",), tuple(f"y{i}" for i in range(parts)), {"axis": 1, "num_outputs": parts}
            ),
        )
    if kernel.family == "copy":
        return (OnnxNode("Transpose", ("x0",), ("y0",), {"perm": [1, 0, 2]}),)
    if kernel.family == "view":
        return ()
    n, c, h, w = form(kernel).inputs[0].shape
    parts = int(kernel.dimension("parts"))
    return (
        OnnxNode("Reshape", ("x0", "c0"), ("t0",), {}, {"c0": [n, parts, c // parts, h, w]}),
        OnnxNode("Transpose", ("t0",), ("t1",), {"perm": [0, 2, 1, 3, 4]}),
        OnnxNode("Reshape", ("t1", "c1"), ("y0",), {}, {"c1": [n, c, h, w]}),
    )
