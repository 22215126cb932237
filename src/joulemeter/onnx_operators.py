"""What each ONNX operator is, as kernels: the table that the ONNX reader looks nodes up in.

Attributes are those of the specification (onnx.ai/onnx/operators) and of the operators that ONNX Runtime
adds, which its optimised graphs are made of. An operator may be several kernels: one with its activation
fused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulemeter import layers
from joulemeter.kernel import Kernel

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One ONNX node: shapes of its inputs and first result, constants where they are small; ``known`` says
    which inputs' shapes are."""

    kind: str
    domain: str
    inputs: tuple[Shape, ...]
    present: tuple[bool, ...]
    known: tuple[bool, ...]
    weights: tuple[bool, ...]
    values: tuple[Sequence[float] | None, ...]
    out: Shape
    results: int
    attributes: Mapping[str, Any]
    dtype: str

    def shape(self, i: int) -> Shape:
        """The shape of input ``i``; empty where there is none."""
        return self.inputs[i] if i < len(self.inputs) else ()

    def has(self, i: int) -> bool:
        """Whether input ``i`` is there."""
        return i < len(self.present) and self.present[i]

    def numbers(self, i: int) -> list[float] | None:
        """The constant of input ``i``; None where it is not one."""
        value = self.values[i] if i < len(self.values) else None
        return None if value is None else list(value)

    def attribute(self, name: str, otherwise: Any) -> Any:
        """An attribute's value, or ``otherwise``."""
        return self.attributes.get(name, otherwise)


Handler = Callable[[Op], Sequence[Kernel]]


