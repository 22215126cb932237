"""The networks that sweeps train: dense ones after topology.py, and small ones that read sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from joulemeter.errors import UsageError

HEADS = 4
STEP = 8
"""Widths of sequence networks are multiples of this."""
WIDEST = 4096


class Dense(nn.Module):
    """Linear layers with ReLU between; ``residual`` adds a hidden layer's input where widths are equal."""

    def __init__(self, inputs: int, widths: Sequence[int], residual: bool) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, widths, strict=False))
        self.added = [residual and k > 0 and sizes[k] == sizes[k + 1] for k in range(len(widths) - 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, outputs) for inputs (b, inputs)."""
        for layer, added in zip(self.layers, self.added, strict=False):
            y = torch.relu(layer(x))
            x = x + y if added else y
        out: Tensor = self.layers[-1](x)
        return out


class Encoder(nn.Module):
    """A transformer encoder over a row: each input is a token; the mean of the tokens is classified."""

    def __init__(self, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, width)
        layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, outputs) for inputs (b, inputs)."""
        out: Tensor = self.head(self.encoder(self.embed(x.unsqueeze(-1))).mean(dim=1))
        return out


class Convolutions(nn.Module):
    """1-D convolutions of three taps over a row, then the mean over places and a linear layer."""

    def __init__(self, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        channels = [1, *[width] * depth]
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Conv1d(channels[k], channels[k + 1], 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (b, outputs) for inputs (b, inputs)."""
        out: Tensor = self.head(self.layers(x.unsqueeze(1)).mean(dim=2))
        return out


def dense(inputs: int, widths: Sequence[int], *, residual: bool) -> nn.Module:
    """A fully connected network; its parameters are ``topology.parameters``."""
    return Dense(inputs, widths, residual)


def sequence(shape: str, depth: int, size: int, outputs: int) -> nn.Module:
    """A ``transformer`` or ``cnn`` of ``depth`` blocks whose parameters come closest to ``size``.

    The width is a multiple of 8, found by bisection. Raises UsageError for another shape.
    """
    kinds: dict[str, Callable[[int, int, int], nn.Module]] = {"transformer": Encoder, "cnn": Convolutions}
    if shape not in kinds:
        raise UsageError(f"'{shape}' reads no sequence", ", ".join(kinds))

    def count(steps: int) -> int:
        """Parameters where a sequence has ``steps`` steps."""
        with torch.device("meta"):
            network = kinds[shape](steps * STEP, depth, outputs)
        return sum(each.numel() for each in network.parameters())

    low, high = 1, WIDEST // STEP
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(middle) < size else (low, middle)
    steps = min((max(1, low - 1), low), key=lambda each: abs(count(each) - size))
    return kinds[shape](steps * STEP, depth, outputs)
