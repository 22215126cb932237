"""Network: kernels in the order they run, each with its place; and how kernels fold and fuse into one.

The law: a node without a kernel is an operator nobody has a formula for. It stays in the network, with the
bytes its tensors have, and lowers the coverage; it never becomes a zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from joulemeter.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Node:
    """One launch in a network, or an operator that could not be turned into one (``kernel`` None).

    ``reads`` and ``writes`` name its tensors; ``bytes`` is what those hold (NaN: shapes not known), used
    where there is no kernel to ask.
    """

    kernel: Kernel | None
    operator: str
    name: str
    module: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    bytes: float = math.nan
    reason: str = ""
    """Why there is no kernel."""
    folded: tuple[str, ...] = ()
    """The operators that were folded or fused into this one."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network as one pass runs it. ``inputs`` are the shapes it was read for; ``parameters`` its trained
    numbers.
    """

    name: str
    format: str
    nodes: tuple[Node, ...]
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: float = math.nan
    notes: tuple[str, ...] = ()

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels in order, operators without one left out."""
        return [node.kernel for node in self.nodes if node.kernel is not None]

    @property
    def unpriced(self) -> dict[str, int]:
        """How often each operator without a kernel occurs."""
        return dict(Counter(node.operator for node in self.nodes if node.kernel is None))


Rule = tuple[str, str, str]
"""A kernel of the first family followed by one of the second, its only reader, run as the third."""

FOLDED: tuple[Rule, ...] = (("conv", "bn", "conv"), ("dwconv", "bn", "dwconv"))
"""Batch normalisation after a convolution, at inference: its factor and shift go into the weights and
bias.
"""


def fold(network: Network) -> Network:
    """``network`` with each batch normalisation folded into the convolution before it, as deployment does."""
    return fuse(network, FOLDED)


def fuse(network: Network, rules: Iterable[Rule]) -> Network:
    """``network`` with neighbours fused by ``rules``, until none applies.

    Two nodes fuse where the second reads the first's result, is its only reader, and adds no reordering.
    The result keeps the first's shape; where the family stays the same, it gains a bias.
    """
    table = {(first, second): fused for first, second, fused in rules}
    readers = Counter(name for node in network.nodes for name in node.reads)
    made: dict[str, int] = {}
    nodes: list[Node | None] = []
    for node in network.nodes:
        at = _before(node, nodes, made, readers, table)
        if at is None:
            nodes.append(node)
            made.update(dict.fromkeys(node.writes, len(nodes) - 1))
            continue
        nodes[at] = _joined(nodes[at], node, table)
        made.update(dict.fromkeys(node.writes, at))
    return replace(network, nodes=tuple(node for node in nodes if node is not None))


def _before(
    node: Node,
    nodes: list[Node | None],
    made: Mapping[str, int],
    readers: Mapping[str, int],
    table: Mapping[tuple[str, str], str],
) -> int | None:
    """The latest place whose node this one fuses onto."""
    if node.kernel is None:
        return None
    places = [made[name] for name in node.reads if name in made and readers[name] == 1]
    for place in sorted(places, reverse=True):
        first = nodes[place]
        if (
            first is not None
            and first.kernel is not None
            and (first.kernel.family, node.kernel.family) in table
        ):
            whole = "broadcast" not in node.kernel.shape and node.kernel.dtype == first.kernel.dtype
            return place if whole else None
    return None


def _joined(first: Node | None, second: Node, table: Mapping[tuple[str, str], str]) -> Node:
    assert first is not None  # as _before found them
    assert first.kernel is not None
    assert second.kernel is not None
    family = table[first.kernel.family, second.kernel.family]
    shape = dict(first.kernel.shape)
    if family == first.kernel.family:
        shape["bias"] = 1
    return replace(
        first,
        kernel=replace(first.kernel, family=family, shape=shape),
        reads=first.reads + tuple(name for name in second.reads if name not in first.writes),
        writes=second.writes,
        folded=(*first.folded, second.operator),
    )