def _pads(
    op: Op, dims: int, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int], x: Shape
) -> list[int]:
    auto = op.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return [layers.same_padding(x[2 + i], window[i], stride[i], dilation[i]) for i in range(dims)]
    pads = list(op.attribute("pads", [0] * 2 * dims))
    # Two ends that differ count as their mean, rounded up, which keeps the number of results.
    return [-(-(pads[i] + pads[dims + i]) // 2) for i in range(dims)]


def _conv(op: Op) -> Sequence[Kernel]:
    x, w = op.shape(0), op.shape(1)
    dims = len(x) - 2
    stride = list(op.attribute("strides", [1] * dims))
    dilation = list(op.attribute("dilations", [1] * dims))
    pads = _pads(op, dims, w[2:], stride, dilation, x)
    groups = int(op.attribute("group", 1))
    if op.kind == "ConvTranspose":
        extra = list(op.attribute("output_padding", [0] * dims))
        return [layers.transposed_convolution(x, w, stride, pads, extra, groups, op.has(2), op.dtype)]
    conv = layers.convolution(x, w, stride, pads, dilation, groups, op.has(2), op.dtype)
    act = _ACTIVATIONS.get(str(op.attribute("activation", "")))
    added = [layers.binary("add", op.out, op.out, True)] if op.has(3) else []
    return [conv, *added, *([layers.activation(act, op.out, True)] if act else [])]


def _gemm(op: Op) -> Sequence[Kernel]:
    a, b = op.shape(0), op.shape(1)
    rows, inner = (a[1], a[0]) if op.attribute("transA", 0) else a[:2]
    columns = b[0] if op.attribute("transB", 0) else b[1]
    made = layers.fully_connected(rows, inner, columns, op.has(2), op.dtype)
    act = _ACTIVATIONS.get(str(op.attribute("activation", "")))
    return [made, layers.activation(act, op.out, True)] if act else [made]


def _matmul(op: Op) -> Sequence[Kernel]:
    a, b = op.shape(0), op.shape(1)
    if len(b) == 2 and (len(a) > 2 or op.weights[1]):
        return [layers.fully_connected(math.prod(a[:-1]), a[-1], b[-1], False, op.dtype)]
    if op.attribute("transA", 0):
        a = (*a[:-2], a[-1], a[-2])
    transposed = bool(op.attribute("transB", 0))
    return [layers.product(a, (*b[:-2], b[-1], b[-2]) if transposed else b, op.dtype, transposed)]


def _binary(family: str) -> Handler:
    return lambda op: [layers.binary(family, op.shape(0), op.shape(1), False, op.dtype)]


def _activation(family: str) -> Handler:
    return lambda op: [layers.activation(family, op.out, False, op.dtype)]


def _clip(op: Op) -> Sequence[Kernel]:
    low, high = (op.numbers(i) or [op.attribute(n, None)] for i, n in ((1, "min"), (2, "max")))
    if low == [0.0] and high == [6.0]:
        return [layers.activation("relu6", op.out, False, op.dtype)]
    return [layers.elementwise(op.out, 1, "clip", op.dtype)]


def _gelu(op: Op) -> Sequence[Kernel]:
    kind = "gelu-tanh" if op.attribute("approximate", "none") == "tanh" or op.kind == "FastGelu" else "gelu"
    return [layers.activation(kind, op.out, False, op.dtype)]


def _elementwise(op: Op) -> Sequence[Kernel]:
    return [
        layers.elementwise(op.out, max(1, sum(1 for each in op.inputs if each)), op.kind.lower(), op.dtype)
    ]


def _pool(kind: str) -> Handler:
    def made(op: Op) -> Sequence[Kernel]:
        """A window over the image, as its attributes say."""
        x = op.shape(0)
        dims = len(x) - 2
        window = list(op.attribute("kernel_shape", [1] * dims))
        stride = list(op.attribute("strides", [1] * dims))
        pads = _pads(op, dims, window, stride, [1] * dims, x)
        if dims == 1:
            x, window, stride, pads = (*x[:2], 1, x[2]), [1, *window], [1, *stride], [0, *pads]
        if tuple(window) == tuple(x[2:]) and kind == "avgpool":
            return [layers.global_pool(x, op.dtype)]
        return [
            layers.pool(
                kind, x[:4], window[:2], stride[:2], pads[:2], bool(op.attribute("ceil_mode", 0)), op.dtype
            )
        ]

    return made


def _global_pool(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    return [layers.global_pool((*x, 1)[:4] if len(x) < 4 else x, op.dtype)]


def _batch_norm(op: Op) -> Sequence[Kernel]:
    return [layers.batch_norm(op.shape(0), op.dtype)]


def _layer_norm(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    family = "rmsnorm" if "RMS" in op.kind or "Simplified" in op.kind else "layernorm"
    made = layers.row_norm(
        family,
        x,
        x[-1] if op.kind.startswith("Skip") else math.prod(x[int(op.attribute("axis", -1)) :]),
        op.dtype,
    )
    return [layers.binary("add", x, x), made] if op.kind.startswith("Skip") else [made]


def _group_norm(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    return [layers.group_norm(x, int(op.attribute("num_groups", x[1])), op.dtype)]


def _length_norm(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    return [layers.row_norm("rmsnorm", x, x[int(op.attribute("axis", -1))], op.dtype)]


def _softmax(op: Op) -> Sequence[Kernel]:
    return [layers.softmax(op.shape(0), int(op.attribute("axis", -1)), op.dtype)]


def _reduction(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    axes = op.attribute("axes", None) or op.numbers(1) or []
    axes = sorted(int(axis) % len(x) for axis in axes) if x else []
    if op.kind == "ReduceMean" and len(x) == 4 and axes == [2, 3]:
        return [layers.global_pool(x, op.dtype)]
    return [layers.reduction(x, math.prod(op.out), op.dtype, outer=bool(axes) and axes[-1] != len(x) - 1)]


def _concat(op: Op) -> Sequence[Kernel]:
    parts = [each for each in op.inputs if math.prod(each)]
    return [layers.concat(parts, int(op.attribute("axis", 0)), op.dtype)] if parts else [layers.view()]


def _split(op: Op) -> Sequence[Kernel]:
    return [layers.split(op.shape(0), op.results, int(op.attribute("axis", 0)), op.dtype)]


def _transpose(op: Op) -> Sequence[Kernel]:
    x = op.shape(0)
    order = list(op.attribute("perm", list(range(len(x)))[::-1]))
    return [layers.permuted_copy(*layers.transposed_strides(x, order), op.dtype)]


def _view(op: Op) -> Sequence[Kernel]:
    return [layers.view(op.dtype)]


def _copy(op: Op) -> Sequence[Kernel]:
    return [layers.plain_copy(op.out, op.dtype)]


def _gather(op: Op) -> Sequence[Kernel]:
    table, tokens = op.shape(0), math.prod(op.shape(1))
    axis = int(op.attribute("axis", 0)) % max(1, len(table))
    if axis or tokens <= 1:
        return [layers.plain_copy(op.out, op.dtype)]
    return [layers.embedding(tokens, table[0], math.prod(table[1:]), op.dtype)]


def _resize(op: Op) -> Sequence[Kernel]:
    if len(op.shape(0)) != 4:
        return _copy(op)
    return [layers.resize(op.shape(0), op.out[2:], str(op.attribute("mode", "nearest")), op.dtype)]


def _einsum(op: Op) -> Sequence[Kernel]:
    equation = str(op.attribute("equation", ""))
    return layers.contraction(equation, op.inputs, op.dtype, weight=op.weights[-1])


def _local_norm(op: Op) -> Sequence[Kernel]:
    """Each number over the mean of squares of its neighbours' channels."""
    x, size = op.shape(0), int(op.attribute("size", 5))
    image = (x[0], 1, x[1], math.prod(x[2:]))
    return [
        layers.pool("avgpool", image, (size, 1), (1, 1), (size // 2, 0), False, op.dtype),
        layers.elementwise(x, 2, "lrn", op.dtype),
    ]


def _sampled(op: Op) -> Sequence[Kernel]:
    """Pixels read off between others: at the places of a grid, or of boxes."""
    x = op.shape(0)
    if len(x) != 4 or len(op.out) != 4:
        return _copy(op)
    return [layers.resize(x, (op.out[0] * op.out[2] // max(x[0], 1) or 1, op.out[3]), "bilinear", op.dtype)]


def _deformed(op: Op) -> Sequence[Kernel]:
    """A convolution of pixels that lie between others: each is read off the image first."""
    x, w = op.shape(0), op.shape(1)
    out = [n * k for n, k in zip(op.out[2:], w[2:], strict=True)]
    ones = [1, 1]
    strides, dilations = (list(op.attribute(name, ones)) for name in ("strides", "dilations"))
    pads = _pads(op, 2, w[2:], strides, dilations, x)
    groups = int(op.attribute("group", 1))
    return [
        layers.resize(x, out, "bilinear", op.dtype),
        layers.convolution(x, w, strides, pads, dilations, groups, op.has(3), op.dtype),
    ]


def _top(op: Op) -> Sequence[Kernel]:
    x, axis = op.shape(0), int(op.attribute("axis", -1))
    return [layers.sort(x, axis, op.out[axis] if op.out else 0, op.dtype)]


def _fourier(op: Op) -> Sequence[Kernel]:
    """A transform along one axis; the last one holds the parts of complex numbers."""
    x = op.shape(0)
    axis = int((op.numbers(2) or [op.attribute("axis", 1)])[0])
    kind = "complex" if x[-1] == 2 and len(x) > 1 else "real"
    return [layers.fft(x[:-1], axis if axis >= 0 else axis + 1, kind, op.dtype)]


def _spectrogram(op: Op) -> Sequence[Kernel]:
    """Frames of a signal, each by a window and then transformed."""
    n, frames, bins, _ = op.out
    complex_in = len(op.shape(0)) > 2 and op.shape(0)[-1] == 2
    points = (op.numbers(3) or [0])[0] or (op.shape(2) or (0,))[0]
    points = int(points) or (bins if not op.attribute("onesided", 1) else 2 * (bins - 1))
    rows = (n * frames, points)
    return [
        layers.binary("mul", rows, (points,), False, op.dtype),
        layers.fft(rows, 1, "complex" if complex_in else "real", op.dtype),
    ]


def _rotary(op: Op) -> Sequence[Kernel]:
    """Pairs of numbers turned by the angle of their place: two products and a sum for each."""
    return [layers.elementwise(op.out or op.shape(0), 3, "rotary", op.dtype)]


def _grouped_attention(op: Op) -> Sequence[Kernel]:
    """ONNX Runtime's attention with a cache: keys are those of the cache and the new ones."""
    q, heads = op.shape(0), int(op.attribute("num_heads", 1))
    keys, past = int(op.attribute("kv_num_heads", heads)), op.shape(3)
    n, length, width = q
    head = width // (heads if op.has(1) else heads + 2 * keys)
    seen = length + (past[2] if len(past) == 4 else 0)
    return [layers.attention((n, heads, length, head), (n, keys, seen, head), op.dtype, causal=True)]


def _recurrent(op: Op) -> Sequence[Kernel]:
    x, w = op.shape(0), op.shape(1)
    hidden = int(op.attribute("hidden_size", op.shape(2)[-1]))
    return [layers.recurrent(op.kind.lower(), x[0], x[1], x[2], hidden, op.dtype)] * w[0]


def _attention(op: Op) -> Sequence[Kernel]:
    """The standard's Attention (operands with or without a dimension for heads), or the contributed ones."""
    q = op.shape(0)
    heads = int(op.attribute("q_num_heads", op.attribute("num_heads", 1)))
    if len(q) == 4:
        return [layers.attention(q, op.shape(1), op.dtype, bool(op.attribute("is_causal", 0)))]
    n, length, width = q
    if op.kind == "Attention" and op.domain == "com.microsoft":
        inside = (n, heads, length, op.out[-1] // heads)
        return [
            layers.fully_connected(n * length, width, op.shape(1)[-1], True),
            layers.attention(inside, inside),
        ]
    keys = int(op.attribute("kv_num_heads", heads))
    k = op.shape(1) or q
    return [layers.attention((n, heads, length, width // heads), (n, keys, k[1], k[2] // keys), op.dtype)]


_ACTIVATIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "LeakyRelu": "leaky-relu", "Clip": "relu6",
    "HardSigmoid": "hardsigmoid", "HardSwish": "hswish", "Elu": "elu",
}  # fmt: skip
_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("Conv FusedConv ConvTranspose", _conv),
    ("Gemm FusedGemm", _gemm),
    ("MatMul FusedMatMul", _matmul),
    ("Add", _binary("add")),
    ("Mul", _binary("mul")),
    ("Sub", _binary("sub")),
    ("Div", _binary("div")),
    ("Clip", _clip),
    ("Gelu FastGelu BiasGelu", _gelu),
    ("Silu QuickGelu Swish", _activation("silu")),
    (
        "Neg Exp Sqrt Abs Erf Pow Log Reciprocal Sign Floor Ceil Round Sin Cos Max Min Equal Greater Less "
        "Not And Or "
        "GreaterOrEqual LessOrEqual Where Softplus Mish PRelu Selu Celu Softsign ThresholdedRelu Mod Xor "
        "CumSum Trilu IsNaN "
        "BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift IsInf Sum Mean Range EyeLike Tan Asin Acos "
        "Atan Sinh Cosh Asinh Acosh Atanh Shrink Hardmax CumProd RandomNormal RandomNormalLike RandomUniform "
        "RandomUniformLike Bernoulli HannWindow HammingWindow BlackmanWindow OneHot BiasAdd",
        _elementwise,
    ),
    ("MaxPool", _pool("maxpool")),
    ("AveragePool LpPool", _pool("avgpool")),
    ("GlobalAveragePool GlobalMaxPool GlobalLpPool", _global_pool),
    ("Einsum", _einsum),
    ("LRN", _local_norm),
    ("GridSample RoiAlign MaxRoiPool", _sampled),
    ("DeformConv", _deformed),
    ("TopK", _top),
    ("DFT", _fourier),
    ("STFT", _spectrogram),
    ("RotaryEmbedding", _rotary),
    ("GroupQueryAttention", _grouped_attention),
    ("BatchNormalization", _batch_norm),
    (
        "LayerNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization "
        "SkipSimplifiedLayerNormalization",
        _layer_norm,
    ),
    ("GroupNormalization InstanceNormalization MeanVarianceNormalization", _group_norm),
    ("LpNormalization", _length_norm),
    ("Softmax LogSoftmax", _softmax),
    (
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare "
        "ReduceLogSumExp ReduceLogSum ArgMax ArgMin",
        _reduction,
    ),
    ("Concat", _concat),
    ("Split", _split),
    ("Transpose", _transpose),
    ("Reshape Flatten Squeeze Unsqueeze Identity Dropout", _view),
    (
        "Slice Pad Tile Expand Cast DepthToSpace SpaceToDepth GatherElements GatherND ScatterND "
        "ScatterElements CastLike Scatter ReverseSequence Col2Im CenterCropPad MaxUnpool TensorScatter "
        "ReorderInput ReorderOutput",
        _copy,
    ),
    ("Gather", _gather),
    ("Resize Upsample", _resize),
    ("LSTM GRU RNN", _recurrent),
    ("Attention MultiHeadAttention", _attention),
)
TABLE: dict[str, Handler] = {
    **{name: handler for names, handler in _BY_HANDLER for name in names.split()},
    **{name: _activation(family) for name, family in _ACTIVATIONS.items() if name != "Clip"},
}
