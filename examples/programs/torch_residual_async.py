"""A small residual network fed by an asyncio pipeline: features by hook, inference mode, generators."""

import asyncio

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions with a way round them."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.way_round = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.body(x)
        y += self.way_round(x)
        return y.relu_()


def network(width: int = 16) -> nn.Module:
    blocks = [Residual(width, stride) for stride in (1, 2, 1, 2)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 7))
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, head).eval()


def images(count):
    generator = torch.Generator().manual_seed(8)
    for _ in range(count):
        yield torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)


async def prepare(queue, count):
    for image in images(count):
        await queue.put((image.float() / 255 - 0.5) / 0.25)
        await asyncio.sleep(0)
    await queue.put(None)


async def classify(queue, model):
    shapes = []
    while (image := await queue.get()) is not None:
        with torch.inference_mode():
            shapes.append(tuple(model(image[None]).softmax(-1).shape))
    return shapes


async def main():
    torch.manual_seed(8)
    model = network()
    pooled = []
    model[-1][1].register_forward_hook(lambda module, args, output: pooled.append(output))
    queue = asyncio.Queue(maxsize=2)
    _, shapes = await asyncio.gather(prepare(queue, 12), classify(queue, model))
    print("answers:", len(shapes), set(shapes))
    print("features:", tuple(torch.cat(pooled).shape), f"positive {bool((torch.cat(pooled) >= 0).all())}")


asyncio.run(main())
