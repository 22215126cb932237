"""Two ranks, gloo on the CPU: a few steps of gradient averaging, and a sum that shows they met."""

import sys
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
model = torch.nn.Linear(64, 64)
until = time.monotonic() + float(sys.argv[1]) * (1 + 0.5 * rank)  # ranks end at different times
while time.monotonic() < until:
    torch.nn.functional.linear(torch.randn(64, 64), model.weight).sum().backward()
together = torch.ones(1) * (rank + 1)
dist.all_reduce(together)
# One write: torchrun's workers are unbuffered, where print() writes the line and its end apart and ranks interleave.
sys.stdout.write(f"rank {rank} of {dist.get_world_size()}: {together.item():.0f}\n")
dist.destroy_process_group()
