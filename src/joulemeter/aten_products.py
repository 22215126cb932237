"""ATen operators that multiply and add: convolutions, products of matrices, attention, recurrent layers.

A call may be several kernels: PyTorch copies an operand that a product cannot read as it lies, and those
copies are kernels too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from joulemeter import layers
from joulemeter.kernel import Kernel
from joulemeter.traced import Call, Tensor

Made = Sequence[Kernel]
Handler = Callable[[Call], Made]


def copies(tensor: Tensor) -> list[Kernel]:
    """The copy PyTorch makes of an operand that does not lie row-major."""
    if tensor.contiguous:
        return []
    return [layers.permuted_copy(tensor.shape, tensor.strides, tensor.dtype)]


def sizes(value: Any, length: int) -> list[int]:
    """A number for each dimension, of one for all or one for each."""
    values = [int(each) for each in value] if isinstance(value, Sequence) else [int(value)]
    return values * length if len(values) == 1 else values


def conv(call: Call) -> Made:
    """A convolution of one to three dimensions, plain or transposed."""
    x, w = call.arguments["input"], call.arguments["weight"]
    dims = len(x.shape) - 2
    stride, dilation = (sizes(call.get(name, 1), dims) for name in ("stride", "dilation"))
    padding = call.get("padding", 0)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        padding = [each // 2 if padding == "same" else 0 for each in reach]
    bias = call.get("bias") is not None
    groups = int(call.get("groups", 1))
    if call.get("transposed", False):
        return transposed(call)
    pads = sizes(padding, dims)
    return [layers.convolution(x.shape, w.shape, stride, pads, dilation, groups, bias, x.dtype, x.layout)]


def transposed(call: Call) -> Made:
    """A transposed convolution of one to three dimensions."""
    x, w = call.arguments["input"], call.arguments["weight"]
    shape, weight = [list(each.shape) for each in (x, w)]
    stride, padding, extra = (
        sizes(call.get(n, o), len(shape) - 2)
        for n, o in (("stride", 1), ("padding", 0), ("output_padding", 0))
    )
    if len(shape) == 3:
        shape, weight = [*shape[:2], 1, shape[2]], [*weight[:2], 1, weight[2]]
        stride, padding, extra = [1, *stride], [0, *padding], [0, *extra]
    if len(shape) == 5:  # depth counts as height: as many products, and as many results
        out = call.results[0].shape
        shape, weight = ([*each[:2], each[2] * each[3], each[4]] for each in (shape, weight))
        stride, padding = [stride[0] * stride[1], stride[2]], [0, padding[2]]
        extra = [out[2] * out[3] - (shape[2] - 1) * stride[0] - weight[2], extra[2]]
    bias = call.get("bias") is not None
    return [
        layers.transposed_convolution(
            shape, weight, stride, padding, extra, int(call.get("groups", 1)), bias, x.dtype
        )
    ]


def linear(call: Call) -> Made:
    """A fully connected layer."""
    x, w = call.arguments["input"], call.arguments["weight"]
    rows = math.prod(x.shape[:-1])
    made = layers.fully_connected(rows, w.shape[-1], w.shape[0], call.get("bias") is not None, x.dtype)
    return [*copies(x), made]


def addmm(call: Call) -> Made:
    """A product of matrices, added to a bias."""
    a, b = call.arguments["mat1"], call.arguments["mat2"]
    return [
        *copies(a),
        layers.fully_connected(a.shape[0], b.shape[0], b.shape[1], True, a.dtype, in_out=True),
    ]


def matmul(call: Call) -> Made:
    """A product of two activations, or of one and a constant."""
    a, b = call.first, call.get("other") or call.get("mat2")
    if b.constant and len(b.shape) == 2:
        in_out = b.contiguous
        rows, (c_in, c_out) = math.prod(a.shape[:-1]), b.shape
        return [*copies(a), layers.fully_connected(rows, c_in, c_out, False, a.dtype, in_out=in_out)]
    transposed = len(b.shape) > 1 and b.strides[-1] != 1
    laid = [copy for each in (a, b) for copy in copies(each) if len(each.shape) > 3]
    return [*laid, layers.product(a.shape, b.shape, a.dtype, transposed and not len(b.shape) > 3)]


def einsum(call: Call) -> Made:
    """A sum of products, two operands at a time, each copied where it does not lie row-major."""
    shapes = [each.shape for each in call.tensors]
    made = layers.contraction(
        str(call.arguments["equation"]), shapes, call.first.dtype, call.tensors[-1].constant
    )
    return [*(copy for each in call.tensors for copy in copies(each)), *made]


def batched_addmm(call: Call) -> Made:
    """Many products, each added to what was there: ``baddbmm``, or ``addbmm``, which adds them all up."""
    a, b = call.arguments["batch1"], call.arguments["batch2"]
    if call.operator.startswith("addbmm"):
        count, rows, inner = a.shape
        return [layers.product((rows, count * inner), (count * inner, b.shape[-1]), a.dtype)]
    return [layers.product(a.shape, b.shape, a.dtype, b.strides[-1] != 1)]


def vector(call: Call) -> Made:
    """A matrix, or a vector, by a vector."""
    a, b = call.tensors[-2:]
    return [layers.product(a.shape, b.shape, a.dtype)]


def grouped(call: Call) -> Made:
    """Rows that each go to one of several matrices: ``_grouped_mm``, or Transformers' own."""
    x, w = call.tensors[:2]
    return layers.grouped_product(x.shape, w.shape, x.dtype)


