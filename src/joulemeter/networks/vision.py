"""Networks of torchvision's own building blocks: ResNet, EfficientNet, ConvNeXt, ViT, Swin, RegNet, VGG;
stock or resampled.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from joulemeter.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

NAMES = ("resnet", "efficientnet", "convnext", "vit", "swin", "regnet", "vgg", "mobilenetv3")

_DECLARED: list[Any] = []
"""Libraries of declared operators: they last as long as the object does."""


def torchvision() -> Any:
    """The package, also where its compiled operators do not load (built for another PyTorch): the networks
    here use none of them, but its import wants them declared. Raises UsageError where it is not installed."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("torchvision is not installed", "pip install torchvision")
    folder = Path(spec.submodule_search_locations[0])
    if not _DECLARED and not _loads(folder):
        text = (folder / "_meta_registrations.py").read_text()
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in sorted(set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', text))):
            library.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
    return importlib.import_module("torchvision")


def _loads(folder: Path) -> bool:
    try:
        torch.ops.load_library(str(next(iter(folder.glob("_C*.so")))))  # type: ignore[no-untyped-call]
    except (OSError, StopIteration, RuntimeError):
        return False
    return True


def stock(name: str, size: int = 224, batch: int = 1) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """torchvision's own network ``name``, random weights, on ``batch`` images of ``size``."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        """Module and images."""
        plain = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        module = torchvision().models.get_model(name, weights=None, **plain).eval()
        return module, (torch.rand(batch, 3, size, size),)

    return build


def variant(name: str, rng: np.random.Generator) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
    """One network of ``name``'s blocks with widths, depths and image drawn anew; never a stock one."""

    def build() -> tuple[Any, tuple[Any, ...]]:
        """Module and image."""
        models = torchvision().models
        module = {
            "resnet": _resnet,
            "efficientnet": _efficientnet,
            "convnext": _convnext,
            "vit": _vit,
            "swin": _swin,
            "regnet": _regnet,
            "vgg": _vgg,
            "mobilenetv3": _mobilenetv3,
        }[name](models, rng)
        size = 224 if name in ("vit", "swin") else int(rng.choice([160, 192, 224, 240]))
        return module.eval(), (torch.rand(1, 3, size, size),)

    return build


def _resnet(models: Any, rng: np.random.Generator) -> Any:
    block, groups, width = [
        (models.resnet.BasicBlock, 1, 64),
        (models.resnet.Bottleneck, 1, int(rng.choice([40, 56, 72, 96]))),
        (models.resnet.Bottleneck, int(rng.choice([8, 16])), int(rng.choice([6, 10, 12]))),
    ][int(rng.integers(3))]
    depths = [
        int(rng.integers(1, 4)),
        int(rng.integers(2, 5)),
        int(rng.integers(2, 8)),
        int(rng.integers(1, 4)),
    ]
    return models.resnet.ResNet(block, depths, groups=groups, width_per_group=width)


def _efficientnet(models: Any, rng: np.random.Generator) -> Any:
    wide, deep = float(rng.uniform(0.6, 1.3)), float(rng.uniform(0.6, 1.3))
    conf = models.efficientnet.MBConvConfig
    rows = [
        (1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3),
        (6, 5, 1, 80, 112, 3), (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1),
    ]  # fmt: skip
    setting = [conf(*row[:5], row[5], width_mult=wide, depth_mult=deep) for row in rows]
    return models.efficientnet.EfficientNet(setting, dropout=0.2, last_channel=None)


def _convnext(models: Any, rng: np.random.Generator) -> Any:
    conf = models.convnext.CNBlockConfig
    first = int(rng.choice([48, 64, 80, 112]))
    depths = [
        int(rng.integers(1, 4)),
        int(rng.integers(1, 4)),
        int(rng.integers(3, 9)),
        int(rng.integers(1, 4)),
    ]
    widths = [first * 2**i for i in range(5)]
    setting = [conf(widths[i], widths[i + 1] if i < 3 else None, depths[i]) for i in range(4)]
    return models.convnext.ConvNeXt(setting)


def _vit(models: Any, rng: np.random.Generator) -> Any:
    heads, deep = int(rng.choice([3, 4, 6, 8, 10])), int(rng.integers(3, 13))
    patch = int(rng.choice([14, 16, 28, 32]))
    width = heads * 64
    hidden = int(rng.choice([2, 3, 4])) * width
    return models.VisionTransformer(224, patch, deep, heads, width, hidden)


def _swin(models: Any, rng: np.random.Generator) -> Any:
    first = int(rng.choice([1, 2, 3, 5])) * 2
    depths = [2, 2, int(rng.choice([2, 4, 6])), 2]
    heads = [first * 2**i // 2 for i in range(4)]
    return models.SwinTransformer([4, 4], first * 16, depths, heads, [7, 7])


def _regnet(models: Any, rng: np.random.Generator) -> Any:
    se = 0.25 if rng.random() < 0.5 else None
    params = models.regnet.BlockParams.from_init_params(
        depth=int(rng.integers(11, 22)),
        w_0=int(rng.choice([24, 40, 56, 72])),
        w_a=float(rng.uniform(20, 40)),
        w_m=float(rng.uniform(2.1, 2.7)),
        group_width=int(rng.choice([8, 16, 24, 40])),
        se_ratio=se,
    )
    return models.RegNet(params)


def _vgg(models: Any, rng: np.random.Generator) -> Any:
    widths = [max(16, round(n * float(rng.uniform(0.5, 1.1)) / 8) * 8) for n in (64, 128, 256, 512, 512)]
    layers = [each for n in widths for each in ([n] * int(rng.integers(1, 4)) + ["M"])]
    features = models.vgg.make_layers(layers, batch_norm=bool(rng.random() < 0.5))
    vgg = models.VGG(features, init_weights=False)
    vgg.classifier[0] = torch.nn.Linear(widths[-1] * 49, 4096)
    return vgg


def _mobilenetv3(models: Any, rng: np.random.Generator) -> Any:
    kind = ("mobilenet_v3_large", "mobilenet_v3_small")[int(rng.integers(2))]
    setting, last = models.mobilenetv3._mobilenet_v3_conf(
        kind, width_mult=float(rng.choice([0.6, 0.8, 1.2, 1.4]))
    )
    return models.MobileNetV3(setting, last)
