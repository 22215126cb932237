"""Six applications to score a device by: what comes in, a reference network, what goes out.

Detection, classification, super resolution, segmentation, question answering and speech recognition, the
tasks of the published tables, with networks of the same kinds (docs/scores.md) and random weights: a
multiplication costs the same whatever it multiplies. Inputs are made once, from a seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from joulemeter.isolate import Isolated, Stage, isolate_all
from joulemeter.networks import language, vision
from joulemeter.reading import Origin
from joulemeter.record import Record

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Application:
    """A task, the network that does it, and how to get it ready: ``build()`` gives one call of all of it."""

    task: str
    network: str
    build: Callable[[], Call]


def applications() -> tuple[Application, ...]:
    """The set. Nothing is built before ``build`` is called; building needs torchvision."""
    return (
        Application("detection", "ssd-mobilenetv2-300", detection),
        Application("classification", "efficientnet-b0-224", lambda: classification("efficientnet_b0")),
        Application("classification", "mobilenetv2-224", lambda: classification("mobilenet_v2")),
        Application("super resolution", "esrgan-50", super_resolution),
        Application("segmentation", "deeplabv3-mobilenetv3-257", segmentation),
        Application("question answering", "bert-128x24", question_answering),
        Application("speech recognition", "conv-actions", speech),
    )


# ── the six ──────────────────────────────────────────────────────────────────────────────────────────


def _photo(height: int = 480, width: int = 640) -> torch.Tensor:
    """A camera's picture: uint8 (height, width, 3)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def _sized(photo: torch.Tensor, size: int) -> torch.Tensor:
    """The picture as a network takes it: float (1, 3, size, size), each channel about 0 with deviation 1."""
    whole = photo.permute(2, 0, 1)[None].float() / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    small = functional.interpolate(whole, (size, size), mode="bilinear", antialias=True)
    return (small - mean[:, None, None]) / deviation[:, None, None]


def classification(name: str, size: int = 224) -> Call:
    """A picture's five likeliest classes by torchvision's ``name``."""
    module, _ = vision.stock(name, size)()
    photo = _photo()
    return lambda: torch.topk(functional.softmax(module(_sized(photo, size)), -1), 5)


def detection(size: int = 300, classes: int = 91, anchors: int = 3) -> Call:
    """Boxes by MobileNetV2's features and one convolution, less those that a better one covers by half."""
    features = vision.torchvision().models.mobilenet_v2(weights=None).features.eval()
    head = nn.Conv2d(1280, anchors * (classes + 4), 1)
    photo = _photo()

    def call() -> torch.Tensor:
        """The numbers of the boxes that one photo is left with."""
        out = head(features(_sized(photo, size))).reshape(1, anchors, classes + 4, -1).permute(0, 1, 3, 2)
        flat = out.reshape(-1, classes + 4)
        scores = functional.softmax(flat[:, 4:], -1)[:, 1:].amax(-1)
        return _suppressed(torch.sigmoid(flat[:, :4]), scores)

    return call


def _suppressed(boxes: torch.Tensor, scores: torch.Tensor, most: int = 100) -> torch.Tensor:
    """The best of boxes (n, 4: left, top, width, height) that overlap by half or more."""
    order = scores.argsort(descending=True)[:most]
    corners = torch.cat([boxes[order, :2], boxes[order, :2] + boxes[order, 2:]], 1)
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (corners[:, 2:] - corners[:, :2]).prod(-1)
    overlap = shared / (area[:, None] + area[None] - shared).clamp(min=1e-9)
    better = torch.tril(overlap, diagonal=-1).amax(-1)
    return order[better < 0.5]


