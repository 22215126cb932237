"""A recurrent cell written by hand, a custom optimizer, and a script with its own command line."""

import argparse

import torch
from torch import nn, optim


class Signs(optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


class Cell(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.i = nn.Linear(inputs, width)
        self.h = nn.Linear(width, width, bias=False)

    def forward(self, xs):
        h = torch.zeros(xs.shape[1], self.h.in_features)
        return torch.stack([h := torch.tanh(self.i(x) + self.h(h)) for x in xs])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.manual_seed(3)
    cell, head = Cell(1, 8), nn.Linear(8, 1)
    optimizer = Signs([*cell.parameters(), *head.parameters()], lr=0.01)
    wave = torch.sin(torch.linspace(0, 6, 21)).reshape(21, 1, 1)
    for _ in range(arguments.steps):
        loss = nn.functional.mse_loss(head(cell(wave[:-1])), wave[1:])
        cell.zero_grad()
        head.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{loss.item():.6f}")


if __name__ == "__main__":
    main()
