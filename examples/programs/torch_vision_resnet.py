"""torchvision's ResNet-18 on made-up images: transforms, eval mode, features by hook, async pipeline."""

import asyncio

import torch
from torchvision import models
from torchvision.transforms import v2


def images(count):
    generator = torch.Generator().manual_seed(8)
    for _ in range(count):
        yield torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8, generator=generator)


async def prepare(queue, count):
    pipeline = v2.Compose(
        [v2.Resize(64, antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    )
    for image in images(count):
        await queue.put(pipeline(image))
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
    model = models.resnet18(weights=None, num_classes=7).eval()
    pooled = []
    model.avgpool.register_forward_hook(lambda module, args, output: pooled.append(output.flatten(1)))
    queue = asyncio.Queue(maxsize=2)
    _, shapes = await asyncio.gather(prepare(queue, 4), classify(queue, model))
    print("answers:", shapes)
    print("features:", tuple(torch.cat(pooled).shape), f"positive {bool((torch.cat(pooled) >= 0).all())}")


asyncio.run(main())
