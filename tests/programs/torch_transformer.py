"""A tiny transformer that learns to reverse sequences, with masks and a custom autograd function."""

import math

import torch
from torch import nn

torch.manual_seed(2)


class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(-5, 5)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Reverser(nn.Module):
    def __init__(self, words=8, width=16):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        place = torch.arange(6).unsqueeze(1) * torch.exp(
            torch.arange(0, width, 2) * (-math.log(100.0) / width)
        )
        self.register_buffer("place", torch.stack([place.sin(), place.cos()], -1).flatten(1))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True), 1)
        self.head = nn.Linear(width, words)

    def forward(self, tokens):
        return Clamp.apply(self.head(self.body(self.embed(tokens) + self.place)))


model = Reverser()
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
for step in range(20):
    tokens = torch.randint(0, 8, (32, 6))
    loss = nn.functional.cross_entropy(model(tokens).transpose(1, 2), tokens.flip(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(step, round(loss.item(), 4))
attention = torch.softmax(torch.eye(3) @ torch.ones(3, 3).T / math.sqrt(3), -1)
attention @= torch.eye(3)
print(attention.sum().item(), [tuple(p.shape) for p in model.parameters()][:3])
