"""torch.compile around a step, with the compiler's graph captured and checked against eager."""

import sys

import torch
from torch import nn

BACKEND = sys.argv[1] if len(sys.argv) > 1 else "aot_eager"


def features(x):
    return torch.cat([x, x.square(), torch.sin(3 * x)], dim=1)


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        return self.inner(features(x))


@torch.compile(backend=BACKEND)
def step_loss(model, x, y):
    return nn.functional.mse_loss(model(x), y)


def main():
    torch.manual_seed(5)
    x = torch.linspace(-1, 1, 256).unsqueeze(1)
    y = torch.sin(3 * x) + 0.5 * x**2
    model = Regressor()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = step_loss(model, x, y)
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    eager = nn.functional.mse_loss(model(x), y)
    print(f"fell: {history[-1] < history[0]}, last {history[-1]:.3f}")
    print("agrees with eager:", torch.allclose(step_loss(model, x, y), eager, atol=1e-5))
    return 0


if __name__ == "__main__":
    sys.exit(main())
