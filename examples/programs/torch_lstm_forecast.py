"""An LSTM that forecasts a noisy sine: schedulers, gradient clipping, a generator of batches."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def series(length: int) -> Tensor:
    t = torch.arange(length, dtype=torch.float32)
    return torch.sin(2 * math.pi * t / 25) + 0.1 * torch.randn(length)


def windows(values: Tensor, width: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (window, next value), in order."""
    frames = values.unfold(0, width + 1, 1)
    for chunk in torch.split(frames, batch):
        yield chunk[:, :-1].unsqueeze(-1), chunk[:, -1]


class Forecaster(nn.Module):
    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.rnn = nn.LSTM(1, hidden, num_layers=2, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x)
        return self.out(states[:, -1]).squeeze(-1)


def main() -> None:
    torch.manual_seed(2)
    values = series(600)
    model = Forecaster()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    huber = nn.HuberLoss()
    for epoch in range(4):
        total, count = 0.0, 0
        for x, y in windows(values[:500], width=30, batch=64):
            optimizer.zero_grad()
            loss = huber(model(x), y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert torch.isfinite(norm)
            optimizer.step()
            total, count = total + loss.item() * len(y), count + len(y)
        scheduler.step()
        print(f"epoch {epoch}: huber {total / count:.3f}, lr {scheduler.get_last_lr()[0]:.4f}")
    with torch.no_grad():
        errors = torch.cat([(model(x) - y).abs() for x, y in windows(values[500:], 30, 70)])
    print(f"mean absolute error on {errors.numel()} held-out windows: {errors.mean():.2f}")


main()