def bilinear(call: Call) -> Made:
    """Two vectors by a matrix for each result: xᵀ W y."""
    x, y, w = (call.arguments[name] for name in ("input1", "input2", "weight"))
    rows = (math.prod(x.shape[:-1]), x.shape[-1]), (math.prod(y.shape[:-1]), y.shape[-1])
    return layers.contraction("ni,oij,nj->no", (rows[0], w.shape, rows[1]), x.dtype)


def distances(call: Call) -> Made:
    """Every row's distance from every other: a product, and the squares beside it."""
    a, b = call.tensors[:2]
    return [
        layers.product(a.shape, (*b.shape[:-2], b.shape[-1], b.shape[-2]), a.dtype, transposed=True),
        layers.elementwise(call.results[0].shape, 1, "sqrt", a.dtype),
    ]


def deformed_conv(call: Call) -> Made:
    """A convolution of pixels that lie between others: each is read off the image first."""
    x, w = call.arguments["input"], call.arguments["weight"]
    stride = [int(call.arguments[f"stride_{axis}"]) for axis in "hw"]
    pads = [int(call.arguments[f"pad_{axis}"]) for axis in "hw"]
    dilation = [int(call.arguments[f"dilation_{axis}"]) for axis in "hw"]
    out = [n * k for n, k in zip(call.results[0].shape[2:], w.shape[2:], strict=True)]
    groups = x.shape[1] // w.shape[1]
    return [
        layers.resize(x.shape, out, "bilinear", x.dtype),
        layers.convolution(x.shape, w.shape, stride, pads, dilation, groups, True, x.dtype),
    ]


def attention(call: Call) -> Made:
    """Scaled dot-product attention."""
    q, k = call.arguments["query"], call.arguments["key"]
    causal, mask = bool(call.get("is_causal", False)), call.get("attn_mask") is not None
    return [layers.attention(q.shape, k.shape, q.dtype, causal, mask)]


def fast_attention(call: Call) -> Made:
    """``nn.MultiheadAttention`` in one call: the projections are there, whatever it is called."""
    q, heads = call.arguments["query"], int(call.get("num_head", call.get("num_heads", 1)))
    n, length, width = q.shape
    inside = (n, heads, length, width // heads)
    return [
        layers.fully_connected(n * length, width, 3 * width, True, q.dtype),
        layers.attention(inside, inside, q.dtype),
        layers.fully_connected(n * length, width, width, True, q.dtype),
    ]


def fast_encoder(call: Call) -> Made:
    """``nn.TransformerEncoderLayer`` in one call."""
    x, heads = call.arguments["src"], int(call.get("num_heads", 1))
    n, length, width = x.shape
    hidden = call.arguments["ffn_weight_1"].shape[0]
    inside, rows = (n, heads, length, width // heads), n * length
    norm, add = layers.row_norm("layernorm", x.shape, width), layers.binary("add", x.shape, x.shape)
    act = layers.activation("gelu" if call.get("use_gelu", False) else "relu", (rows, hidden))
    one, two = (
        layers.fully_connected(rows, width, hidden, True),
        layers.fully_connected(rows, hidden, width, True),
    )
    project = layers.fully_connected(rows, width, 3 * width, True), layers.attention(inside, inside)
    return [*project, layers.fully_connected(rows, width, width, True), add, norm, one, act, two, add, norm]


def recurrent(family: str) -> Handler:
    """The handler of ``lstm``, ``gru`` or ``rnn``."""
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[family]

    def made(call: Call) -> Made:
        """Each layer and direction is a kernel of its own."""
        x, weights = call.arguments["input"], [w for w in call.arguments["params"] if len(w.shape) == 2]
        batch_first = bool(call.get("batch_first", False))
        batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
        inputs = weights[0::2]
        return [
            layers.recurrent(family, steps, batch, w.shape[1], w.shape[0] // gates, x.dtype) for w in inputs
        ]

    return made


def cell(family: str) -> Handler:
    """The handler of one step of ``lstm``, ``gru`` or ``rnn``."""

    def made(call: Call) -> Made:
        """A layer of one step."""
        x, inside, across = call.arguments["input"], call.arguments["w_ih"], call.arguments["w_hh"]
        rows = math.prod(x.shape[:-1])
        return [layers.recurrent(family, 1, rows, inside.shape[1], across.shape[1], x.dtype)]

    return made


def tensor_product(call: Call) -> Made:
    """Two tensors summed over the named dimensions of each."""
    a, b = call.tensors[:2]
    summed = [each % max(len(a.shape), 1) for each in sizes(call.arguments["dims_self"], 1)]
    inner = math.prod(a.shape[each] for each in summed)
    rows, columns = (math.prod(each.shape) // max(inner, 1) for each in (a, b))
    return [layers.product((rows, inner), (inner, columns), a.dtype)]


def conv_by_time(call: Call) -> Made:
    """A convolution whose operands lie time first: ``conv_tbc``."""
    x, w = call.arguments["self"], call.arguments["weight"]
    time, batch, channels = x.shape
    shape = w.shape[2], w.shape[1], w.shape[0]
    return [
        layers.convolution(
            (batch, channels, time), shape, [1], [int(call.get("pad", 0))], [1], 1, True, x.dtype
        )
    ]
