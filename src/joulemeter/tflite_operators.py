"""What each TFLite operator is, as kernels: the table that the TFLite reader looks operators up in.

Images are batch × height × width × channels there; they are turned into the order of every other format, so
that a layer is the same kernel. Field numbers are those of TensorFlow's schema.fbs (version 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from joulemeter import layers
from joulemeter.flatbuffer import Table
from joulemeter.kernel import DTYPE_BYTES, Kernel

# BuiltinOperator; those not here are named by their number.
NAMES = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 7: "EMBEDDING_LOOKUP", 8: "FLOOR", 9: "FULLY_CONNECTED",
    11: "L2_NORMALIZATION", 12: "L2_POOL_2D", 13: "LOCAL_RESPONSE_NORMALIZATION", 14: "LOGISTIC",
    17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 28: "TANH", 34: "PAD",
    35: "UNIDIRECTIONAL_SEQUENCE_RNN", 36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND",
    39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE", 44: "UNIDIRECTIONAL_SEQUENCE_LSTM",
    45: "STRIDED_SLICE", 47: "EXP", 48: "TOPK_V2", 49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST", 54: "PRELU",
    55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 58: "LESS", 59: "NEG", 60: "PADV2", 61: "GREATER",
    62: "GREATER_EQUAL", 63: "LESS_EQUAL", 64: "SELECT", 65: "SLICE", 66: "SIN", 67: "TRANSPOSE_CONV",
    69: "TILE", 70: "EXPAND_DIMS", 71: "EQUAL", 72: "NOT_EQUAL", 73: "LOG", 74: "SUM", 75: "SQRT",
    76: "RSQRT", 77: "SHAPE", 78: "POW", 79: "ARG_MIN", 80: "FAKE_QUANT", 81: "REDUCE_PROD",
    82: "REDUCE_MAX", 83: "PACK", 84: "LOGICAL_OR", 85: "ONE_HOT", 86: "LOGICAL_AND", 87: "LOGICAL_NOT",
    88: "UNPACK", 89: "REDUCE_MIN", 90: "FLOOR_DIV", 91: "REDUCE_ANY", 92: "SQUARE", 93: "ZEROS_LIKE",
    94: "FILL", 95: "FLOOR_MOD", 96: "RANGE", 97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU",
    99: "SQUARED_DIFFERENCE", 100: "MIRROR_PAD", 101: "ABS", 102: "SPLIT_V", 104: "CEIL",
    105: "REVERSE_V2", 106: "ADD_N", 107: "GATHER_ND", 108: "COS", 109: "WHERE", 110: "RANK", 111: "ELU",
    112: "REVERSE_SEQUENCE", 113: "MATRIX_DIAG", 114: "QUANTIZE", 115: "MATRIX_SET_DIAG", 116: "ROUND",
    117: "HARD_SWISH", 118: "IF", 119: "WHILE", 120: "NON_MAX_SUPPRESSION_V4",
    121: "NON_MAX_SUPPRESSION_V5", 122: "SCATTER_ND", 123: "SELECT_V2", 125: "SEGMENT_SUM",
    126: "BATCH_MATMUL", 128: "CUMSUM", 129: "CALL_ONCE", 130: "BROADCAST_TO", 131: "RFFT2D",
    132: "CONV_3D", 133: "IMAG", 134: "REAL", 135: "COMPLEX_ABS", 140: "REDUCE_ALL",
    141: "CONV_3D_TRANSPOSE", 142: "VAR_HANDLE", 143: "READ_VARIABLE", 144: "ASSIGN_VARIABLE",
    145: "BROADCAST_ARGS", 146: "RANDOM_STANDARD_NORMAL", 147: "BUCKETIZE", 148: "RANDOM_UNIFORM",
    149: "MULTINOMIAL", 150: "GELU", 151: "DYNAMIC_UPDATE_SLICE", 152: "RELU_0_TO_1",
    153: "UNSORTED_SEGMENT_PROD", 154: "UNSORTED_SEGMENT_MAX", 155: "UNSORTED_SEGMENT_SUM", 156: "ATAN2",
    157: "UNSORTED_SEGMENT_MIN", 158: "SIGN", 159: "BITCAST", 160: "BITWISE_XOR", 161: "RIGHT_SHIFT",
    206: "STABLEHLO_COMPOSITE",
}  # fmt: skip
# ActivationFunctionType of a fused activation.
FUSED = {1: "relu", 3: "relu6", 4: "tanh"}


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file; ``values`` are those of small constants of whole numbers."""

    name: str
    shape: Shape
    signature: Shape
    dtype: str
    buffer: int
    values: tuple[int, ...] = field(default=())

    @property
    def bytes(self) -> float:
        """Bytes of its numbers; NaN for a dtype nobody has sized."""
        return math.prod(self.shape) * DTYPE_BYTES.get(self.dtype, math.nan)


