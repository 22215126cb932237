"""What a tracer of PyTorch saw: operator calls and the tensors that they read and write."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from joulemeter.kernel import DTYPE_BYTES

WRAPS = frozenset((
    "wrap_with_autocast", "wrap_with_set_grad_enabled", "tag_activation_checkpoint", "hints_wrapper", "wrap",
    "invoke_subgraph",
))  # fmt: skip
"""Operators of PyTorch's higher order that run a graph of their own once, on the operands that follow it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a traced program; ``strides`` in elements, ``constant`` where it is a weight or buffer."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str = "float32"
    constant: bool = False

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie in row-major order without holes."""
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return False
            expected *= n
        return True

    @property
    def layout(self) -> str:
        """``channels-last`` where the channels of an image lie next to each other."""
        image = len(self.shape) in (4, 5) and self.shape[1] > 1 and self.strides[1] == 1
        return "channels-last" if image and not self.contiguous else ""

    @property
    def bytes(self) -> float:
        """Bytes of its numbers; NaN for a dtype nobody has sized."""
        return math.prod(self.shape) * DTYPE_BYTES.get(self.dtype, math.nan)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call: ``operator`` without namespace and overload (``conv2d``), arguments by schema
    name.
    """

    operator: str
    name: str
    arguments: Mapping[str, Any]
    results: tuple[Tensor, ...]
    module: str = ""
    namespace: str = "aten"
    tensors: tuple[Tensor, ...] = field(default=())

    def get(self, name: str, otherwise: Any = None) -> Any:
        """The argument ``name``, or ``otherwise`` where it was left out or None."""
        value = self.arguments.get(name)
        return otherwise if value is None else value

    @property
    def first(self) -> Tensor:
        """The first tensor it reads."""
        return self.tensors[0]

    @property
    def in_place(self) -> bool:
        """Whether it overwrites its first operand."""
        return self.operator.endswith("_") and not self.operator.endswith("__")


def viewable(shape: Sequence[int], strides: Sequence[int], result: Sequence[int]) -> bool:
    """Whether a tensor can be seen as ``result`` without a copy: each run of its dimensions that merges
    must hold whole dimensions of the result (as ``at::detail::computeStride``)."""
    runs: list[int] = []
    expected = None
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if runs and expected == n * stride:
            runs[-1] *= n
        else:
            runs.append(n)
        expected = stride
    wanted = [n for n in result if n != 1]
    for run in runs:
        held = 1
        while wanted and held < run:
            held *= wanted.pop(0)
        if held != run:
            return False
    return not wanted


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(each)
