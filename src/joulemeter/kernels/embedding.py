"""Embedding: rows of a table picked by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("embedding",)

# (tokens, entries, width): BERT and GPT-2 words and places, a small model, relative places of a window.
_TABLES = (
    (128, 30522, 768),
    (128, 512, 768),
    (128, 50257, 768),
    (128, 1024, 768),
    (64, 8000, 256),
    (2401, 169, 3),
)


def form(kernel: Kernel) -> Form:
    """No FLOPs; the rows picked are read and written, the rest of the table is not touched."""
    tokens = int(kernel.dimension("tokens")) * kernel.batch
    entries, width = int(kernel.dimension("entries")), int(kernel.dimension("width"))
    ids = Operand((tokens,), "int64", below=entries)
    table = Operand((entries, width), kernel.dtype, read=min(1.0, tokens / entries))
    return Form((ids,), (table,), (Operand((tokens, width), kernel.dtype),), 0.0)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A table of a real network, jittered."""
    names = ("tokens", "entries", "width")
    shape = dict(zip(names, (around(rng, n, 0.8) for n in pick(rng, _TABLES)), strict=True))
    return Kernel(name, shape)


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.embedding``."""
    import torch.nn.functional as F

    return F.embedding


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Gather."""
    return (OnnxNode("Gather", ("w0", "x0"), ("y0",)),)
