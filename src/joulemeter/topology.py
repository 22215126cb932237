"""Shapes of fully connected networks, solved for a depth and a number of trainable parameters.

The shapes are those of the BUTTER study (Tripp et al. 2022, arXiv:2207.12547, and BUTTER-E,
arXiv:2403.08151). With output width o, depth D (the output layer counts) and one free integer w:

    rectangle      [w]·(D−1) + [o]
    trapezoid      round(w − k(w−o)/(D−1)),            k = 0 … D−1
    exponential    max(o, round(w·β^k)),  β = exp(ln(o/w)/(D−1)),  k = 0 … D−1
    wide_first_m   [w] + [max(1, round(w/m))]·(D−2) + [o],   m = 2, 4, 5, 8, 10, 16, 20

``round`` is Python's, half to even. A name with ``_residual`` has the same widths, and adds each
hidden layer's input to its output where the widths are equal; that costs no parameters. The
study writes ``wide_first_4x``; with and without the ``x`` are the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from joulemeter.errors import UsageError

DIVISORS = (2, 4, 5, 8, 10, 16, 20)
SHAPES = (
    "rectangle",
    "trapezoid",
    "exponential",
    *(f"wide_first_{m}x" for m in DIVISORS),
    "rectangle_residual",
    *(f"wide_first_{m}x_residual" for m in DIVISORS),
)
WIDEST = 2**30


class Topology(NamedTuple):
    """A solved network: ``widths`` of all layers, output layer last, and its trainable ``parameters``.

    Law: ``parameters`` is Σ (previous width + 1)·width, the first previous being the inputs. It unpacks
    as the pair it is.
    """

    widths: list[int]
    parameters: int


def widths(shape: str, *, width: int, depth: int, outputs: int) -> list[int]:
    """The widths of ``shape`` when its free width is ``width``; length ``depth``, output layer last.

    Raises UsageError for an unknown shape or a depth below 2. Formulas: see the module.
    """
    if depth < 2 or width < 1 or outputs < 1:
        raise UsageError(
            f"no network has depth {depth}, width {width} and {outputs} outputs", "depth ≥ 2, the others ≥ 1"
        )
    plain = shape.removesuffix("_residual")
    if plain == "rectangle":
        return [width] * (depth - 1) + [outputs]
    if plain == "trapezoid":
        return [round(width - k * (width - outputs) / (depth - 1)) for k in range(depth)]
    if plain == "exponential":
        beta = math.exp(math.log(outputs / width) / (depth - 1))
        return [max(outputs, round(width * beta**k)) for k in range(depth)]
    narrow = max(1, round(width / _divisor(shape, plain)))
    return [width] + [narrow] * (depth - 2) + [outputs]


def _divisor(shape: str, plain: str) -> int:
    head, _, tail = plain.rpartition("_")
    digits = tail.removesuffix("x")
    if head != "wide_first" or not digits.isdecimal() or int(digits) not in DIVISORS:
        raise UsageError(f"'{shape}' is not a shape", f"one of {', '.join(SHAPES)}")
    return int(digits)


def layers(inputs: int, layer_widths: Sequence[int]) -> list[tuple[int, int]]:
    """(inputs, outputs) of each layer, the first layer first."""
    return list(pairwise((inputs, *layer_widths)))


def parameters(inputs: int, layer_widths: Sequence[int]) -> int:
    """Trainable parameters of dense layers with biases: Σ (previous + 1)·width."""
    return sum((a + 1) * b for a, b in layers(inputs, layer_widths))


def additions(shape: str, layer_widths: Sequence[int]) -> int:
    """Residual additions: one per hidden layer as wide as the hidden layer before it; 0 for other shapes."""
    if not shape.endswith("_residual"):
        return 0
    return sum(a == b for a, b in pairwise(layer_widths[:-1]))


def solve(
    shape: str, *, depth: int, size: int, inputs: int, outputs: int, tolerance: float | None = None
) -> Topology:
    """The network of ``shape`` and ``depth`` whose parameters come closest to ``size``.

    Integer bisection on the free width in [1, 2³⁰]; of the widths visited, the one with the
    smallest |parameters − size| is kept, the first visited on a tie. With ``tolerance`` (0.2 in the
    study) a network off by more than that fraction of ``size`` raises UsageError; with None the
    nearest is returned, however far.
    """
    if size < 1 or inputs < 1:
        raise UsageError(f"no network has {size} parameters and {inputs} inputs", "numbers of 1 or more")
    found = _bisect(shape, depth, size, inputs, outputs)
    off = abs(found.parameters - size) / size
    if tolerance is not None and off > tolerance:
        raise UsageError(
            f"the nearest {shape} of depth {depth} on {inputs} inputs and {outputs} outputs has "
            f"{found.parameters} parameters, {off:.0%} off {size}",
            "another depth or size, or a larger tolerance",
        )
    return found


def _bisect(shape: str, depth: int, size: int, inputs: int, outputs: int) -> Topology:
    low, high = 1, WIDEST
    best: Topology | None = None
    while low < high:
        middle = (low + high) // 2
        visited = widths(shape, width=middle, depth=depth, outputs=outputs)
        count = parameters(inputs, visited)
        if best is None or abs(count - size) < abs(best.parameters - size):
            best = Topology(visited, count)
        if count == size:
            break
        low, high = (middle + 1, high) if count < size else (low, middle)
    assert best is not None
    return best
