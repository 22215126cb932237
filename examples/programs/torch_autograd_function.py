"""A custom autograd.Function, forward hooks, torch.func and a hand-written optimizer."""

import contextlib
import functools

import torch
from torch import nn
from torch.func import functional_call, grad, vmap


class Swish(torch.autograd.Function):
    """x · sigmoid(x), with its own backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s + x * s * (1 - s))


class SwishLayer(nn.Linear):
    def forward(self, x):
        return Swish.apply(super().forward(x))


class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, defaults={"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in filter(lambda p: p.grad is not None, group["params"]):
                p.add_(p.grad.sign(), alpha=-group["lr"])


@contextlib.contextmanager
def watched(model):
    """Counts how often each layer runs, and takes its hooks away afterwards."""
    counts: dict[str, int] = {}

    def count(name, module, inputs, output):
        counts[name] = counts.get(name, 0) + 1

    handles = [m.register_forward_hook(functools.partial(count, n)) for n, m in model.named_children()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


torch.manual_seed(4)
model = nn.Sequential(SwishLayer(5, 16), SwishLayer(16, 16), nn.Linear(16, 1))
x = torch.randn(128, 5)
y = (x[:, :1] * x[:, 1:2] + x[:, 2:3]).detach()
optimizer = SignSGD(model.parameters(), lr=2e-3)
with watched(model) as counts:
    for _ in range(100):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
print(f"mean square {loss.item():.2f}; layers ran {counts}")

check = torch.autograd.gradcheck(Swish.apply, (torch.randn(4, dtype=torch.float64, requires_grad=True),))
print("gradient checked:", check)

line = nn.Linear(1, 1)
weights = {name: torch.ones_like(p) for name, p in line.named_parameters()}
per_sample = vmap(
    grad(lambda w, a, b: ((functional_call(line, w, (a,)) - b) ** 2).sum()), in_dims=(None, 0, 0)
)(weights, x[:8, :1], y[:8])
print("gradients per sample:", {name: tuple(g.shape) for name, g in sorted(per_sample.items())})
