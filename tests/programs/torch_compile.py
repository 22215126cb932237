"""torch.compile with the whole graph, with graph breaks, of a module; torch.func, fx, export and scripts."""

import torch
import torch.nn.functional as F
from torch.func import grad, vmap

torch.manual_seed(0)


def helper(x, w):
    for _ in range(2):
        x = F.gelu(x @ w)
    with torch.no_grad():
        scale = x.abs().max()
    return [torch.sin(v) * scale for v in (x, x + 1)]


@torch.compile(fullgraph=True, backend="eager")
def whole(x, w):
    a, b = helper(x, w)
    x @= w
    return a.sum() + b.max() + max(x.shape) + len([i for i in range(3) if i])


@torch.compile(backend="eager")
def broken(x):
    y = x + 1
    print("a graph break")
    return torch.cos(y).sum()


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(self.layer(x) @ x).sum()


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x).sum()


x, w = torch.rand(4, 4), torch.rand(4, 4)
print(f"{whole(x.clone(), w):.5f} {broken(x):.5f}")
model = torch.compile(Model(), backend="eager", fullgraph=True)
print(f"{model(x):.5f} {scripted(x):.5f} {vmap(grad(lambda t: (t * t).sum()))(x).sum():.5f}")
print(torch.fx.symbolic_trace(Model()).code.strip().splitlines()[0])
print(torch.export.export(Model(), (x,)).module()(x).shape)
