"""TFLite (LiteRT) flatbuffers into kernels. Field numbers are those of TensorFlow's schema.fbs, version 3."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from joulemeter import flatbuffer, subnormal
from joulemeter.errors import GraphError
from joulemeter.flatbuffer import Table
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.network import Network, Node
from joulemeter.tflite_operators import NAMES, TABLE, Op, Shape, Tensor

SUFFIXES = (".tflite",)

_MAX_BYTES = 1 << 32
_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 8: "complex64",
    9: "int8", 10: "float64",
}  # fmt: skip


def read(target: str, shapes: Shapes) -> Network:
    """The network in the ``.tflite`` file ``target`` (its first subgraph).

    Raises GraphError where it is torn, of control flow, or left open in a size.
    """
    path = Path(target)
    try:
        if path.stat().st_size > _MAX_BYTES:
            fact = f"{target}: is larger than a flatbuffer can be"
            raise GraphError(fact, "convert it with quantised weights, or a part")
        data = path.read_bytes()
    except OSError as error:
        fact = f"{target}: cannot be read ({error.strerror})"
        raise GraphError(fact, "the path of a .tflite file") from error
    if data[4:8] != b"TFL3":
        fact = f"{target}: is no TFLite file (no TFL3 mark)"
        raise GraphError(fact, "a file that tf.lite.TFLiteConverter has made")
    try:
        return _network(target, data, shapes)
    except (struct.error, IndexError, OverflowError) as error:
        raise GraphError(f"{target}: is torn ({error})", "convert it again") from error


def _network(target: str, data: bytes, shapes: Shapes) -> Network:
    model = flatbuffer.root(data)
    graphs = model.tables(2)
    if not graphs:
        raise GraphError(f"{target}: holds no graph", "convert it again")
    graph = graphs[0]
    operators = graph.tables(3)
    if len(operators) > MAX_NODES:
        fact = f"{target}: has {len(operators)} nodes, more than {MAX_NODES}"
        raise GraphError(fact, "convert a part of it")
    buffers = model.tables(4)
    if any(start + count > len(data) for start, count in (each.vector(0) for each in buffers)):
        raise struct.error("weights reach beyond the end")
    tensors = [_tensor(each, buffers) for each in graph.tables(0)]
    inputs = {
        tensors[i].name: _fixed(target, tensors[i], n == 0, shapes) for n, i in enumerate(graph.numbers(1))
    }
    codes = [_name(each) for each in model.tables(1)]
    nodes: list[Node] = []
    written = set(graph.numbers(1)) | {
        i for i, each in enumerate(tensors) if each.buffer and _filled(each, buffers)
    }
    ops = [Op(codes[each.number(0, "<I")], each, tensors, i) for i, each in enumerate(operators)]
    _take_padding(ops)
    names = {i: tensors[i].name for i in graph.numbers(1)}
    for op in ops:
        nodes += _nodes(target, op, written, names)
    nodes = subnormal.marked_nodes(nodes, _masks(data, ops, buffers))
    weights = {
        i
        for i, each in enumerate(tensors)
        if each.dtype in ("float32", "float16", "int8") and _filled(each, buffers)
    }
    parameters = float(sum(math.prod(tensors[i].shape) for i in weights))
    notes = [
        f"quantised: {count} tensors are whole numbers of 8 bits" for count in [_whole(tensors)] if count
    ]
    return Network(target, "tflite", tuple(nodes), inputs, parameters, tuple(notes))


def _masks(data: bytes, ops: Sequence[Op], buffers: Sequence[Table]) -> dict[str, float]:
    """The share of subnormal exponentials of each constant that is added, and the one taken for each choice
    of a number of about minus a hundred."""
    found = {}
    for op in ops:
        chosen = op.kind in ("SELECT", "SELECT_V2")
        for i, each in zip(op.ids, op.inputs, strict=False) if chosen or op.kind == "ADD" else ():
            single = math.prod(each.shape) == 1
            if each.dtype != "float32" or not _filled(each, buffers) or (chosen and not single):
                continue
            start, count = buffers[each.buffer].vector(0)
            share = subnormal.share_of(np.frombuffer(data, "<f4", count // 4, start))
            if share:
                found[str(op.out_ids[0] if chosen else i)] = subnormal.USUAL if chosen else share
    return found


def _whole(tensors: Sequence[Tensor]) -> int:
    return sum(1 for each in tensors if each.dtype in ("int8", "uint8"))


def _filled(tensor: Tensor, buffers: Sequence[Table]) -> bool:
    return tensor.buffer < len(buffers) and buffers[tensor.buffer].vector(0)[1] > 0


def _name(code: Table) -> str:
    # Files from before 127 operators have the code in the first field, newer ones in the last.
    number = max(code.number(0, "<b"), code.number(3))
    return f"custom {code.text(1)}" if number == 32 else NAMES.get(number, f"operator {number}")


def _tensor(table: Table, buffers: Sequence[Table]) -> Tensor:
    shape, dtype, buffer = (
        table.numbers(0),
        _TYPES.get(table.number(1, "<b"), "float32"),
        table.number(2, "<I"),
    )
    values: tuple[int, ...] = ()
    if dtype == "int32" and buffer < len(buffers) and math.prod(shape) <= 64:
        raw = bytes(buffers[buffer].numbers(0, "B"))
        values = struct.unpack(f"<{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
    return Tensor(table.text(3), shape, table.numbers(7), dtype, buffer, values)


def _fixed(target: str, tensor: Tensor, first: bool, shapes: Shapes) -> Shape:
    """The shape of an input; TFLite files carry every size, so that only those may be given that it has."""
    given = shape_of(tensor.name, first, shapes)
    if given is not None and given != tensor.shape:
        raise GraphError(
            f"{target}: input {tensor.name} is {tensor.shape}, not {given}", "convert it again for that shape"
        )
    return tensor.shape


_BOOKKEEPING = ("CALL_ONCE", "VAR_HANDLE", "ASSIGN_VARIABLE")
"""State that a network keeps between calls: set up once, or only named."""

_PADDED = {
    "PAD": ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"),
    "PADV2": ("MAX_POOL_2D",),  # with the least number there is
}


def _take_padding(ops: Sequence[Op]) -> None:
    """Padding that a converter writes before a window, which alone reads it, becomes the window's own."""
    made = {i: op for op in ops if op.kind in _PADDED for i in op.out_ids}
    readers = Counter(i for op in ops for i in op.ids)
    for op in ops:
        pad = made.get(op.ids[0]) if op.ids else None
        if pad is None or op.kind not in _PADDED[pad.kind]:
            continue
        if readers[op.ids[0]] != 1 or op.option(0, "<b") != 1:
            continue
        ends = pad.inputs[1].values
        if len(ends) == 8 and not any(ends[:2]) and not any(ends[6:]) and min(ends) >= 0:
            # Two ends that differ count as their mean, rounded up, which keeps the number of results.
            op.padding = -(-(ends[2] + ends[3]) // 2), -(-(ends[4] + ends[5]) // 2)
            op.inputs[0], op.ids = pad.inputs[0], (pad.ids[0], *op.ids[1:])
            pad.absorbed = True


def _nodes(target: str, op: Op, written: set[int], names: Mapping[int, str]) -> list[Node]:
    """The nodes of one operator; ``names`` are those of the inputs, whose tensors are read under them."""
    if op.kind in ("IF", "WHILE"):
        fact = (
            f"{target}: operator {op.index} is control flow ({op.kind}): how often it runs is not in the file"
        )
        raise GraphError(fact, "convert the branch or the unrolled loop that runs")
    missing = [i for i in op.ids if i >= 0 and i not in written]
    if missing:
        fact = f"{target}: operator {op.index} ({op.kind}) reads what nothing before it writes: a cycle, or"
        raise GraphError(f"{fact} out of order", "convert it again")
    written.update(op.out_ids)
    if op.absorbed:
        return []
    if op.kind == "RESHAPE" and math.prod(op.inputs[0].shape) != math.prod(op.outputs[0].shape):
        was, made = op.inputs[0].shape, op.outputs[0].shape
        fact = f"{target}: operator {op.index} (RESHAPE) makes {made} of {was}: sizes were left open"
        raise GraphError(fact, "convert it for a fixed batch, as of keras.Input(batch_shape=(1, …))")
    label = op.outputs[0].name if op.outputs else f"{op.kind} {op.index}"
    module = ".".join(label.split(";")[-1].split("/")[:-1])
    reads = tuple(names.get(i, str(i)) for i in op.ids if i >= 0)
    writes = tuple(str(i) for i in op.out_ids)
    handler = TABLE.get(op.kind)
    if op.kind in _BOOKKEEPING:
        return []
    if handler is None or not op.inputs or not op.outputs:
        moved = math.fsum(each.bytes for each in (*op.inputs, *op.outputs))
        return [Node(None, op.kind, label, module, reads, writes, moved, "no formula for this operator")]
    try:
        kernels = handler(op)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        fact = f"{target}: operator {op.index} ({op.kind}): its shapes do not fit together: {error}"
        raise GraphError(fact, "convert it again") from error
    nodes = []
    for i, kernel in enumerate(kernels):
        result = writes if i == len(kernels) - 1 else (f"{op.out_ids[0]}+{i}",)
        nodes.append(Node(kernel, op.kind, label, module, reads, result))
        reads = result
    return nodes
