"""TFLite (LiteRT) flatbuffers into kernels.

Images are batch × height × width × channels there; they are turned into the order of every other format, so
that a layer is the same kernel. Field numbers are those of TensorFlow's schema.fbs (version 3).
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from joulemeter import flatbuffer, layers, subnormal
from joulemeter.errors import GraphError
from joulemeter.flatbuffer import Table
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.kernel import DTYPE_BYTES, Kernel
from joulemeter.network import Network, Node

SUFFIXES = (".tflite",)

_MAX_BYTES = 1 << 32
_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8",
    10: "float64",
}  # fmt: skip
# BuiltinOperator; those not here are named by their number.
_NAMES = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 7: "EMBEDDING_LOOKUP", 8: "FLOOR", 9: "FULLY_CONNECTED",
    14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 28: "TANH", 34: "PAD", 36: "GATHER",
    39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE", 45: "STRIDED_SLICE", 47: "EXP",
    49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST", 54: "PRELU", 55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM",
    58: "LESS", 59: "NEG", 60: "PADV2", 61: "GREATER", 62: "GREATER_EQUAL", 63: "LESS_EQUAL", 64: "SELECT",
    65: "SLICE", 66: "SIN", 67: "TRANSPOSE_CONV", 69: "TILE", 70: "EXPAND_DIMS", 71: "EQUAL", 72: "NOT_EQUAL",
    73: "LOG", 74: "SUM", 75: "SQRT", 76: "RSQRT", 77: "SHAPE", 78: "POW", 81: "REDUCE_PROD",
    82: "REDUCE_MAX", 83: "PACK", 88: "UNPACK", 92: "SQUARE", 94: "FILL", 97: "RESIZE_NEAREST_NEIGHBOR",
    98: "LEAKY_RELU", 99: "SQUARED_DIFFERENCE", 101: "ABS", 102: "SPLIT_V", 114: "QUANTIZE", 116: "ROUND",
    117: "HARD_SWISH", 118: "IF", 119: "WHILE", 123: "SELECT_V2", 126: "BATCH_MATMUL", 128: "CUMSUM",
    130: "BROADCAST_TO", 132: "CONV_3D", 150: "GELU",
}  # fmt: skip
# ActivationFunctionType of a fused activation.
_FUSED = {1: "relu", 3: "relu6", 4: "tanh"}

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: Shape
    signature: Shape
    dtype: str
    buffer: int
    values: tuple[int, ...] = field(default=())

    @property
    def bytes(self) -> float:
        return math.prod(self.shape) * DTYPE_BYTES.get(self.dtype, math.nan)


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
    ops = [_Op(codes[each.number(0, "<I")], each, tensors, i) for i, each in enumerate(operators)]
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


def _masks(data: bytes, ops: Sequence[_Op], buffers: Sequence[Table]) -> dict[str, float]:
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


def _whole(tensors: Sequence[_Tensor]) -> int:
    return sum(1 for each in tensors if each.dtype in ("int8", "uint8"))


def _filled(tensor: _Tensor, buffers: Sequence[Table]) -> bool:
    return tensor.buffer < len(buffers) and buffers[tensor.buffer].vector(0)[1] > 0


def _name(code: Table) -> str:
    # Files from before 127 operators have the code in the first field, newer ones in the last.
    number = max(code.number(0, "<b"), code.number(3))
    return f"custom {code.text(1)}" if number == 32 else _NAMES.get(number, f"operator {number}")


def _tensor(table: Table, buffers: Sequence[Table]) -> _Tensor:
    shape, dtype, buffer = (
        table.numbers(0),
        _TYPES.get(table.number(1, "<b"), "float32"),
        table.number(2, "<I"),
    )
    values: tuple[int, ...] = ()
    if dtype == "int32" and buffer < len(buffers) and math.prod(shape) <= 64:
        raw = bytes(buffers[buffer].numbers(0, "B"))
        values = struct.unpack(f"<{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
    return _Tensor(table.text(3), shape, table.numbers(7), dtype, buffer, values)


def _fixed(target: str, tensor: _Tensor, first: bool, shapes: Shapes) -> Shape:
    """The shape of an input; TFLite files carry every size, so that only those may be given that it has."""
    given = shape_of(tensor.name, first, shapes)
    if given is not None and given != tensor.shape:
        raise GraphError(
            f"{target}: input {tensor.name} is {tensor.shape}, not {given}", "convert it again for that shape"
        )
    return tensor.shape


class _Op:
    """One TFLite operator as its handler sees it."""

    def __init__(self, kind: str, table: Table, tensors: Sequence[_Tensor], index: int) -> None:
        self.kind, self.index = kind, index
        self.ids, self.out_ids = table.numbers(1), table.numbers(2)
        self.inputs = [tensors[i] for i in self.ids if i >= 0]
        self.outputs = [tensors[i] for i in self.out_ids]
        self.options = table.table(4)
        self.padding: tuple[int, int] | None = None
        """What a padding before it, now its own, adds to either side of height and width."""
        self.absorbed = False
        """Whether it is a padding that its reader does by itself."""

    def option(self, number: int, code: str = "<i", otherwise: int = 0) -> int:
        """A field of the operator's options."""
        return self.options.number(number, code, otherwise) if self.options else otherwise

    @property
    def x(self) -> Shape:
        """The first operand's shape in the common order."""
        return common(self.inputs[0].shape)

    @property
    def out(self) -> Shape:
        """The first result's shape in the common order."""
        return common(self.outputs[0].shape)

    @property
    def dtype(self) -> str:
        """The first operand's dtype."""
        return self.inputs[0].dtype

    def fused(self, number: int) -> list[Kernel]:
        """The fused activation in option ``number``, as a kernel after."""
        name = _FUSED.get(self.option(number, "<b"))
        return [layers.activation(name, self.out, False, self.dtype)] if name else []


