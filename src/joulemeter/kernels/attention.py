"""Scaled dot-product attention as one kernel: prefill, decode, grouped heads, causal or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("attention",)

# (heads, key_heads, head_width, queries, keys): ViT, BERT, GPT-2, Llama prefill and decode.
_LAYERS = (
    (12, 12, 64, 197, 197), (12, 12, 64, 50, 50), (16, 16, 64, 197, 197), (12, 12, 64, 128, 128),
    (12, 12, 64, 384, 384),
    (8, 8, 64, 64, 64), (12, 12, 64, 64, 64), (6, 6, 64, 197, 197), (4, 4, 32, 256, 256),
    (12, 12, 64, 1, 256),
    (32, 8, 128, 1, 512), (16, 4, 64, 128, 128), (8, 8, 32, 100, 100), (16, 16, 64, 512, 512),
    (4, 4, 128, 128, 128),
    (2, 2, 64, 128, 128), (12, 12, 26, 128, 128),
)  # fmt: skip


def form(kernel: Kernel) -> Form:
    """softmax(Q Kᵀ / √d) V. A causal mask is counted in full, as the framework's own counter does."""
    heads, key_heads, width, queries, keys = (
        int(kernel.dimension(name, otherwise))
        for name, otherwise in (
            ("heads", 1),
            ("key_heads", kernel.dimension("heads")),
            ("head_width", 1),
            ("queries", 1),
            ("keys", kernel.dimension("queries")),
        )
    )
    q = Operand((kernel.batch, heads, queries, width), kernel.dtype)
    k = Operand((kernel.batch, key_heads, keys, width), kernel.dtype)
    scores = kernel.batch * heads * queries * keys
    # MACs = N · h · q · k · (d for Q Kᵀ + d for · V)
    macs = 2 * scores * width
    # Each score: scale, less the maximum, exponential, sum, division: 5.
    return Form((q, k, k), (), (q,), 2 * macs + 5 * scores, macs)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A block of a real network, jittered in heads and lengths together."""
    heads, key_heads, width, queries, keys = pick(rng, _LAYERS)
    share = heads // key_heads
    key_heads = around(rng, key_heads, 0.7)
    longer = around(rng, keys, 0.7)
    shape: dict[str, int | str] = {
        "heads": key_heads * share,
        "key_heads": key_heads,
        "head_width": width if rng.random() < 0.7 else around(rng, width, 0.5, 8),
        "queries": longer if queries == keys else queries,
        "keys": longer,
        "causal": int(queries == keys and rng.random() < 0.3),
    }
    if queries == keys and not shape["causal"] and rng.random() < 0.3:
        shape["mask"] = 1
    return Kernel(name, shape, batch=int(rng.choice([1, 1, 1, 2, 4])))


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.nn.functional.scaled_dot_product_attention`` on heads that lie inside rows, as networks have
    them.
    """
    import torch
    import torch.nn.functional as F

    causal = bool(kernel.dimension("causal", 0))
    grouped = kernel.dimension("key_heads", kernel.dimension("heads")) != kernel.dimension("heads")
    queries, keys = (
        int(kernel.dimension("queries")),
        int(kernel.dimension("keys", kernel.dimension("queries"))),
    )
    mask = torch.zeros(1, 1, queries, keys) if kernel.dimension("mask", 0) else None

    def inside(x: Any) -> Any:
        """Heads before the sequence, as networks hand them over: a view."""
        return x.view(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)

    def call(q: Any, k: Any, v: Any) -> Any:
        """Attention as PyTorch chooses to compute it."""
        return F.scaled_dot_product_attention(
            inside(q), inside(k), inside(v), attn_mask=mask, is_causal=causal, enable_gqa=grouped
        )

    return call


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """Two products with a softmax between; none for grouped heads."""
    heads = kernel.dimension("heads")
    if kernel.dimension("key_heads", heads) != heads:
        return ()
    return (
        OnnxNode("Transpose", ("x1",), ("kt",), {"perm": [0, 1, 3, 2]}),
        OnnxNode("MatMul", ("x0", "kt"), ("s",)),
        OnnxNode("Mul", ("s", "c0"), ("scaled",), {}, {"c0": [kernel.dimension("head_width") ** -0.5]}),
        OnnxNode("Softmax", ("scaled",), ("p",), {"axis": -1}),
        OnnxNode("MatMul", ("p", "x2"), ("y0",)),
    )
