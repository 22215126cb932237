"""Kernels that exporters take apart, put together again: one network is the same kernels in every format.

`torch.export` keeps attention, layer normalisation and SiLU whole; ONNX and TFLite files often hold the
products, means and sigmoids they are made of, and biases on their own. What is put together is checked by
shapes and by who reads what: a part whose result somebody else also reads stays on its own.

What depends on no input (masks, the places of words) is worked out once by whoever deploys a network, and is
left out. So are copies that only lay the same numbers out anew: PyTorch slices and transposes by strides,
converters write such copies where they like, and a runtime removes or adds its own. How many bytes they are
is noted, since a runtime that makes them pays for them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from joulemeter import kernels, layers
from joulemeter.kernel import DTYPE_BYTES, Kernel, Value
from joulemeter.network import Network, Node

_EXPANDED = ("aten.expand", "Expand", "BROADCAST_TO")
"""Operators whose results are views with strides of zero in PyTorch."""
_CASTS = ("aten.to", "aten._to_copy", "Cast", "CAST", "QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes that are one kernel: their places, the last one's first; and what the kernel reads."""

    kernel: Kernel
    places: tuple[int, ...]
    reads: tuple[str, ...]


class Graph:
    """Nodes with who makes and who reads each tensor; ``batch`` is how many the first input holds."""

    def __init__(self, nodes: Sequence[Node], inputs: Mapping[str, Sequence[int]]) -> None:
        self.nodes, self.inputs = nodes, inputs
        self.batch = next((shape[0] for shape in inputs.values() if shape), 1)
        self.made = {name: place for place, node in enumerate(nodes) for name in node.writes}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for place, node in enumerate(nodes):
            for name in set(node.reads):
                self.readers[name].append(place)

    def family(self, place: int | None) -> str:
        """The family of the node there; empty where there is none or it has no kernel."""
        kernel = None if place is None else self.nodes[place].kernel
        return "" if kernel is None else kernel.family

    def before(self, place: int, operand: int = 0) -> int | None:
        """Who makes an operand of a node and has no other reader; None where nobody does."""
        reads = self.nodes[place].reads
        if operand >= len(reads):
            return None
        name = reads[operand]
        return self.made.get(name) if self.readers[name] == [place] else None

    def varies(self, name: str) -> bool:
        """Whether a tensor is an input or made by a node; a constant is neither."""
        return name in self.made or name in self.inputs

    def others(self, place: int, name: str) -> tuple[str, ...]:
        """What a node reads besides ``name``."""
        return tuple(each for each in self.nodes[place].reads if each != name)


Rule = Callable[[Graph, int], Part | None]


def composed(network: Network) -> Network:
    """``network`` with its kernels put together, without what is constant and without copies that only lay
    numbers out anew."""
    nodes, left_out = _laid(_varying(network.nodes, network.inputs), network.inputs)
    for rule in RULES:
        nodes = _apply(rule, Graph(nodes, network.inputs))
    notes = network.notes
    if left_out:
        count, size = len(left_out), math.fsum(kernels.work(each).bytes for each in left_out) / 1e6
        notes = (
            *notes,
            f"{count} copies that only lay numbers out anew ({size:.3g} MB) are left to the runtime",
        )
    return replace(network, nodes=tuple(nodes), notes=notes)


def _varying(nodes: Sequence[Node], inputs: Iterable[str]) -> list[Node]:
    """The nodes that depend on an input, or have no formula that says what they are.

    What is written in place (PyTorch's operators ending in "_") depends on all that is ever written there.
    """
    moving = set(inputs)
    if not any(name in moving for node in nodes for name in node.reads):
        return list(nodes)  # a format that does not name its inputs
    kept = []
    for node in nodes:
        kernel = node.kernel
        filled = kernel is not None and kernel.shape.get("operator") == "fill"
        constant = bool(node.reads) and not any(name in moving for name in node.reads)
        if kernel is not None and (filled or constant):
            continue
        moving.update(node.writes)
        if node.operator.endswith("_"):
            moving.update(node.reads[:1])
        kept.append(node)
    return kept


def _laid(nodes: Sequence[Node], inputs: Mapping[str, Sequence[int]]) -> tuple[list[Node], list[Kernel]]:
    """The nodes but such copies, and those; whoever read a copy reads what it was of."""
    same: dict[str, str] = {}
    sizes = {name: float(math.prod(shape)) for name, shape in inputs.items()}
    kept: list[Node] = []
    gone: list[Kernel] = []
    for node in nodes:
        reads = tuple(same.get(name, name) for name in node.reads)
        if node.kernel is not None and _lays_out(node, reads, sizes):
            gone.append(node.kernel)
            same.update(dict.fromkeys(node.writes, next((name for name in reads if name in sizes), "")))
            continue
        kept.append(replace(node, reads=reads))
        sizes.update(dict.fromkeys(node.writes, math.nan if node.kernel is None else _elements(node.kernel)))
    return kept, gone


