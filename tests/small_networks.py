"""Small networks of the kinds that converters take apart, with no number zero or one that could be left out.

    python tests/small_networks.py FOLDER     # in an environment with litert-torch

writes the `.tflite` files of tests/data/small_networks (litert-torch 0.10, PyTorch 2.13).
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

NAMES = ("vit", "swin", "convnext", "mobilenet", "efficientnet", "gpt2", "bert")


def small(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """One of NAMES, and its arguments."""
    from joulemeter.networks import language
    from joulemeter.networks.vision import torchvision

    torch.manual_seed(0)
    models: Any = torchvision().models
    image = (torch.rand(1, 3, 32, 32),)
    if name in ("gpt2", "bert"):
        module, arguments = language.text(name, 50, 8, 16, 2, 32, 1), (torch.randint(50, (1, 8)),)
    elif name == "vit":
        module, arguments = models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5), image
    elif name == "swin":
        module, arguments = models.SwinTransformer([4, 4], 8, [2, 1], [2, 2], [4, 4], num_classes=5), image
    elif name == "convnext":
        configs = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]
        module, arguments = models.ConvNeXt(configs, num_classes=5), image
    elif name == "mobilenet":
        settings = [[1, 8, 1, 1], [6, 8, 2, 2]]
        module, arguments = models.MobileNetV2(5, 0.25, settings), image
    else:
        blocks = [models.efficientnet.MBConvConfig(2, 3, 2, 8, 8, 2)]
        module, arguments = models.EfficientNet(blocks, 0.0, num_classes=5, last_channel=16), image
    with torch.no_grad():
        for each in module.parameters():
            each.normal_(0.3, 0.1)
    return module.eval(), arguments


if __name__ == "__main__":
    import litert_torch

    for each in NAMES:
        network, example = small(each)
        litert_torch.convert(network, example).export(str(Path(sys.argv[1]) / f"{each}.tflite"))