class Op:
    """One TFLite operator as its handler sees it."""

    def __init__(self, kind: str, table: Table, tensors: Sequence[Tensor], index: int) -> None:
        self.kind, self.index = kind, index
        self.ids, self.out_ids = table.numbers(1), table.numbers(2)
        self.inputs = [tensors[i] for i in self.ids if i >= 0]
        self._held = [tensors[i] if i >= 0 else None for i in self.ids]
        self.outputs = [tensors[i] for i in self.out_ids]
        self.options = table.table(4)
        self.padding: tuple[int, int] | None = None
        """What a padding before it, now its own, adds to either side of height and width."""
        self.absorbed = False
        """Whether it is a padding that its reader does by itself."""

    def option(self, number: int, code: str = "<i", otherwise: int = 0) -> int:
        """A field of the operator's options."""
        return self.options.number(number, code, otherwise) if self.options else otherwise

    def operand(self, place: int) -> Tensor:
        """The operand at a place of the schema, where others before it may be left out; raises IndexError
        where it is."""
        held = self._held[place]
        if held is None:
            raise IndexError(f"operand {place} is missing")
        return held

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
        name = FUSED.get(self.option(number, "<b"))
        return [layers.activation(name, self.out, False, self.dtype)] if name else []


def common(shape: Sequence[int]) -> Shape:
    """An image's shape in the order batch × channels × space."""
    if len(shape) not in (4, 5):
        return tuple(shape)
    return (shape[0], shape[-1], *shape[1:-1])


Handler = Callable[[Op], Sequence[Kernel]]