class Dense(nn.Module):
    """ESRGAN's residual dense block: five convolutions, each on all that came before (Wang et al. 2018)."""

    def __init__(self, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        grow = [nn.Conv2d(width + k * growth, growth, 3, padding=1) for k in range(4)]
        self.steps = nn.ModuleList([*grow, nn.Conv2d(width + 4 * growth, width, 3, padding=1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width, height, width) to the same."""
        seen = x
        for step in list(self.steps)[:-1]:
            seen = torch.cat([seen, functional.leaky_relu(step(seen), 0.2)], 1)
        result: torch.Tensor = x + 0.2 * self.steps[-1](seen)
        return result


def super_resolution(size: int = 50, blocks: int = 23) -> Call:
    """A small picture four times as large, by ESRGAN's generator of ``blocks`` × 3 dense blocks."""
    dense = [Dense() for _ in range(3 * blocks)]
    up = [layer for _ in range(2) for layer in (nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1))]
    module = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *dense, *up, nn.Conv2d(64, 3, 3, padding=1)).eval()
    photo = _photo(size, size)
    return lambda: (module(_sized(photo, size)).clamp(0, 1) * 255).to(torch.uint8)


def segmentation(size: int = 257) -> Call:
    """The class of every pixel by torchvision's DeepLabv3 on MobileNetV3, as large as the picture."""
    models = vision.torchvision().models.segmentation
    module = models.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    photo = _photo()

    def call() -> torch.Tensor:
        """The class of each pixel of one photo."""
        found: torch.Tensor = module(_sized(photo, size))["out"]
        return functional.interpolate(found, photo.shape[:2], mode="bilinear").argmax(1)

    return call


WORDS = ("the", "energy", "of", "a", "network", "is", "spent", "where", "its", "numbers", "are", "moved")


def question_answering(tokens: int = 384, deep: int = 24) -> Call:
    """Where the answer begins and ends in a passage, by a narrow, deep BERT."""
    module, head = language.text("bert", 30_522, tokens, 128, 4, 512, deep), nn.Linear(128, 2)
    passage = " ".join(WORDS[i % len(WORDS)] for i in range(tokens))

    def call() -> tuple[int, int]:
        """Where the answer begins and ends in the passage."""
        ids = torch.tensor([[hash_of(word) for word in passage.split()]])
        begin, end = head(module(ids))[0].unbind(-1)
        # A begin and an end after it, likeliest together.
        both = torch.triu(begin[:, None] + end[None, :]).flatten().argmax()
        return int(both) // tokens, int(both) % tokens

    return call


def hash_of(word: str) -> int:
    """A number for a word, the same in every process (``hash`` is not): stands in for a vocabulary."""
    number = 0
    for letter in word:
        number = (number * 31 + ord(letter)) % 30_522
    return number


def speech(rate_hz: int = 16_000, words: int = 12) -> Call:
    """Which word a second of sound is, by two convolutions on its spectrogram (Sainath, Parada 2015)."""
    module = nn.Sequential(
        nn.Conv2d(1, 64, (20, 8), padding=(10, 4)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, (10, 4), padding=(5, 2)), nn.ReLU(), nn.Flatten(), nn.LazyLinear(words),
    ).eval()  # fmt: skip
    sound = torch.randn(rate_hz, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(480)

    def call() -> int:
        """The command that one second of sound says."""
        power = torch.stft(sound, 512, 160, 480, window, return_complex=True).abs() ** 2
        bands = functional.adaptive_avg_pool2d(power.T[None, None], (98, 40))
        return int(module(torch.log(bands + 1e-6)).argmax())

    return call


# ── measuring them ───────────────────────────────────────────────────────────────────────────────────


def processors() -> dict[str, int]:
    """Threads by processor: ``CPU1``, and ``CPU4`` where four cores are free to this process."""
    cores = len(os.sched_getaffinity(0))
    return {"CPU1": 1} | ({"CPU4": 4} if cores >= 4 else {})


def measured(
    stage: Stage, device: str, chosen: tuple[Application, ...] = (), ci: float = 0.05, limit_s: float = 20.0
) -> list[Record]:
    """A record of every application on every processor, each repeated for at most ``limit_s`` seconds.

    ``energy_j`` is gross: what the machine took meanwhile, its rest included, as a battery sees it.
    """
    records = []
    for application in chosen or applications():
        torch.manual_seed(0)
        with torch.inference_mode():
            call = application.build()
            call()
        for processor, threads in processors().items():
            with _threads(threads), torch.inference_mode():
                found = isolate_all({application.network: call}, stage, ci=ci, limit_s=limit_s)
            records.append(_record(application, processor, device, found))
    return records


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(
    application: Application, processor: str, device: str, all_found: Mapping[str, Isolated]
) -> Record:
    found = all_found[application.network]
    gross, net = found.gross, found.energy
    return Record(
        level="application",
        family=application.task,
        origin=cast("Origin", found.origin),
        network=application.network,
        device=device,
        backend=processor,
        time_s=found.time.value,
        time_low_s=found.time.low,
        time_high_s=found.time.high,
        power_w=gross.energy_j / found.time.value if found.time.value > 0 else float("nan"),
        idle_power_w=found.rest_w.value,
        energy_j=gross.energy_j,
        energy_low_j=gross.low_j,
        energy_high_j=gross.high_j,
        net_energy_j=net.energy_j,
        net_low_j=net.low_j,
        net_high_j=net.high_j,
        repeats=found.calls,
        facts={"notes": list(found.notes), "reached": found.reached},
    )
