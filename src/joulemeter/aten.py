"""What each ATen operator is, as kernels: the table that the PyTorch reader looks calls up in.

A call may be several kernels: PyTorch copies an operand that a product cannot read as it lies, and those
copies are kernels too. Names of arguments are those of the operators' schemas (native_functions.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from joulemeter import layers
from joulemeter.kernel import Kernel
from joulemeter.network import Node
from joulemeter.traced import Call, Tensor, viewable

Made = Sequence[Kernel]
Handler = Callable[[Call], Made]


def nodes(call: Call) -> list[Node]:
    """The nodes of one call: none for bookkeeping, one without a kernel where nobody has a formula."""
    bare = call.operator.rstrip("_") if not call.operator.startswith("_") else call.operator
    if bare in _BOOKKEEPING or call.operator in _BOOKKEEPING:
        return []
    reads = tuple(each.name for each in call.tensors)
    writes = tuple(each.name for each in call.results)
    handler = _TABLE.get(bare) if call.namespace == "aten" else None
    if handler is None or not call.results:
        moved = math.fsum(each.bytes for each in (*call.tensors, *call.results))
        why = "no formula for this operator"
        return [
            Node(None, f"{call.namespace}.{call.operator}", call.name, call.module, reads, writes, moved, why)
        ]
    made = list(handler(call))
    full = f"{call.namespace}.{call.operator}"
    copies = [Node(kernel, f"{full} (copy)", call.name, call.module) for kernel in made[:-1]]
    return [*copies, *(Node(kernel, full, call.name, call.module, reads, writes) for kernel in made[-1:])]


def _copies(tensor: Tensor) -> list[Kernel]:
    """The copy PyTorch makes of an operand that does not lie row-major."""
    if tensor.contiguous:
        return []
    return [layers.permuted_copy(tensor.shape, tensor.strides, tensor.dtype)]


def _list(value: Any, length: int) -> list[int]:
    values = [int(each) for each in value] if isinstance(value, Sequence) else [int(value)]
    return values * length if len(values) == 1 else values


def _conv(call: Call) -> Made:
    x, w = call.arguments["input"], call.arguments["weight"]
    dims = len(x.shape) - 2
    stride, dilation = (_list(call.get(name, 1), dims) for name in ("stride", "dilation"))
    padding = call.get("padding", 0)
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        padding = [each // 2 if padding == "same" else 0 for each in reach]
    bias = call.get("bias") is not None
    groups = int(call.get("groups", 1))
    if call.get("transposed", False):
        return _transposed(call)
    pads = _list(padding, dims)
    return [layers.convolution(x.shape, w.shape, stride, pads, dilation, groups, bias, x.dtype, x.layout)]


def _transposed(call: Call) -> Made:
    x, w = call.arguments["input"], call.arguments["weight"]
    shape, weight = [list(each.shape) for each in (x, w)]
    stride, padding, extra = (
        _list(call.get(n, o), len(shape) - 2)
        for n, o in (("stride", 1), ("padding", 0), ("output_padding", 0))
    )
    if len(shape) == 3:
        shape, weight = [*shape[:2], 1, shape[2]], [*weight[:2], 1, weight[2]]
        stride, padding, extra = [1, *stride], [0, *padding], [0, *extra]
    bias = call.get("bias") is not None
    return [
        layers.transposed_convolution(
            shape, weight, stride, padding, extra, int(call.get("groups", 1)), bias, x.dtype
        )
    ]


def _linear(call: Call) -> Made:
    x, w = call.arguments["input"], call.arguments["weight"]
    rows = math.prod(x.shape[:-1])
    made = layers.fully_connected(rows, w.shape[-1], w.shape[0], call.get("bias") is not None, x.dtype)
    return [*_copies(x), made]


def _addmm(call: Call) -> Made:
    a, b = call.arguments["mat1"], call.arguments["mat2"]
    return [
        *_copies(a),
        layers.fully_connected(a.shape[0], b.shape[0], b.shape[1], True, a.dtype, in_out=True),
    ]


def _matmul(call: Call) -> Made:
    a, b = call.first, call.get("other") or call.get("mat2")
    if b.constant and len(b.shape) == 2:
        in_out = b.contiguous
        rows, (c_in, c_out) = math.prod(a.shape[:-1]), b.shape
        return [*_copies(a), layers.fully_connected(rows, c_in, c_out, False, a.dtype, in_out=in_out)]
    transposed = len(b.shape) > 1 and b.strides[-1] != 1
    copies = [copy for each in (a, b) for copy in _copies(each) if len(each.shape) > 3]
    return [*copies, layers.product(a.shape, b.shape, a.dtype, transposed and not len(b.shape) > 3)]


def _einsum(call: Call) -> Made:
    """Two operands: letters in both and in the result count products, those only in both are summed over."""
    left, _, result = str(call.arguments["equation"]).replace(" ", "").partition("->")
    letters = left.split(",")
    if len(letters) != 2 or "." in left:
        return [layers.elementwise(call.results[0].shape, len(call.tensors), "einsum")]
    a, b = letters
    size = {
        c: n
        for names, x in zip(letters, call.tensors, strict=True)
        for c, n in zip(names, x.shape, strict=True)
    }
    both = [c for c in a if c in b]
    count = math.prod(size[c] for c in both if c in result)
    inner = math.prod(size[c] for c in both if c not in result)
    rows = math.prod(size[c] for c in a if c not in b)
    columns = math.prod(size[c] for c in b if c not in a)
    copies = [copy for each in call.tensors for copy in _copies(each)]
    return [*copies, layers.product((count, rows, inner), (count, inner, columns), call.first.dtype)]


def _attention(call: Call) -> Made:
    q, k = call.arguments["query"], call.arguments["key"]
    causal, mask = bool(call.get("is_causal", False)), call.get("attn_mask") is not None
    return [layers.attention(q.shape, k.shape, q.dtype, causal, mask)]


def _fast_attention(call: Call) -> Made:
    """``nn.MultiheadAttention`` in one call: the projections are there, whatever it is called."""
    q, heads = call.arguments["query"], int(call.get("num_head", call.get("num_heads", 1)))
    n, length, width = q.shape
    inside = (n, heads, length, width // heads)
    return [
        layers.fully_connected(n * length, width, 3 * width, True, q.dtype),
        layers.attention(inside, inside, q.dtype),
        layers.fully_connected(n * length, width, width, True, q.dtype),
    ]


def _fast_encoder(call: Call) -> Made:
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


def _batch_norm(call: Call) -> Made:
    x = call.first
    return [layers.batch_norm(x.shape, x.dtype, x.layout, bool(call.get("training", False)))]


def _dropout(call: Call) -> Made:
    """Nothing but in training, where it draws a number for each of its input."""
    if call.get("train", False) and call.get("p", 0.5) > 0:
        return [layers.activation("dropout", call.first.shape, False, call.first.dtype)]
    return _view(call)


def _instance_norm(call: Call) -> Made:
    return [layers.group_norm(call.first.shape, call.first.shape[1], call.first.dtype)]


def _group_norm(call: Call) -> Made:
    return [
        layers.group_norm(
            call.first.shape, int(call.get("num_groups", call.get("group", 1))), call.first.dtype
        )
    ]


def _row_norm(family: str) -> Handler:
    def made(call: Call) -> Made:
        """A norm of rows over the sizes that it is told."""
        features = math.prod(call.arguments["normalized_shape"])
        return [*_copies(call.first), layers.row_norm(family, call.first.shape, features, call.first.dtype)]

    return made


def _activation(family: str) -> Handler:
    def made(call: Call) -> Made:
        """The activation by its own name, in place where it was called so."""
        name = "gelu-tanh" if family == "gelu" and call.get("approximate") == "tanh" else family
        in_place = call.in_place and family in ("relu", "relu6", "hswish", "silu", "leaky-relu")
        return [layers.activation(name, call.first.shape, in_place, call.first.dtype)]

    return made


def _hardtanh(call: Call) -> Made:
    bounded = call.get("min_val", -1) == 0 and call.get("max_val", 1) == 6
    if bounded:
        return [layers.activation("relu6", call.first.shape, call.in_place, call.first.dtype)]
    return [layers.elementwise(call.first.shape, 1, "hardtanh", call.first.dtype)]


def _binary(family: str) -> Handler:
    def made(call: Call) -> Made:
        """Two operands, of which the second may be a number."""
        x, other = call.first, call.get("other")
        if not isinstance(other, Tensor):
            return [layers.binary(family, x.shape, (), call.in_place, x.dtype)]
        mixed = "channels-last" if x.shape == other.shape and x.layout != other.layout else ""
        in_place = call.in_place and family in ("add", "mul")
        return [layers.binary(family, x.shape, other.shape, in_place, x.dtype, mixed)]

    return made


def _elementwise(call: Call) -> Made:
    result = call.results[0]
    return [layers.elementwise(result.shape, max(1, len(call.tensors)), call.operator, result.dtype)]


def _fill(call: Call) -> Made:
    return [layers.elementwise(call.results[0].shape, 1, "fill", call.results[0].dtype)]


def _pool(kind: str) -> Handler:
    def made(call: Call) -> Made:
        """A window over the image, as its arguments say."""
        x = call.first
        dims = len(x.shape) - 2
        window = _list(call.arguments["kernel_size"], dims)
        stride = _list(call.get("stride") or window, dims)
        padding = _list(call.get("padding", 0), dims)
        shape = x.shape
        if dims == 1:
            shape, window, stride, padding = (
                (*shape[:2], 1, shape[2]),
                [1, *window],
                [1, *stride],
                [0, *padding],
            )
        if dims == 3:  # depth counts as more images: the window's depth is left to its height
            shape = (shape[0], shape[1], shape[2] * shape[3], shape[4])
            window, stride = [window[0] * window[1], window[2]], [stride[0] * stride[1], stride[2]]
            padding = padding[1:]
        return [
            layers.pool(
                kind, shape, window, stride, padding, bool(call.get("ceil_mode", False)), x.dtype, x.layout
            )
        ]

    return made


def _adaptive(kind: str) -> Handler:
    def made(call: Call) -> Made:
        """A pool whose result has a given size; a reduction where that is no image."""
        x, out = call.first, call.results[0].shape[2:]
        if len(x.shape) != 4:
            return [layers.reduction(x.shape, math.prod(call.results[0].shape), x.dtype)]
        return [layers.adaptive_pool(kind, x.shape, out, x.dtype, x.layout)]

    return made


def _softmax(call: Call) -> Made:
    x = call.first
    return [layers.softmax(x.shape, int(call.get("dim", -1)), x.dtype)]


def _reduction(call: Call) -> Made:
    x, results = call.first, math.prod(call.results[0].shape)
    dims = call.get("dim", [])
    dims = [d % len(x.shape) for d in _list(dims, 1)] if x.shape else []
    if call.operator == "mean" and len(x.shape) == 4 and sorted(dims) == [2, 3]:
        return [layers.global_pool(x.shape, x.dtype, x.layout)]
    inner = bool(dims) and max(dims) == len(x.shape) - 1
    return [layers.reduction(x.shape, results, x.dtype, outer=bool(dims) and not inner)]


def _concat(call: Call) -> Made:
    parts = [each.shape for each in call.arguments["tensors"] if isinstance(each, Tensor)]
    full = [shape for shape in parts if math.prod(shape)] or parts
    if call.operator == "stack":
        return [layers.concat([(1, *shape) for shape in full], 0, call.first.dtype)]
    return [layers.concat(full, int(call.get("dim", 0)), call.first.dtype)]


def _view(call: Call) -> Made:
    return [layers.view(call.first.dtype if call.tensors else "float32")]


def _reshape(call: Call) -> Made:
    x = call.first
    if viewable(x.shape, x.strides, call.results[0].shape):
        return [layers.view(x.dtype)]
    return [layers.permuted_copy(x.shape, x.strides, x.dtype)]


def _contiguous(call: Call) -> Made:
    return _copies(call.first) or [layers.view(call.first.dtype)]


def _clone(call: Call) -> Made:
    return _copies(call.first) or [layers.plain_copy(call.first.shape, call.first.dtype)]


def _to(call: Call) -> Made:
    x, result = call.first, call.results[0]
    return [layers.view(x.dtype) if x.dtype == result.dtype else layers.plain_copy(x.shape, result.dtype)]


def _copy_result(call: Call) -> Made:
    return [layers.plain_copy(call.results[0].shape, call.results[0].dtype)]


def _embedding(call: Call) -> Made:
    table, tokens = call.arguments["weight"], call.arguments["indices"]
    return [
        layers.embedding(math.prod(tokens.shape), table.shape[0], math.prod(table.shape[1:]), table.dtype)
    ]


def _index(call: Call) -> Made:
    x, result = call.first, call.results[0]
    width = math.prod(x.shape[1:])
    tokens = max(1, math.prod(result.shape) // max(width, 1))
    return [layers.embedding(tokens, max(x.shape[:1] or (1,)), width, x.dtype)]


def _resize(call: Call) -> Made:
    x, out = call.first, call.results[0].shape
    mode = "nearest" if "nearest" in call.operator else "bilinear"
    return [layers.resize(x.shape, out[2:], mode, x.dtype)]


def _recurrent(family: str) -> Handler:
    gates = {"lstm": 4, "gru": 3}[family]

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


_BOOKKEEPING = frozenset((
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_size", "sym_numel", "sym_stride",
    "sym_constrain_range", "sym_constrain_range_for_size", "getitem", "item", "lift_fresh_copy", "lift_fresh",
    "detach", "_local_scalar_dense",
))  # fmt: skip

_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("conv1d conv2d conv3d convolution", _conv),
    ("conv_transpose1d conv_transpose2d", _transposed),
    ("linear", _linear),
    ("addmm", _addmm),
    ("matmul mm bmm", _matmul),
    ("einsum", _einsum),
    ("scaled_dot_product_attention", _attention),
    ("_native_multi_head_attention", _fast_attention),
    ("_transformer_encoder_layer_fwd", _fast_encoder),
    ("batch_norm _native_batch_norm_legit_no_training native_batch_norm", _batch_norm),
    ("instance_norm", _instance_norm),
    ("group_norm native_group_norm", _group_norm),
    ("layer_norm native_layer_norm", _row_norm("layernorm")),
    ("rms_norm", _row_norm("rmsnorm")),
    ("hardswish", _activation("hswish")),
    ("leaky_relu", _activation("leaky-relu")),
    ("hardtanh", _hardtanh),
    (
        "neg exp sqrt abs rsqrt pow log log1p sin cos erf ne eq ge gt le lt __and__ __or__ __xor__ "
        "bitwise_and "
        "bitwise_or bitwise_not logical_and logical_or logical_not where masked_fill clamp clamp_min "
        "clamp_max "
        "maximum minimum rsub floor ceil round sign square reciprocal softplus mish prelu triu tril cumsum "
        "diff "
        "floor_divide remainder isinf isnan addcmul addcdiv lerp celu selu hardshrink threshold log_sigmoid",
        _elementwise,
    ),
    (
        "arange new_zeros new_ones zeros ones full fill zero zeros_like ones_like full_like new_full "
        "scalar_tensor",
        _fill,
    ),
    ("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices", _pool("maxpool")),
    ("avg_pool1d avg_pool2d avg_pool3d", _pool("avgpool")),
    ("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", _adaptive("avgpool")),
    ("adaptive_max_pool2d", _adaptive("maxpool")),
    ("dropout feature_dropout alpha_dropout feature_alpha_dropout", _dropout),
    ("softmax log_softmax _softmax _log_softmax", _softmax),
    (
        "mean sum amax amin max min argmax argmin var std norm linalg_vector_norm prod any all var_mean "
        "logsumexp",
        _reduction,
    ),
    ("cat concat stack concatenate", _concat),
    (
        "view permute transpose t unsqueeze squeeze select slice expand chunk split split_with_sizes unbind "
        "alias "
        "unflatten swapaxes movedim narrow view_as expand_as numpy_T "
        "diagonal real broadcast_to unfold as_strided",
        _view,
    ),
    ("reshape flatten _unsafe_view _reshape_alias view_copy reshape_as", _reshape),
    ("contiguous", _contiguous),
    ("clone", _clone),
    ("to _to_copy type_as float half", _to),
    (
        "pad constant_pad_nd reflection_pad2d replication_pad2d roll copy pixel_shuffle pixel_unshuffle "
        "channel_shuffle repeat flip gather scatter slice_scatter select_scatter im2col col2im "
        "repeat_interleave tile index_put scatter_add",
        _copy_result,
    ),
    ("embedding", _embedding),
    ("index index_select", _index),
    (
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa "
        "_upsample_bilinear2d_aa",
        _resize,
    ),
    ("lstm", _recurrent("lstm")),
    ("gru", _recurrent("gru")),
)
_TABLE: dict[str, Handler] = {
    **{name: handler for names, handler in _BY_HANDLER for name in names.split()},
    **{
        name: _activation(name)
        for name in ("relu", "relu6", "sigmoid", "hardsigmoid", "silu", "gelu", "tanh", "elu")
    },
    **{name: _binary(name) for name in ("add", "mul", "sub", "div")},
}