def _lays_out(node: Node, reads: tuple[str, ...], sizes: Mapping[str, float]) -> bool:
    """Whether a copy writes nothing but numbers of the one tensor that it reads, as they were."""
    if node.kernel is None or node.kernel.family not in ("copy", "split", "concat", "embedding"):
        return False
    if node.operator.endswith(" (copy)") or node.operator in _EXPANDED:
        return True
    sources = {name for name in reads if name in sizes}
    if node.kernel.family == "embedding" and reads[:1] != tuple(sources):
        return False  # a table's rows, chosen by what varies
    return (
        len(sources) == 1
        and node.operator not in _CASTS
        and _elements(node.kernel) <= sizes[next(iter(sources))]
    )


def _elements(kernel: Kernel) -> float:
    """How many numbers a kernel writes."""
    return kernels.work(kernel).write_bytes / DTYPE_BYTES.get(kernel.dtype, 4)


def _apply(rule: Rule, graph: Graph) -> list[Node]:
    taken: dict[int, Node | None] = {}
    for place in range(len(graph.nodes)):
        part = rule(graph, place) if place not in taken else None
        if part is None or taken.keys() & set(part.places):
            continue
        last, members = part.places[0], sorted(part.places)
        taken.update(dict.fromkeys(members))
        main = graph.nodes[members[0]]
        taken[last] = replace(
            main,
            kernel=part.kernel,
            reads=part.reads,
            writes=graph.nodes[last].writes,
            folded=tuple(graph.nodes[each].operator for each in members),
        )
    return [kept for i, node in enumerate(graph.nodes) if (kept := taken.get(i, node)) is not None]


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────


def bias(graph: Graph, place: int) -> Part | None:
    """x W + b: a layer's product, and a constant of its results' width added to each row."""
    return _into_layer(graph, place, "add", {"bias": 1})


def scale(graph: Graph, place: int) -> Part | None:
    """(x W + b) γ: a constant factor for each of a layer's results goes into its weights and bias."""
    return _into_layer(graph, place, "mul", {})


def _into_layer(graph: Graph, place: int, family: str, gains: dict[str, Value]) -> Part | None:
    node = graph.nodes[place]
    if graph.family(place) != family or len(node.reads) != 2:
        return None
    for operand in (0, 1):
        product, constant = graph.before(place, operand), node.reads[1 - operand]
        if product is None or graph.family(product) != "fc" or graph.varies(constant):
            continue
        layer = graph.nodes[product].kernel
        assert layer is not None
        if _by_column(node, int(layer.dimension("out_features"))):
            kernel = replace(layer, shape={**layer.shape, **gains})
            return Part(kernel, (place, product), (*graph.nodes[product].reads, constant))
    return None


def _by_column(node: Node, width: int) -> bool:
    """Whether a node's second operand is a number for each of ``width`` columns, or channels of an image."""
    shape = {} if node.kernel is None else node.kernel.shape
    if shape.get("broadcast") == "outer":
        return shape.get("inner") == width
    if shape.get("broadcast") == "channels":
        return shape.get("outer") == 1 and shape.get("channels") == width
    return shape.get("elements") == width and "broadcast" not in shape


def silu(graph: Graph, place: int) -> Part | None:
    """x · σ(x)."""
    node = graph.nodes[place]
    if graph.family(place) != "mul" or len(set(node.reads)) != 2:
        return None
    for operand in (0, 1):
        gate, x = graph.before(place, operand), node.reads[1 - operand]
        if gate is not None and graph.family(gate) == "sigmoid" and graph.nodes[gate].reads == (x,):
            one = graph.nodes[gate].kernel
            assert one is not None
            kernel = Kernel("silu", dict(one.shape), one.dtype)
            return Part(kernel, (place, gate), (x,))
    return None


