"""Masks that make products slow: scores lowered by about a hundred, whose exponentials are subnormal numbers.

exp(−100) = 3.7e-44 is below the least normal float32 (1.2e-38), and a CPU's vector units hand each product
with such a number to microcode (Intel, Optimization Reference Manual, "Floating-point Exceptions"): Swin's
shifted windows, masked by −100, take thirty times longer to multiply than the others. So the share of such
numbers belongs to a product's shape. A mask depends on no input; it is computed here, as the network would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from joulemeter.network import Node
from joulemeter.traced import Call

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOWEST, HIGHEST = math.log(1.4e-45), math.log(1.1754944e-38)
"""Between them an exponential is subnormal in float32."""
USUAL = 0.25
"""The share of a mask that is taken where it cannot be computed: about that of Swin's stages."""
_MOST_ELEMENTS = 10**7
_MADE = frozenset(("new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "arange"))
_CARRIED = frozenset((
    "add", "sub", "masked_fill", "view", "reshape", "unsqueeze", "squeeze", "expand", "contiguous", "clone",
    "dropout", "softmax", "_softmax", "to", "_unsafe_view", "flatten",
))  # fmt: skip


def marked(calls: Iterable[tuple[Call, Sequence[Node]]], shares: dict[str, float]) -> list[Node]:
    """The nodes of all calls, softmaxes and products over masked scores with their percentage of subnormal
    numbers. ``shares`` are those of masks whose values are known, by the name of the result."""
    share: dict[str, float] = {}
    nodes: list[Node] = []
    for call, made in calls:
        found = _share(call, share, shares)
        if found:
            share.update(dict.fromkeys((each.name for each in call.results), found))
        first = share.get(call.tensors[0].name) if call.tensors else None
        nodes += [*made[:-1], *(_slow(node, first) for node in made[-1:])] if first else made
    return nodes


def _share(call: Call, share: dict[str, float], known: dict[str, float]) -> float:
    """The share of a call's results that is, or will be after a softmax, subnormal."""
    bare = call.operator.rstrip("_")
    value = call.get("value")
    if bare == "masked_fill" and isinstance(value, int | float) and LOWEST < value < HIGHEST:
        return known.get(call.results[0].name, USUAL)
    if bare not in _CARRIED and call.operator not in _CARRIED:
        return 0.0
    return max((share.get(each.name, 0.0) for each in call.tensors), default=0.0)


def marked_nodes(nodes: Sequence[Node], shares: Mapping[str, float]) -> list[Node]:
    """The nodes of a file, softmaxes and products over masked scores with their percentage of subnormals.

    ``shares`` are those of the masks by the names of their tensors, as ``share_of`` counts them.
    """
    share = dict(shares)
    made: list[Node] = []
    for node in nodes:
        family = node.kernel.family if node.kernel is not None else ""
        word = str(node.kernel.shape.get("operator", "")) if node.kernel is not None else ""
        if family in _CARRYING or word in ("where", "select", "select_v2"):
            found = max((share.get(name, 0.0) for name in node.reads), default=0.0)
            share.update({name: found for name in node.writes if found and name not in share})
        first = share.get(node.reads[0]) if node.reads else None
        made.append(_slow(node, first) if first else node)
    return made


_CARRYING = ("add", "sub", "copy", "view", "softmax")


def share_of(values: NDArray[Any]) -> float:
    """The share of a mask's numbers that are subnormal as exponentials."""
    return float(((values > LOWEST) & (values < HIGHEST)).mean()) if values.size else 0.0


def _slow(node: Node, share: float) -> Node:
    kernel = node.kernel
    if kernel is None or kernel.family not in ("softmax", "matmul"):
        return node
    percent = max(1, round(100 * share))
    return replace(node, kernel=replace(kernel, shape={**kernel.shape, "subnormal": percent}))


def shares(graph: Any, constants: Mapping[str, Any]) -> dict[str, float]:
    """The share of values that are subnormal as exponentials, by name, of each mask in an exported program's
    fx graph that depends on no input, but on ``constants``."""
    import torch

    known: dict[str, Any] = dict(constants)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        arguments = _constant_arguments(node, known)
        if arguments is None and _overwrites(node, known):
            return {}
        if arguments is None or _elements(node.meta.get("val")) > _MOST_ELEMENTS:
            continue
        with torch.no_grad():
            known[node.name] = node.target(*arguments[0], **arguments[1])
    found = {}
    for name, value in known.items():
        if isinstance(value, torch.Tensor) and name.startswith("masked_fill"):
            low = (value > LOWEST) & (value < HIGHEST)
            found[name] = float(low.float().mean())
    return found


def _constant_arguments(node: Any, known: dict[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
    """The arguments of a node of an fx graph with their values; None where one depends on an input."""
    import torch

    name = str(getattr(node.target, "_opname", ""))
    parents = list(node.all_input_nodes)
    if name in _MADE:  # their tensor argument only lends its type
        like = {each: torch.empty(0, dtype=each.meta["val"].dtype) for each in parents if _is_tensor(each)}
        parents = [each for each in parents if each not in like]
    elif not parents:
        return None
    else:
        like = {}
    if any(each.name not in known for each in parents):
        return None
    values = {**like, **{each: known[each.name] for each in parents}}
    filled = torch.fx.node.map_arg((node.args, node.kwargs), lambda each: values[each])
    return list(filled[0]), dict(filled[1])


def _overwrites(node: Any, known: dict[str, Any]) -> bool:
    """Whether a node writes into something known what is not known."""
    schema = getattr(node.target, "_schema", None)
    return (
        schema is not None
        and schema.is_mutable
        and any(each.name in known for each in node.all_input_nodes[:1])
    )


def _is_tensor(node: Any) -> bool:
    return hasattr(node.meta.get("val"), "dtype")


def _elements(value: Any) -> int:
    return math.prod(int(n) for n in value.shape) if hasattr(value, "shape") else 0
