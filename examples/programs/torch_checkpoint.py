"""Training interrupted, saved, loaded and continued; classes of __main__ pickled; a user's exception."""

import io
import pickle
import tempfile
from pathlib import Path

import torch
from torch import nn


class Standardiser:
    """Remembers mean and deviation; pickled by name from __main__."""

    def __init__(self, data: torch.Tensor) -> None:
        self.mean, self.std = data.mean(0), data.std(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class Diverged(RuntimeError):
    pass


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.5)


def steps(model, optimizer, x, y, count, limit=100.0):
    for _ in range(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        if not loss < limit:
            raise Diverged(f"loss above {limit}")
        loss.backward()
        optimizer.step()
    return loss.item()


def main() -> None:
    generator = torch.Generator().manual_seed(7)
    raw = torch.randn(150, 4, generator=generator) * 3 + 1
    labels = (raw.sum(1) > 4).long() + (raw[:, 0] > 1).long()
    scale = pickle.loads(pickle.dumps(Standardiser(raw)))
    x = scale(raw)

    whole, whole_optimizer = build()
    straight = steps(whole, whole_optimizer, x, labels, 60)

    first, first_optimizer = build()
    steps(first, first_optimizer, x, labels, 30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        torch.save({"model": first.state_dict(), "optimizer": first_optimizer.state_dict()}, path)
        state = torch.load(path, weights_only=True)
    second, second_optimizer = build()
    second.load_state_dict(state["model"])
    second_optimizer.load_state_dict(state["optimizer"])
    resumed = steps(second, second_optimizer, x, labels, 30)
    print(f"straight {straight:.4f}, resumed {resumed:.4f}, equal {abs(straight - resumed) < 1e-6}")

    buffer = io.BytesIO()
    torch.save(second.state_dict(), buffer)
    print("tensors saved:", len(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)))
    try:
        steps(second, second_optimizer, x, labels, 1, limit=0.0)
    except Diverged as error:
        print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