def _window(op: Op, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The padding along each axis: SAME is 0 in the schema, VALID is 1."""
    if op.padding is not None:
        return list(op.padding)
    if op.option(0, "<b") == 1:
        return [0] * len(size)
    axes = zip(op.x[2:], size, stride, dilation, strict=True)
    return [layers.same_padding(n, k, s, d) for n, k, s, d in axes]


def _conv(op: Op) -> Sequence[Kernel]:
    out, kh, kw, each = op.inputs[1].shape
    stride, dilation = (op.option(2), op.option(1)), (op.option(5, "<i", 1), op.option(4, "<i", 1))
    pads = _window(op, (kh, kw), stride, dilation)
    groups = op.x[1] // each
    weight = (out, each, kh, kw)
    return [
        layers.convolution(op.x, weight, stride, pads, dilation, groups, len(op.inputs) > 2, op.dtype),
        *op.fused(3),
    ]


def _depthwise(op: Op) -> Sequence[Kernel]:
    _, kh, kw, out = op.inputs[1].shape
    stride, dilation = (op.option(2), op.option(1)), (op.option(6, "<i", 1), op.option(5, "<i", 1))
    pads = _window(op, (kh, kw), stride, dilation)
    weight = (out, 1, kh, kw)
    return [
        layers.convolution(op.x, weight, stride, pads, dilation, op.x[1], len(op.inputs) > 2, op.dtype),
        *op.fused(4),
    ]


def _transposed(op: Op) -> Sequence[Kernel]:
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


def _fully_connected(op: Op) -> Sequence[Kernel]:
    c_out, c_in = op.inputs[1].shape
    rows = math.prod(op.inputs[0].shape) // c_in
    return [
        layers.fully_connected(rows, c_in, c_out, len(op.ids) > 2 and op.ids[2] >= 0, op.dtype),
        *op.fused(0),
    ]


def _matmul(op: Op) -> Sequence[Kernel]:
    a, b = (list(each.shape) for each in op.inputs[:2])
    a = [*a[:-2], a[-1], a[-2]] if op.option(0, "<b") else a
    transposed = bool(op.option(1, "<b"))
    b = [*b[:-2], b[-1], b[-2]] if transposed else b
    return [layers.product(a, b, op.dtype, transposed)]


def _binary(family: str) -> Handler:
    def made(op: Op) -> Sequence[Kernel]:
        """Two operands, and the activation fused into them."""
        shapes = [each.shape for each in op.inputs[:2]]
        rank = max(len(each) for each in shapes)
        x, other = (common((*[1] * (rank - len(each)), *each)) for each in shapes)
        return [layers.binary(family, x, other, False, op.dtype), *op.fused(0)]

    return made


def _activation(family: str) -> Handler:
    return lambda op: [layers.activation(family, op.out, False, op.dtype)]


def _gelu(op: Op) -> Sequence[Kernel]:
    return [layers.activation("gelu-tanh" if op.option(0, "<b") else "gelu", op.out, False, op.dtype)]


def _pool(kind: str) -> Handler:
    def made(op: Op) -> Sequence[Kernel]:
        """A window over the image, and the activation fused into it."""
        size, stride = (op.option(4), op.option(3)), (op.option(2), op.option(1))
        if kind == "avgpool" and size == op.x[2:]:
            return [layers.global_pool(op.x, op.dtype), *op.fused(5)]
        pads = _window(op, size, stride, (1, 1))
        return [layers.pool(kind, op.x, size, stride, pads, False, op.dtype), *op.fused(5)]

    return made


def _reduction(op: Op) -> Sequence[Kernel]:
    shape = op.inputs[0].shape
    axes = sorted(axis % len(shape) for axis in op.inputs[1].values) if len(op.inputs) > 1 else []
    if op.kind == "MEAN" and len(shape) == 4 and axes in ([1, 2], [2, 3]):
        return [layers.global_pool(op.x if axes == [1, 2] else shape, op.dtype)]
    outer = bool(axes) and axes[-1] != len(shape) - 1
    return [layers.reduction(shape, math.prod(op.outputs[0].shape), op.dtype, outer)]


def _softmax(op: Op) -> Sequence[Kernel]:
    return [layers.softmax(op.inputs[0].shape, -1, op.dtype)]


def _concat(op: Op) -> Sequence[Kernel]:
    rank = len(op.inputs[0].shape)
    axis = op.option(0) % max(rank, 1)
    order = {0: 0, rank - 1: 1}.get(axis, axis + 1) if rank in (4, 5) else axis
    return [layers.concat([common(each.shape) for each in op.inputs], order, op.dtype), *op.fused(1)]


def _pack(op: Op) -> Sequence[Kernel]:
    """Parts joined along a new axis; single numbers too."""
    rank = len(op.inputs[0].shape) + 1
    axis = op.option(1) % rank
    parts = [(*each.shape[:axis], 1, *each.shape[axis:]) for each in op.inputs]
    return [layers.concat(parts, axis, op.dtype)]


def _split(op: Op) -> Sequence[Kernel]:
    pieces = [math.prod(each.shape) for each in op.outputs]
    return [layers.split((1, sum(pieces)), len(pieces), 1, op.dtype)]


def _transpose(op: Op) -> Sequence[Kernel]:
    x, order = op.inputs[0].shape, op.inputs[1].values
    if sorted(order) != list(range(len(x))):
        return _copy(op)
    return [layers.permuted_copy(*layers.transposed_strides(x, order), op.dtype)]


def _view(op: Op) -> Sequence[Kernel]:
    return [layers.view(op.dtype)]


def _copy(op: Op) -> Sequence[Kernel]:
    return [layers.plain_copy(op.outputs[0].shape, op.outputs[0].dtype)]


def _elementwise(op: Op) -> Sequence[Kernel]:
    return [layers.elementwise(op.outputs[0].shape, len(op.inputs), op.kind.lower(), op.dtype)]


def _gather(op: Op) -> Sequence[Kernel]:
    table, ids = op.inputs[0].shape, op.inputs[1].shape
    if op.option(0):
        return _copy(op)
    return [layers.embedding(math.prod(ids), table[0], math.prod(table[1:]), op.dtype)]


def _lookup(op: Op) -> Sequence[Kernel]:
    ids, table = op.inputs[0].shape, op.inputs[1].shape
    return [layers.embedding(math.prod(ids), table[0], math.prod(table[1:]), op.inputs[1].dtype)]


def _resize(op: Op) -> Sequence[Kernel]:
    mode = "nearest" if "NEAREST" in op.kind else "bilinear"
    return [layers.resize(op.x, op.out[2:], mode, op.dtype)]


def _sequence(family: str) -> Handler:
    def made(op: Op) -> Sequence[Kernel]:
        """A recurrent layer over all steps, batch first but where the options say time is."""
        first, second = op.inputs[0].shape[:2]
        by_time = bool(op.option(3 if family == "lstm" else 0, "<b"))
        steps, batch = (first, second) if by_time else (second, first)
        hidden = op.operand(2 if family == "lstm" else 1).shape[0]
        return [layers.recurrent(family, steps, batch, op.inputs[0].shape[-1], hidden, op.dtype)]

    return made


def _length_norm(op: Op) -> Sequence[Kernel]:
    return [layers.row_norm("rmsnorm", op.inputs[0].shape, op.inputs[0].shape[-1], op.dtype), *op.fused(0)]


def _local_norm(op: Op) -> Sequence[Kernel]:
    """Each number over the mean of squares of its neighbours' channels."""
    reach, x = op.option(0), op.x
    image = (x[0], 1, x[1], math.prod(x[2:]))
    return [
        layers.pool("avgpool", image, (2 * reach + 1, 1), (1, 1), (reach, 0), False, op.dtype),
        layers.elementwise(x, 2, "lrn", op.dtype),
    ]


def _top(op: Op) -> Sequence[Kernel]:
    return [layers.sort(op.inputs[0].shape, -1, op.outputs[0].shape[-1], op.dtype)]


def _overlaps(op: Op) -> Sequence[Kernel]:
    """Boxes in the order of their scores, each compared with those before it."""
    boxes = op.inputs[0].shape[-2]
    kept = math.prod(op.outputs[0].shape)
    return [
        layers.sort((1, boxes), -1, 0, op.dtype),
        layers.elementwise((max(kept, 1), boxes), 4, "iou", op.dtype),
    ]


def _fourier(op: Op) -> Sequence[Kernel]:
    """Images of real numbers; where one row is transformed, it is one."""
    *_, height, width = op.inputs[1].values or op.inputs[0].shape
    rows = math.prod(op.inputs[0].shape[:-1])
    made = [layers.fft((rows, width), 1, "real", op.dtype)]
    bins = width // 2 + 1
    return (
        made if height == 1 else [*made, layers.fft((rows // height * bins, height), 1, "complex", op.dtype)]
    )


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
    ("AVERAGE_POOL_2D L2_POOL_2D", _pool("avgpool")),
    ("MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD REDUCE_ANY REDUCE_ALL ARG_MAX ARG_MIN", _reduction),
    ("SOFTMAX LOG_SOFTMAX", _softmax),
    ("CONCATENATION", _concat),
    ("PACK", _pack),
    ("SPLIT SPLIT_V UNPACK", _split),
    ("TRANSPOSE", _transpose),
    ("RESHAPE SQUEEZE EXPAND_DIMS SHAPE RANK READ_VARIABLE BITCAST BROADCAST_ARGS", _view),
    (
        "PAD PADV2 MIRROR_PAD STRIDED_SLICE SLICE CAST TILE BROADCAST_TO QUANTIZE DEQUANTIZE FILL ZEROS_LIKE",
        _copy,
    ),
    (
        "DEPTH_TO_SPACE SPACE_TO_DEPTH BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND REVERSE_V2 REVERSE_SEQUENCE RANGE",
        _copy,
    ),
    ("GATHER_ND SCATTER_ND DYNAMIC_UPDATE_SLICE MATRIX_DIAG MATRIX_SET_DIAG ONE_HOT REAL IMAG", _copy),
    ("SEGMENT_SUM UNSORTED_SEGMENT_SUM UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN", _copy),
    ("UNSORTED_SEGMENT_PROD", _copy),
    (
        "EXP LOG SQRT RSQRT SQUARE POW NEG ABS SIN COS CEIL FLOOR ROUND SIGN ATAN2 MAXIMUM MINIMUM",
        _elementwise,
    ),
    (
        "LESS GREATER GREATER_EQUAL LESS_EQUAL EQUAL NOT_EQUAL SELECT SELECT_V2 SQUARED_DIFFERENCE",
        _elementwise,
    ),
    (
        "PRELU RELU_N1_TO_1 RELU_0_TO_1 CUMSUM LOGICAL_OR LOGICAL_AND LOGICAL_NOT BITWISE_XOR ADD_N",
        _elementwise,
    ),
    (
        "FLOOR_DIV FLOOR_MOD RIGHT_SHIFT BUCKETIZE COMPLEX_ABS FAKE_QUANT RANDOM_UNIFORM MULTINOMIAL",
        _elementwise,
    ),
    ("RANDOM_STANDARD_NORMAL", _elementwise),
    ("ELU", _activation("elu")),
    ("UNIDIRECTIONAL_SEQUENCE_LSTM", _sequence("lstm")),
    ("UNIDIRECTIONAL_SEQUENCE_RNN", _sequence("rnn")),
    ("L2_NORMALIZATION", _length_norm),
    ("LOCAL_RESPONSE_NORMALIZATION", _local_norm),
    ("TOPK_V2", _top),
    ("NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5", _overlaps),
    ("RFFT2D", _fourier),
    ("GATHER", _gather),
    ("EMBEDDING_LOOKUP", _lookup),
    ("RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR", _resize),
)
TABLE: dict[str, Handler] = {name: handler for names, handler in _BY_HANDLER for name in names.split()}