def common(shape: Sequence[int]) -> Shape:
    """An image's shape in the order batch × channels × space."""
    if len(shape) not in (4, 5):
        return tuple(shape)
    return (shape[0], shape[-1], *shape[1:-1])


_PADDED = {
    "PAD": ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D"),
    "PADV2": ("MAX_POOL_2D",),  # with the least number there is
}


def _take_padding(ops: Sequence[_Op]) -> None:
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


def _nodes(target: str, op: _Op, written: set[int], names: Mapping[int, str]) -> list[Node]:
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
    handler = _TABLE.get(op.kind)
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


Handler = Callable[[_Op], Sequence[Kernel]]


def _window(op: _Op, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The padding along each axis: SAME is 0 in the schema, VALID is 1."""
    if op.padding is not None:
        return list(op.padding)
    if op.option(0, "<b") == 1:
        return [0] * len(size)
    axes = zip(op.x[2:], size, stride, dilation, strict=True)
    return [layers.same_padding(n, k, s, d) for n, k, s, d in axes]


def _conv(op: _Op) -> Sequence[Kernel]:
    out, kh, kw, each = op.inputs[1].shape
    stride, dilation = (op.option(2), op.option(1)), (op.option(5, "<i", 1), op.option(4, "<i", 1))
    pads = _window(op, (kh, kw), stride, dilation)
    groups = op.x[1] // each
    weight = (out, each, kh, kw)
    return [
        layers.convolution(op.x, weight, stride, pads, dilation, groups, len(op.inputs) > 2, op.dtype),
        *op.fused(3),
    ]


def _depthwise(op: _Op) -> Sequence[Kernel]:
    _, kh, kw, out = op.inputs[1].shape
    stride, dilation = (op.option(2), op.option(1)), (op.option(6, "<i", 1), op.option(5, "<i", 1))
    pads = _window(op, (kh, kw), stride, dilation)
    weight = (out, 1, kh, kw)
    return [
        layers.convolution(op.x, weight, stride, pads, dilation, op.x[1], len(op.inputs) > 2, op.dtype),
        *op.fused(4),
    ]


def _transposed(op: _Op) -> Sequence[Kernel]:
    x = common(op.inputs[2].shape)
    out, kh, kw, each = op.inputs[1].shape
    stride = (op.option(2), op.option(1))
    extra = [
        max(0, n - ((m - 1) * s + k)) for n, m, s, k in zip(op.out[2:], x[2:], stride, (kh, kw), strict=True)
    ]
    over = [
        max(0, (m - 1) * s + k - n) // 2
        for n, m, s, k in zip(op.out[2:], x[2:], stride, (kh, kw), strict=True)
    ]
    return [
        layers.transposed_convolution(
            x, (each, out, kh, kw), stride, over, extra, 1, len(op.inputs) > 3, op.dtype
        )
    ]


def _fully_connected(op: _Op) -> Sequence[Kernel]:
    c_out, c_in = op.inputs[1].shape
    rows = math.prod(op.inputs[0].shape) // c_in
    return [
        layers.fully_connected(rows, c_in, c_out, len(op.ids) > 2 and op.ids[2] >= 0, op.dtype),
        *op.fused(0),
    ]


def _matmul(op: _Op) -> Sequence[Kernel]:
    a, b = (list(each.shape) for each in op.inputs[:2])
    a = [*a[:-2], a[-1], a[-2]] if op.option(0, "<b") else a
    transposed = bool(op.option(1, "<b"))
    b = [*b[:-2], b[-1], b[-2]] if transposed else b
    return [layers.product(a, b, op.dtype, transposed)]


def _binary(family: str) -> Handler:
    def made(op: _Op) -> Sequence[Kernel]:
        """Two operands, and the activation fused into them."""
        shapes = [each.shape for each in op.inputs[:2]]
        rank = max(len(each) for each in shapes)
        x, other = (common((*[1] * (rank - len(each)), *each)) for each in shapes)
        return [layers.binary(family, x, other, False, op.dtype), *op.fused(0)]

    return made


def _activation(family: str) -> Handler:
    return lambda op: [layers.activation(family, op.out, False, op.dtype)]


def _gelu(op: _Op) -> Sequence[Kernel]:
    return [layers.activation("gelu-tanh" if op.option(0, "<b") else "gelu", op.out, False, op.dtype)]


def _pool(kind: str) -> Handler:
    def made(op: _Op) -> Sequence[Kernel]:
        """A window over the image, and the activation fused into it."""
        size, stride = (op.option(4), op.option(3)), (op.option(2), op.option(1))
        if kind == "avgpool" and size == op.x[2:]:
            return [layers.global_pool(op.x, op.dtype), *op.fused(5)]
        pads = _window(op, size, stride, (1, 1))
        return [layers.pool(kind, op.x, size, stride, pads, False, op.dtype), *op.fused(5)]

    return made


def _reduction(op: _Op) -> Sequence[Kernel]:
    shape = op.inputs[0].shape
    axes = sorted(axis % len(shape) for axis in op.inputs[1].values) if len(op.inputs) > 1 else []
    if op.kind == "MEAN" and len(shape) == 4 and axes in ([1, 2], [2, 3]):
        return [layers.global_pool(op.x if axes == [1, 2] else shape, op.dtype)]
    outer = bool(axes) and axes[-1] != len(shape) - 1
    return [layers.reduction(shape, math.prod(op.outputs[0].shape), op.dtype, outer)]


def _softmax(op: _Op) -> Sequence[Kernel]:
    return [layers.softmax(op.inputs[0].shape, -1, op.dtype)]


def _concat(op: _Op) -> Sequence[Kernel]:
    rank = len(op.inputs[0].shape)
    axis = op.option(0) % max(rank, 1)
    order = {0: 0, rank - 1: 1}.get(axis, axis + 1) if rank in (4, 5) else axis
    return [layers.concat([common(each.shape) for each in op.inputs], order, op.dtype), *op.fused(1)]


def _pack(op: _Op) -> Sequence[Kernel]:
    """Parts joined along a new axis; single numbers too."""
    rank = len(op.inputs[0].shape) + 1
    axis = op.option(1) % rank
    parts = [(*each.shape[:axis], 1, *each.shape[axis:]) for each in op.inputs]
    return [layers.concat(parts, axis, op.dtype)]


def _split(op: _Op) -> Sequence[Kernel]:
    pieces = [math.prod(each.shape) for each in op.outputs]
    return [layers.split((1, sum(pieces)), len(pieces), 1, op.dtype)]


def _transpose(op: _Op) -> Sequence[Kernel]:
    x, order = op.inputs[0].shape, op.inputs[1].values
    if sorted(order) != list(range(len(x))):
        return _copy(op)
    return [layers.permuted_copy(*layers.transposed_strides(x, order), op.dtype)]


def _view(op: _Op) -> Sequence[Kernel]:
    return [layers.view(op.dtype)]


def _copy(op: _Op) -> Sequence[Kernel]:
    return [layers.plain_copy(op.outputs[0].shape, op.outputs[0].dtype)]


def _elementwise(op: _Op) -> Sequence[Kernel]:
    return [layers.elementwise(op.outputs[0].shape, len(op.inputs), op.kind.lower(), op.dtype)]


def _gather(op: _Op) -> Sequence[Kernel]:
    table, ids = op.inputs[0].shape, op.inputs[1].shape
    if op.option(0):
        return _copy(op)
    return [layers.embedding(math.prod(ids), table[0], math.prod(table[1:]), op.dtype)]


def _lookup(op: _Op) -> Sequence[Kernel]:
    ids, table = op.inputs[0].shape, op.inputs[1].shape
    return [layers.embedding(math.prod(ids), table[0], math.prod(table[1:]), op.inputs[1].dtype)]


def _resize(op: _Op) -> Sequence[Kernel]:
    mode = "nearest" if "NEAREST" in op.kind else "bilinear"
    return [layers.resize(op.x, op.out[2:], mode, op.dtype)]


_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("CONV_2D", _conv),
    ("DEPTHWISE_CONV_2D", _depthwise),
    ("TRANSPOSE_CONV", _transposed),
    ("FULLY_CONNECTED", _fully_connected),
    ("BATCH_MATMUL", _matmul),
    ("ADD", _binary("add")),
    ("MUL", _binary("mul")),
    ("SUB", _binary("sub")),
    ("DIV", _binary("div")),
    ("RELU", _activation("relu")),
    ("RELU6", _activation("relu6")),
    ("LOGISTIC", _activation("sigmoid")),
    ("TANH", _activation("tanh")),
    ("HARD_SWISH", _activation("hswish")),
    ("LEAKY_RELU", _activation("leaky-relu")),
    ("GELU", _gelu),
    ("MAX_POOL_2D", _pool("maxpool")),
    ("AVERAGE_POOL_2D", _pool("avgpool")),
    ("MEAN SUM REDUCE_MAX REDUCE_PROD ARG_MAX", _reduction),
    ("SOFTMAX LOG_SOFTMAX", _softmax),
    ("CONCATENATION", _concat),
    ("PACK", _pack),
    ("SPLIT SPLIT_V UNPACK", _split),
    ("TRANSPOSE", _transpose),
    ("RESHAPE SQUEEZE EXPAND_DIMS SHAPE", _view),
    ("PAD PADV2 STRIDED_SLICE SLICE CAST TILE BROADCAST_TO DEPTH_TO_SPACE SPACE_TO_DEPTH", _copy),
    ("QUANTIZE DEQUANTIZE FILL", _copy),
    ("EXP LOG SQRT RSQRT SQUARE POW NEG ABS SIN FLOOR ROUND MAXIMUM MINIMUM LESS GREATER", _elementwise),
    ("GREATER_EQUAL LESS_EQUAL EQUAL NOT_EQUAL SELECT SELECT_V2 SQUARED_DIFFERENCE PRELU", _elementwise),
    ("RELU_N1_TO_1 CUMSUM", _elementwise),
    ("GATHER", _gather),
    ("EMBEDDING_LOOKUP", _lookup),
    ("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _resize),
)
_TABLE: dict[str, Handler] = {name: handler for names, handler in _BY_HANDLER for name in names.split()}
