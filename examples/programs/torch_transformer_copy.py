"""A two-layer transformer encoder that learns to reverse short sequences."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Config:
    vocabulary: int = 12
    length: int = 6
    width: int = 32
    heads: int = 4
    layers: int = 2
    steps: int = 60


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(2))
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.mix = nn.Linear(config.width, config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )

    def attend(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        return self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.attend(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Reverser(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.places = nn.Parameter(torch.zeros(config.length, config.width))
        self.blocks = nn.Sequential(*[Block(config) for _ in range(config.layers)])
        self.head = nn.Linear(config.width, config.vocabulary)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, ids):
        return self.head(self.blocks(self.tokens(ids) + self.places))


def main(config: Config = Config()) -> None:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    model = Reverser(config)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{type(model).__name__} with {parameters} parameters")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(config.steps):
        ids = torch.randint(config.vocabulary, (64, config.length), generator=generator)
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), ids.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            print(f"step {step + 1}: loss {loss.item():.2f}")
    ids = torch.arange(config.length).unsqueeze(0)
    with torch.no_grad():
        print("shape of the answer:", tuple(model(ids).argmax(-1).shape))


if __name__ == "__main__":
    main()
