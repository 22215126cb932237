"""The nine published CNN families, each layer's channels and kernel size resampled around the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    import numpy as np

NAMES = (
    "alexnet", "densenet", "googlenet", "mobilenetv1", "mobilenetv2", "proxylessnas", "resnet18",
    "shufflenetv2", "squeezenet",
)  # fmt: skip


class Draw:
    """Channels and kernel sizes around the original's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def channels(self, original: int) -> int:
        """From half to one and a half times ``original``, an even number."""
        return max(4, round(original * self.rng.uniform(0.5, 1.5) / 2) * 2)

    def kernel(self, *sizes: int) -> int:
        """One of ``sizes``."""
        return int(self.rng.choice(sizes))


def variant(name: str, rng: np.random.Generator) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """One variant of ``name`` on one image of 224 × 224."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        """Module and image."""
        make = {
            "alexnet": _alexnet,
            "densenet": _densenet,
            "googlenet": _googlenet,
            "mobilenetv1": _mobilenetv1,
            "mobilenetv2": _mobilenetv2,
            "proxylessnas": _proxylessnas,
            "resnet18": _resnet18,
            "shufflenetv2": _shufflenetv2,
            "squeezenet": _squeezenet,
        }[name]
        return make(Draw(rng)).eval(), (torch.rand(1, 3, 224, 224),)

    return build


def _conv(
    c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([act(inplace=True)] if act else []))


def _plain(c_in: int, c_out: int, k: int, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    pad = k // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(c_in, c_out, k, stride, pad), nn.ReLU(inplace=True))


def _head(c: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000)]


class Branches(nn.Module):
    """Several ways side by side, concatenated."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The ways' results along the channels."""
        return torch.cat([way(x) for way in self.ways], 1)


class Residual(nn.Module):
    """A body added to its input (or a projection of it), then perhaps an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: bool = False) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.act = nn.ReLU(inplace=True) if act else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """body(x) + shortcut(x)."""
        y: torch.Tensor = self.body(x)
        y += x if self.shortcut is None else self.shortcut(x)
        if self.act is not None:
            y = self.act(y)
        return y


def _alexnet(draw: Draw) -> nn.Module:
    c = [draw.channels(n) for n in (64, 192, 384, 256, 256)]
    k = [draw.kernel(7, 9, 11), draw.kernel(3, 5, 7), *(draw.kernel(3, 5) for _ in range(3))]
    hidden = [draw.channels(4096), draw.channels(4096)]
    return nn.Sequential(
        _plain(3, c[0], k[0], 4), nn.MaxPool2d(3, 2), _plain(c[0], c[1], k[1]), nn.MaxPool2d(3, 2),
        _plain(c[1], c[2], k[2]), _plain(c[2], c[3], k[3]), _plain(c[3], c[4], k[4]), nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(c[4] * 36, hidden[0]), nn.ReLU(inplace=True),
        nn.Linear(hidden[0], hidden[1]), nn.ReLU(inplace=True), nn.Linear(hidden[1], 1000),
    )  # fmt: skip


class DenseLayer(nn.Module):
    """Its result is appended to its input."""

    def __init__(self, c_in: int, middle: int, growth: int, k: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(c_in), nn.ReLU(), nn.Conv2d(c_in, middle, 1, bias=False))
        self.second = nn.Sequential(
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, growth, k, padding=k // 2, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Input and result along the channels."""
        return torch.cat([x, self.second(self.first(x))], 1)