def attention(graph: Graph, place: int) -> Part | None:
    """softmax(s Q Kᵀ + mask) V, with the factor s on the scores or on Q and K."""
    if graph.family(place) != "matmul":
        return None
    soft = graph.before(place)
    if graph.family(soft) != "softmax":
        return None
    assert soft is not None
    members = [place, soft]
    masks: list[str] = []
    at = graph.before(soft)
    while graph.family(at) in ("add", "mul", "div"):
        assert at is not None
        members.append(at)
        onward = next((i for i in (0, 1) if graph.family(_through(graph, at, i)) == "matmul"), None)
        if onward is None:
            return None
        if graph.family(at) == "add":
            masks += graph.others(at, graph.nodes[at].reads[onward])
        at = graph.before(at, onward)
    if graph.family(at) != "matmul":
        return None
    assert at is not None
    scores, values = graph.nodes[at].kernel, graph.nodes[place].kernel
    assert scores is not None
    assert values is not None
    count, rows, keys = (int(scores.dimension(name)) for name in ("products", "rows", "columns"))
    width = int(scores.dimension("inner"))
    fits = (values.dimension("products"), values.dimension("rows"), values.dimension("inner")) == (
        count,
        rows,
        keys,
    )
    if not fits or values.dimension("columns") != width or "subnormal" in values.shape:
        return None
    members.append(at)
    reads = list(graph.nodes[at].reads[:2])
    for operand in range(len(reads)):
        scaled = graph.before(at, operand)
        if scaled is not None and graph.family(scaled) in ("mul", "div") and _by_a_number(graph, scaled):
            members.append(scaled)
            reads[operand] = graph.nodes[scaled].reads[0]
    batch = graph.batch if count % graph.batch == 0 else 1
    q, k = ((batch, count // batch, n, width) for n in (rows, keys))
    made = layers.attention(q, k, scores.dtype, mask=bool(masks))
    return Part(made, tuple(members), (*reads, *graph.nodes[place].reads[1:], *masks))


def _through(graph: Graph, place: int, operand: int) -> int | None:
    """The product that an operand of a node is, or comes from by adding and scaling."""
    at = graph.before(place, operand)
    while graph.family(at) in ("add", "mul", "div"):
        assert at is not None
        at = graph.before(at)
    return at


def _by_a_number(graph: Graph, place: int) -> bool:
    kernel = graph.nodes[place].kernel
    return kernel is not None and kernel.shape.get("broadcast") == "scalar"


def norm(graph: Graph, place: int) -> Part | None:
    """(x − x̄) / √(σ² + ε) · γ + β over the last dimension, or x / √(mean of x² + ε) · γ.

    From a mean of x, or x², on: all that is made of it and of x alone, up to the first result through which
    alone the rest of the network sees any of it.
    """
    x = _normalised(graph, place)
    found = _closed(graph, place, x) if x else None
    if not found:
        return None
    members, features = found
    means = sum(graph.family(each) == "reduction" for each in members)
    roots = any(_operator(graph, each) in ("rsqrt", "sqrt", "pow") for each in members)
    centred = graph.family(place) == "reduction"
    result, source = graph.nodes[members[-1]].kernel, graph.nodes[graph.made[x]].kernel
    if not roots or means != (2 if centred else 1) or result is None or source is None:
        return None
    if (count := _elements(result)) % features or _elements(source) != count:
        return None
    for family in ("mul", "add"):
        _take_constant(graph, members, family, features)
    kernel = layers.row_norm("layernorm" if centred else "rmsnorm", (round(count),), features, result.dtype)
    constants = [name for each in members for name in graph.nodes[each].reads if not graph.varies(name)]
    return Part(kernel, tuple(reversed(members)), (x, *dict.fromkeys(constants)))


def _normalised(graph: Graph, place: int) -> str:
    """What a node takes the mean or the square of; empty where it does neither."""
    reads = graph.nodes[place].reads
    if graph.family(place) not in ("reduction", "mul", "elementwise") or not reads:
        return ""
    x = reads[0]
    alone = not any(graph.varies(name) and name != x for name in reads)
    squared = graph.family(place) != "mul" or reads == (x, x)
    return x if alone and squared and x in graph.made else ""


def _closed(graph: Graph, place: int, x: str) -> tuple[list[int], int] | None:
    """The places of what is made of ``x`` alone from ``place`` on until only the last one's result is read by
    others, and how many numbers each mean is of."""
    members, features, made = [place], 0, set(graph.nodes[place].writes)
    for at in range(place, min(place + _NORM_REACH, len(graph.nodes))):
        node = graph.nodes[at]
        varying = {name for name in node.reads if graph.varies(name)}
        if at != place:
            if not varying <= made | {x} or not varying & made or graph.family(at) not in _OF_NORMS:
                continue
            members.append(at)
            made.update(node.writes)
        if graph.family(at) == "reduction":
            assert node.kernel is not None
            features = int(node.kernel.dimension("columns"))
        inside = set(members)
        outside = {name for name in made if not set(graph.readers[name]) <= inside}
        if len(members) > 3 and outside == set(node.writes) and graph.family(at) in ("add", "mul", "div"):
            return (members, features) if features > 1 else None
    return None


def _take_constant(graph: Graph, members: list[int], family: str, features: int) -> None:
    """Adds the factor or the shift that follows, where it is a constant of ``features`` numbers."""
    (name,) = graph.nodes[members[-1]].writes
    readers = graph.readers[name]
    if len(readers) == 1 and graph.family(readers[0]) == family:
        node = graph.nodes[readers[0]]
        if _by_column(node, features) and not any(map(graph.varies, graph.others(readers[0], name))):
            members.append(readers[0])


def _operator(graph: Graph, place: int) -> str:
    kernel = graph.nodes[place].kernel
    return "" if kernel is None else str(kernel.shape.get("operator", ""))


_OF_NORMS = ("add", "sub", "mul", "div", "elementwise", "reduction")
_NORM_REACH = 20
"""Within so many nodes of its mean a normalisation is done."""

RULES: tuple[Rule, ...] = (bias, scale, silu, attention, norm)
