"""Kernel families: one file, one family and its variants; found by scanning this folder.

A family's file says what the operands and results are, how many FLOPs they take (the algebra above each
line), which shapes to sample, and how to launch it in PyTorch and as an ONNX node. Work follows from the
operands: every input and weight is read once, every result written once.
"""

from __future__ import annotations

import difflib
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, cast

from joulemeter.errors import UsageError
from joulemeter.kernel import DTYPE_BYTES, Kernel, Work

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor a kernel reads or writes. ``layout`` is ``""`` (row-major) or ``channels-last``.

    Integers are drawn from 0 to ``below`` − 1. ``read`` is the share of it that the kernel touches. ``rare``
    is a share of the numbers and the value they have, where some values are slower than others. A
    ``statistic`` (a running mean) has no gradient.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = ""
    below: int = 2
    read: float = 1.0
    rare: tuple[float, float] = (0.0, 0.0)
    statistic: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes the kernel moves of it."""
        return self.elements * DTYPE_BYTES[self.dtype] * self.read


@dataclass(frozen=True, slots=True)
class Form:
    """What a kernel is made of. ``inputs`` come from another kernel, ``weights`` from the network.

    ``flops`` counts a multiply and an add as two; ``multiply_adds`` are those of products of matrices and
    convolutions (the figure papers quote), a part of ``flops``.
    """

    inputs: tuple[Operand, ...]
    weights: tuple[Operand, ...]
    results: tuple[Operand, ...]
    flops: float
    multiply_adds: float = 0.0


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One node of an ONNX model: operator, names read and written, attributes, constant operands."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Sequence[float] | Sequence[int]] = field(default_factory=dict)


class Family(Protocol):
    """What a file of this folder offers. ``NAMES`` are the families it knows."""

    NAMES: tuple[str, ...]

    def form(self, kernel: Kernel) -> Form:
        """The operands, results and FLOPs of a launch (forward)."""

    def sample(self, name: str, rng: np.random.Generator) -> Kernel:
        """A shape drawn around those of real networks' layers."""

    def torch(self, kernel: Kernel) -> Callable[..., Any]:
        """A function of the inputs, then the weights, that launches it in PyTorch."""

    def onnx(self, kernel: Kernel) -> tuple[OnnxNode, ...]:
        """Its nodes: inputs ``x0``, ``x1`` …, weights ``w0`` …, results ``y0`` …; empty where ONNX has
        none.
        """


@cache
def families() -> dict[str, Family]:
    """Every family by name: those of this folder, then of other packages' ``joulemeter.kernels`` entry
    points.
    """
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        file = cast("Family", importlib.import_module(f"{__name__}.{module.name}"))
        found.update(dict.fromkeys(file.NAMES, file))
    for point in entry_points(group="joulemeter.kernels"):
        file = cast("Family", point.load())
        found.update(dict.fromkeys(file.NAMES, file))
    return found


def family(name: str) -> Family:
    """The family called ``name``; raises UsageError where there is none."""
    if name not in families():
        near = difflib.get_close_matches(name, families(), n=3, cutoff=0.5)
        remedy = " or ".join(near) or "one of those that joulemeter bench --list names"
        raise UsageError(f"there is no kernel family '{name}'", remedy)
    return families()[name]


@lru_cache(maxsize=65536)
def form(kernel: Kernel) -> Form:
    """The operands, results and FLOPs of ``kernel``'s forward launch."""
    return family(kernel.family).form(kernel)


def work(kernel: Kernel) -> Work:
    """The least work of ``kernel``: FLOPs and bytes, each operand and result once."""
    made = form(kernel)
    read_bytes = math.fsum(each.bytes for each in made.inputs + made.weights)
    write_bytes = math.fsum(each.bytes for each in made.results)
    parameters = float(sum(each.elements for each in made.weights))
    return Work(float(made.flops), read_bytes, write_bytes, parameters)


def multiply_adds(kernel: Kernel) -> float:
    """Multiply-adds of ``kernel``'s products, the figure papers quote as GMAC."""
    return float(form(kernel).multiply_adds)


def around(rng: np.random.Generator, value: int, octaves: float = 0.7, multiple: int = 1) -> int:
    """A whole number near ``value`` on a log scale, at least ``multiple`` and divisible by it."""
    drawn = value * 2.0 ** rng.uniform(-octaves, octaves)
    return max(multiple, round(float(drawn) / multiple) * multiple)


def channels(rng: np.random.Generator, value: int) -> int:
    """A channel count near ``value``, mostly a multiple of 8, 16 or 32, as networks like them."""
    if value <= 4:
        return value
    multiple = int(rng.choice([1, 8, 16, 32], p=[0.1, 0.3, 0.35, 0.25]))
    return around(rng, value, 0.8, multiple if value >= 2 * multiple else 1)


def pick(rng: np.random.Generator, rows: Sequence[Any]) -> Any:
    """One of ``rows``, all alike."""
    return rows[int(rng.integers(len(rows)))]


def batch_size(rng: np.random.Generator) -> int:
    """A batch: mostly 1, as in inference, now and then 2 to 8."""
    return int(rng.choice([1, 1, 1, 1, 1, 1, 2, 4, 8]))
