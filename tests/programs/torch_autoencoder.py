"""A convolutional autoencoder with hooks, parameter groups, gradient clipping and a saved state."""

import io

import torch
from torch import nn

torch.manual_seed(1)
encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
decoder = nn.Sequential(nn.ConvTranspose2d(4, 1, 2, stride=2), nn.Sigmoid())
model = nn.Sequential(encoder, decoder)
shapes = []
handle = encoder.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
optimizer = torch.optim.SGD(
    [{"params": encoder.parameters()}, {"params": decoder.parameters(), "lr": 0.5}], lr=0.1
)
x = torch.rand(16, 1, 8, 8)
for _ in range(5):
    loss = ((model(x) - x) ** 2).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
handle.remove()
file = io.BytesIO()
torch.save(model.state_dict(), file)
file.seek(0)
model.load_state_dict(torch.load(file, weights_only=True))
print(f"{loss:.6f} {norm:.6f} {shapes[0]} {len(shapes)} {sum(p.numel() for p in model.parameters())}")