def _densenet(draw: Draw) -> nn.Module:
    growth = draw.channels(32)
    c = draw.channels(64)
    layers: list[nn.Module] = [_conv(3, c, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for i, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(DenseLayer(c, 4 * growth, growth, 3))
            c += growth
        if i < 3:
            halved = draw.channels(c // 2)
            layers += [
                nn.BatchNorm2d(c),
                nn.ReLU(inplace=True),
                nn.Conv2d(c, halved, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            c = halved
    return nn.Sequential(*layers, nn.BatchNorm2d(c), nn.ReLU(inplace=True), *_head(c))


# 1×1, 3×3 reduced, 3×3, 5×5 reduced, 5×5, pooled (Szegedy et al. 2014, table 1).
_INCEPTIONS = (
    (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)  # fmt: skip


def _googlenet(draw: Draw) -> nn.Module:
    c = draw.channels(192)
    first = draw.channels(64)
    layers: list[nn.Module] = [
        _conv(3, first, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True), _conv(first, first, 1), _conv(first, c, 3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ]  # fmt: skip
    for i, row in enumerate(_INCEPTIONS):
        a, br, b, cr, cc, d = (draw.channels(n) for n in row)
        kb, kc = 3, draw.kernel(3, 5)
        layers.append(
            Branches(
                _conv(c, a, 1),
                nn.Sequential(_conv(c, br, 1), _conv(br, b, kb)),
                nn.Sequential(_conv(c, cr, 1), _conv(cr, cc, kc)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(c, d, 1)),
            )
        )
        c = a + b + cc + d
        if i in (1, 6):
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    return nn.Sequential(*layers, *_head(c))


def _mobilenetv1(draw: Draw) -> nn.Module:
    c = draw.channels(32)
    layers: list[nn.Module] = [_conv(3, c, 3, 2)]
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for original, stride in rows:
        out = draw.channels(original)
        layers += [_conv(c, c, draw.kernel(3, 5), stride, groups=c), _conv(c, out, 1)]
        c = out
    return nn.Sequential(*layers, *_head(c))


def _inverted(c_in: int, c_out: int, expand: int, k: int, stride: int) -> nn.Module:
    middle = c_in * expand
    first = [_conv(c_in, middle, 1, act=nn.ReLU6)] if expand > 1 else []
    body = nn.Sequential(
        *first, _conv(middle, middle, k, stride, middle, nn.ReLU6), _conv(middle, c_out, 1, act=None)
    )
    return Residual(body) if stride == 1 and c_in == c_out else body


def _stages(
    draw: Draw, rows: Sequence[tuple[int, int, int, int]], sizes: Sequence[int], last: int
) -> nn.Module:
    """Inverted residuals: (expansion, channels, repeats, stride) a stage."""
    c = draw.channels(32)
    layers: list[nn.Module] = [_conv(3, c, 3, 2, act=nn.ReLU6)]
    for expand, original, repeats, stride in rows:
        out = draw.channels(original)
        for i in range(repeats):
            layers.append(_inverted(c, out, expand, draw.kernel(*sizes), stride if i == 0 else 1))
            c = out
    last = draw.channels(last)
    return nn.Sequential(*layers, _conv(c, last, 1, act=nn.ReLU6), *_head(last))


def _mobilenetv2(draw: Draw) -> nn.Module:
    rows = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    return _stages(draw, rows, (3, 5), 1280)


def _proxylessnas(draw: Draw) -> nn.Module:
    rows = (
        (1, 16, 1, 1),
        (3, 32, 4, 2),
        (3, 40, 4, 2),
        (6, 80, 4, 2),
        (6, 96, 4, 1),
        (6, 192, 4, 2),
        (6, 320, 1, 1),
    )
    return _stages(draw, rows, (3, 5, 7), 1280)


def _resnet18(draw: Draw) -> nn.Module:
    c = draw.channels(64)
    layers: list[nn.Module] = [_conv(3, c, draw.kernel(5, 7), 2), nn.MaxPool2d(3, 2, 1)]
    for stage, original in enumerate((64, 128, 256, 512)):
        out = draw.channels(original)
        for i in range(2):
            stride = 2 if stage and i == 0 else 1
            middle = draw.channels(original)
            k = draw.kernel(3, 3, 5)
            body = nn.Sequential(_conv(c, middle, k, stride), _conv(middle, out, 3, act=None))
            shortcut = _conv(c, out, 1, stride, act=None) if stride != 1 or c != out else None
            layers.append(Residual(body, shortcut, act=True))
            c = out
    return nn.Sequential(*layers, *_head(c))


class Shuffle(nn.Module):
    """A ShuffleNetV2 unit: half of the channels pass (or are halved in size), then both are shuffled."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int) -> None:
        super().__init__()
        half = c_out // 2
        c_body = c_in if stride == 2 else c_in // 2
        self.stride = stride
        self.body = nn.Sequential(
            _conv(c_body, half, 1), _conv(half, half, k, stride, half, None), _conv(half, half, 1)
        )
        down = nn.Sequential(_conv(c_in, c_in, k, 2, c_in, None), _conv(c_in, half, 1))
        self.down = down if stride == 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both halves, shuffled by two."""
        left, right = (x, x) if self.down is not None else x.chunk(2, 1)
        left = left if self.down is None else self.down(left)
        y = torch.cat([left, self.body(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def _shufflenetv2(draw: Draw) -> nn.Module:
    c = draw.channels(24)
    layers: list[nn.Module] = [_conv(3, c, 3, 2), nn.MaxPool2d(3, 2, 1)]
    for original, repeats in ((116, 4), (232, 8), (464, 4)):
        out = draw.channels(original // 2) * 2
        for i in range(repeats):
            layers.append(Shuffle(c, out, draw.kernel(3, 5), 2 if i == 0 else 1))
            c = out
    last = draw.channels(1024)
    return nn.Sequential(*layers, _conv(c, last, 1), *_head(last))


def _squeezenet(draw: Draw) -> nn.Module:
    c = draw.channels(64)
    layers: list[nn.Module] = [_plain(3, c, draw.kernel(3, 5, 7), 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
    for i, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
    ):
        s, one, three = draw.channels(squeeze), draw.channels(expand), draw.channels(expand)
        layers += [_plain(c, s, 1), Branches(_plain(s, one, 1), _plain(s, three, draw.kernel(3, 3, 5)))]
        c = one + three
        if i in (1, 3):
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    return nn.Sequential(*layers, _plain(c, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
