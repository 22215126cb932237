"""Masked scores whose exponentials are subnormal numbers: seen in the graph, their share computed."""

import pytest

from joulemeter import kernels
from joulemeter.graphs import torch_export
from joulemeter.kernel import Kernel
from joulemeter.network import Network

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


class Masked(nn.Module):
    """Attention over 4 places, of which the first ``hidden`` are lowered by ``depth``."""

    def __init__(self, depth: float, hidden: int = 1) -> None:
        super().__init__()
        self.depth, self.hidden = depth, hidden

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = x.new_zeros((4, 4))
        mask[:, : self.hidden] = 1
        mask = mask.masked_fill(mask != 0, self.depth)
        scores = torch.matmul(x, x.transpose(-2, -1)) + mask.unsqueeze(0)
        return torch.matmul(torch.softmax(scores, -1), x)


def percent(network: Network) -> list[object]:
    return [
        kernel.shape.get("subnormal") for kernel in network.kernels if kernel.family in ("softmax", "matmul")
    ]


def test_a_mask_of_minus_100_makes_a_quarter_of_the_exponentials_subnormal() -> None:
    read = torch_export.from_module(Masked(-100.0), (torch.rand(2, 4, 8),))
    assert percent(read) == [None, 25, 25]


def test_a_mask_so_low_that_exponentials_are_zero_costs_nothing() -> None:
    assert percent(torch_export.from_module(Masked(-1e9), (torch.rand(2, 4, 8),))) == [None] * 3


def test_a_mask_that_depends_on_the_input_is_taken_as_usual() -> None:
    class Padded(nn.Module):
        def forward(self, x: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
            mask = torch.zeros_like(pad).masked_fill(pad != 0, -100.0)
            return torch.matmul(torch.softmax(torch.matmul(x, x.transpose(-2, -1)) + mask, -1), x)

    read = torch_export.from_module(Padded(), (torch.rand(2, 4, 8), torch.rand(4, 4)))
    assert percent(read) == [None, 25, 25]


def test_such_a_product_is_benched_with_such_numbers() -> None:
    kernel = Kernel("matmul", {"products": 2, "rows": 8, "inner": 8, "columns": 8, "subnormal": 40})
    first, second = kernels.form(kernel).inputs
    assert first.rare[0] == 0.4
    assert 0 < first.rare[1] < 1.18e-38
    assert second.rare == (0.0, 0.0)
