"""Transformer blocks for text: BERT-style encoders, GPT-2-style and Llama-style decoders, written in plain
PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    import numpy as np

NAMES = ("bert", "gpt2", "llama")


class Attention(nn.Module):
    """Multi-head attention; ``key_heads`` fewer than ``heads`` share keys and values."""

    def __init__(self, width: int, heads: int, key_heads: int, causal: bool, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.key_heads, self.causal = heads, key_heads, causal
        each = width // heads
        self.q = nn.Linear(width, width, bias)
        self.k, self.v = nn.Linear(width, key_heads * each, bias), nn.Linear(width, key_heads * each, bias)
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) to the same."""
        n, tokens, width = x.shape
        each = width // self.heads
        q = self.q(x).view(n, tokens, self.heads, each).transpose(1, 2)
        k, v = (f(x).view(n, tokens, self.key_heads, each).transpose(1, 2) for f in (self.k, self.v))
        shared = self.heads != self.key_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=shared)
        joined: torch.Tensor = self.out(y.transpose(1, 2).reshape(n, tokens, width))
        return joined


class Gated(nn.Module):
    """Llama's feed-forward: silu(gate(x)) · up(x), then down."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, False), nn.Linear(width, hidden, False)
        self.down = nn.Linear(hidden, width, False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, width) to the same."""
        result: torch.Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return result


class Block(nn.Module):
    """Attention and feed-forward around residuals, normalised before (``first``) or after."""

    def __init__(
        self, attention: nn.Module, feed: nn.Module, norms: tuple[nn.Module, nn.Module], first: bool
    ) -> None:
        super().__init__()
        self.attention, self.feed, self.first = attention, feed, first
        self.norm1, self.norm2 = norms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, tokens, width) to the same."""
        if self.first:
            x = x + self.attention(self.norm1(x))
            x = x + self.feed(self.norm2(x))
            return x
        x = self.norm1(x + self.attention(x))
        x = self.norm2(x + self.feed(x))
        return x


class Text(nn.Module):
    """Words and places embedded, blocks, a head."""

    def __init__(self, words: int, tokens: int, width: int, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.blocks, self.head = nn.Sequential(*blocks), head

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, tokens) word numbers to the head's result."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        result: torch.Tensor = self.head(self.blocks(x))
        return result


def text(
    style: str, words: int, tokens: int, width: int, heads: int, hidden: int, deep: int, key_heads: int = 0
) -> nn.Module:
    """A network of ``deep`` blocks in the style of ``bert``, ``gpt2`` or ``llama``, random weights."""
    blocks: list[nn.Module] = []
    for _ in range(deep):
        attention = Attention(width, heads, key_heads or heads, style != "bert", style != "llama")
        if style == "llama":
            feed: nn.Module = Gated(width, hidden)
            norms: tuple[nn.Module, nn.Module] = (nn.RMSNorm(width), nn.RMSNorm(width))
        else:
            gelu = nn.GELU("tanh" if style == "gpt2" else "none")
            feed = nn.Sequential(nn.Linear(width, hidden), gelu, nn.Linear(hidden, width))
            norms = (nn.LayerNorm(width), nn.LayerNorm(width))
        blocks.append(Block(attention, feed, norms, style != "bert"))
    head: nn.Module = (
        nn.LayerNorm(width)
        if style == "bert"
        else nn.Sequential(nn.LayerNorm(width), nn.Linear(width, words, False))
    )
    return Text(words, tokens, width, blocks, head).eval()


def variant(name: str, rng: np.random.Generator) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """One small network of ``name``'s style, its sizes and the sentence's length drawn."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        """Module and sentence."""
        heads = int(rng.choice([4, 6, 8, 10, 12]))
        width = heads * int(rng.choice([32, 64, 64]))
        tokens = int(rng.choice([32, 48, 96, 160, 256]))
        hidden = width * int(rng.choice([2, 3, 4]))
        key_heads = heads // 2 if name == "llama" and rng.random() < 0.5 else heads
        words = int(rng.choice([8000, 16000, 30000]))
        module = text(name, words, tokens, width, heads, hidden, int(rng.integers(2, 9)), key_heads)
        return module, (torch.randint(words, (1, tokens)),)

    return build
