"""What each ATen operator is, as kernels: the table that the PyTorch reader looks calls up in.

A call may be several kernels: PyTorch copies an operand that a product cannot read as it lies, and those
copies are kernels too. Names of arguments are those of the operators' schemas (native_functions.yaml).
"""

from __future__ import annotations

import math
from dataclasses import replace

from joulemeter import aten_products as products
from joulemeter import layers
from joulemeter.aten_products import Handler, Made
from joulemeter.errors import GraphError
from joulemeter.kernel import Kernel
from joulemeter.network import Node
from joulemeter.traced import Call, Tensor, viewable


def nodes(call: Call, network: str = "") -> list[Node]:
    """The nodes of one call: none for bookkeeping, one without a kernel where nobody has a formula. Raises
    GraphError where it is control flow."""
    if call.operator in _CONTROL:
        raise GraphError(
            f"{network}: '{call.name}' is control flow ({call.operator}): how often it runs is not in the "
            "graph",
            "export the branch or the unrolled loop that runs",
        )
    bare = call.operator.rstrip("_") if not call.operator.startswith("_") else call.operator
    full = f"{call.namespace}.{call.operator}"
    if bare in _BOOKKEEPING or call.operator in _BOOKKEEPING or not (call.tensors or call.results):
        return []
    reads = tuple(each.name for each in call.tensors)
    writes = tuple(each.name for each in call.results)
    handler = _TABLE.get(bare) if call.namespace == "aten" else _OTHERS.get(full)
    if handler is None or not call.results:
        moved = math.fsum(each.bytes for each in (*call.tensors, *call.results))
        why = "no formula for this operator"
        return [Node(None, full, call.name, call.module, reads, writes, moved, why)]
    empty = all(0 in each.shape for each in call.results)
    made = [layers.view()] if empty else _narrowed(call, handler(call))
    copies = [Node(kernel, f"{full} (copy)", call.name, call.module) for kernel in made[:-1]]
    return [*copies, *(Node(kernel, full, call.name, call.module, reads, writes) for kernel in made[-1:])]


def _narrowed(call: Call, made: Made) -> list[Kernel]:
    """The kernels of a product as autocast runs it: where its result is of half the width, operands are cast
    to that first."""
    narrow = call.results[0].dtype
    if narrow not in ("float16", "bfloat16") or not any(each.family in _CAST for each in made):
        return list(made)
    wide = [each for each in call.tensors if each.dtype == "float32"]
    casts = [layers.plain_copy(each.shape, narrow) for each in wide]
    return [*casts, *(replace(each, dtype=narrow) for each in made)]


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
        return [
            *products.copies(call.first),
            layers.row_norm(family, call.first.shape, features, call.first.dtype),
        ]

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
        window = products.sizes(call.arguments["kernel_size"], dims)
        stride = products.sizes(call.get("stride") or window, dims)
        padding = products.sizes(call.get("padding", 0), dims)
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
    dims = [d % len(x.shape) for d in products.sizes(dims, 1)] if x.shape else []
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
    return products.copies(call.first) or [layers.view(call.first.dtype)]


def _clone(call: Call) -> Made:
    return products.copies(call.first) or [layers.plain_copy(call.first.shape, call.first.dtype)]


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
    """A line or a volume counts as an image of as many numbers."""
    x, (shape, out) = call.first, (_as_image(each) for each in (call.first.shape, call.results[0].shape))
    mode = "nearest" if "nearest" in call.operator else "bilinear"
    return [layers.resize(shape, out[2:], mode, x.dtype)]


def _as_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], math.prod(shape[2:-1]), shape[-1]) if len(shape) > 2 else (*shape, 1, 1)


def _sampled(call: Call) -> Made:
    """Pixels read off between others: at the places of a grid, or of boxes."""
    x, out = _as_image(call.first.shape), _as_image(call.results[0].shape)
    rows = out[2] * out[0] // max(x[0], 1)
    return [layers.resize(x, (max(rows, 1), out[3]), "bilinear", call.first.dtype)]


def _sort(call: Call) -> Made:
    x = call.first
    dim = call.get("dim", -1)
    kept = call.results[0].shape[dim] if call.operator == "topk" and x.shape else 0
    return [layers.sort(x.shape, int(dim), int(kept), x.dtype)]


def _fourier(call: Call) -> Made:
    """One transform for each axis; where one side is real the last of them is, and others see its half."""
    x, result = call.first, call.results[0]
    every = list(range(len(x.shape))) if call.operator.endswith("n") else [-2, -1]
    dims = products.sizes(call.get("dim", every if call.operator[-1] in "n2" else [-1]), 1)
    back = not result.dtype.startswith("complex")
    real = result.shape if back else x.shape
    spectrum = x.shape if back or x.dtype.startswith("complex") else result.shape
    one_sided = back or not x.dtype.startswith("complex")
    others = [layers.fft(spectrum, dim, "complex") for dim in dims[: -1 if one_sided else None]]
    last = [layers.fft(real, dims[-1], "inverse-real" if back else "real")] if one_sided else []
    return [*others, *last] if back else [*last, *others]


def _spectrogram(call: Call) -> Made:
    """Frames of a signal, each by a window and then transformed; or back, and added up."""
    back, points = call.operator == "istft", int(call.arguments["n_fft"])
    spectrum = call.first if back else call.results[0]
    frames = math.prod(spectrum.shape) // max(spectrum.shape[-2], 1)
    made = [
        layers.binary("mul", (frames, points), (points,), False),
        layers.fft((frames, points), 1, "inverse-real" if back else "real"),
    ]
    return [*reversed(made), layers.elementwise(call.results[0].shape, 2, "add")] if back else made


def _loss(call: Call) -> Made:
    x = call.first
    scores = (
        [layers.softmax(x.shape, min(1, len(x.shape) - 1), x.dtype)]
        if "entropy_loss" in call.operator
        else []
    )
    return [*scores, layers.reduction(x.shape, math.prod(call.results[0].shape), x.dtype)]


def _weight_norm(call: Call) -> Made:
    v, g = call.tensors[:2]
    return [
        layers.reduction(v.shape, max(math.prod(g.shape), 1), v.dtype),
        layers.binary("mul", v.shape, g.shape, False, v.dtype),
    ]


def _bag(call: Call) -> Made:
    table, tokens = call.tensors[:2]
    rows = math.prod(tokens.shape)
    width = math.prod(table.shape[1:])
    return [
        layers.embedding(rows, table.shape[0], width, table.dtype),
        layers.reduction((rows, width), math.prod(call.results[0].shape), table.dtype, outer=True),
    ]


_BOOKKEEPING = frozenset((
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_size", "sym_numel", "sym_stride",
    "sym_constrain_range", "sym_constrain_range_for_size", "getitem", "item", "lift_fresh_copy", "lift_fresh",
    "detach", "_local_scalar_dense", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
    "empty_permuted", "sym_is_contiguous", "_check",
))  # fmt: skip
_CAST = ("conv", "dwconv", "transposed-conv", "fc", "matmul", "attention", "lstm", "gru", "rnn")
"""Families whose operands autocast makes narrower."""
_CONTROL = ("cond", "while_loop", "map_impl", "scan", "associative_scan")

_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("conv1d conv2d conv3d convolution", products.conv),
    ("conv_transpose1d conv_transpose2d conv_transpose3d", products.transposed),
    ("linear", products.linear),
    ("addmm", products.addmm),
    ("matmul mm bmm", products.matmul),
    ("einsum", products.einsum),
    ("baddbmm addbmm", products.batched_addmm),
    ("mv dot vdot addmv", products.vector),
    ("_grouped_mm grouped_mm", products.grouped),
    ("tensordot", products.tensor_product),
    ("conv_tbc", products.conv_by_time),
    ("bilinear", products.bilinear),
    ("cdist _cdist_forward", products.distances),
    ("scaled_dot_product_attention", products.attention),
    ("_native_multi_head_attention", products.fast_attention),
    ("_transformer_encoder_layer_fwd", products.fast_encoder),
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
        "bitwise_and bitwise_or bitwise_not logical_and logical_or logical_not where masked_fill "
        "clamp clamp_min clamp_max maximum minimum rsub floor ceil round sign square reciprocal "
        "softplus mish prelu triu tril cumsum diff floor_divide remainder isinf isnan addcmul "
        "addcdiv lerp celu selu hardshrink threshold log_sigmoid expm1 exp2 log2 log10 tan asin acos "
        "atan atan2 arctan2 sinh cosh asinh acosh atanh sgn frac trunc fmod hypot isfinite "
        "nan_to_num logit xlogy softshrink erfinv erfc lgamma digamma logaddexp copysign float_power "
        "clip negative absolute greater greater_equal less less_equal not_equal logical_xor cumprod "
        "cummax cummin polar complex angle conj_physical outer ger searchsorted bucketize glu isin "
        "heaviside __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift "
        "affine_grid_generator isclose special_expit special_erf renorm rrelu "
        "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine cross linalg_cross "
        "logcumsumexp",
        _elementwise,
    ),
    (
        "arange new_zeros new_ones zeros ones full fill zero zeros_like ones_like full_like new_full "
        "scalar_tensor eye linspace logspace full_like rand rand_like randn randn_like randint "
        "randint_like randperm uniform normal bernoulli exponential multinomial tril_indices triu_indices "
        "hann_window hamming_window one_hot fill",
        _fill,
    ),
    ("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices", _pool("maxpool")),
    ("avg_pool1d avg_pool2d avg_pool3d", _pool("avgpool")),
    ("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", _adaptive("avgpool")),
    ("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", _adaptive("maxpool")),
    ("dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout", _dropout),
    ("softmax log_softmax _softmax _log_softmax", _softmax),
    (
        "mean sum amax amin max min argmax argmin var std norm linalg_vector_norm prod any all "
        "var_mean logsumexp std_mean nansum nanmean count_nonzero aminmax linalg_norm frobenius_norm "
        "histc bincount equal _is_all_true _is_any_true cosine_similarity pairwise_distance",
        _reduction,
    ),
    ("cat concat stack concatenate hstack vstack dstack column_stack row_stack", _concat),
    (
        "view permute transpose t unsqueeze squeeze select slice expand chunk split split_with_sizes "
        "unbind alias unflatten swapaxes movedim narrow view_as expand_as numpy_T diagonal real "
        "broadcast_to unfold as_strided swapdims moveaxis tensor_split hsplit vsplit adjoint mT mH "
        "imag view_as_real view_as_complex conj resolve_conj resolve_neg meshgrid broadcast_tensors "
        "unsafe_split unsafe_chunk squeeze_copy atleast_1d atleast_2d atleast_3d pin_memory "
        "is_nonzero",
        _view,
    ),
    ("reshape flatten _unsafe_view _reshape_alias view_copy reshape_as ravel", _reshape),
    ("contiguous", _contiguous),
    ("clone", _clone),
    ("to _to_copy type_as float half double int long bool bfloat16", _to),
    (
        "pad constant_pad_nd reflection_pad2d replication_pad2d roll copy pixel_shuffle "
        "pixel_unshuffle channel_shuffle repeat flip gather scatter slice_scatter select_scatter "
        "im2col col2im repeat_interleave tile index_put scatter_add reflection_pad1d "
        "reflection_pad3d replication_pad1d replication_pad3d rot90 take take_along_dim block_diag "
        "diag diag_embed diagonal_scatter index_copy index_add index_fill scatter_reduce "
        "masked_scatter fliplr flipud put kron cartesian_prod max_unpool2d fft_fftshift "
        "fft_ifftshift unfold_copy fractional_max_pool2d fractional_max_pool3d _pad_circular",
        _copy_result,
    ),
    ("embedding", _embedding),
    ("index index_select", _index),
    (
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d "
        "upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bicubic2d_aa _upsample_bilinear2d_aa",
        _resize,
    ),
    ("grid_sampler grid_sampler_2d grid_sampler_3d", _sampled),
    ("sort argsort msort topk kthvalue median", _sort),
    (
        "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn "
        "fft_ifftn fft_rfftn fft_irfftn _fft_r2c _fft_c2c _fft_c2r",
        _fourier,
    ),
    (
        "cross_entropy_loss nll_loss nll_loss_nd mse_loss l1_loss smooth_l1_loss huber_loss kl_div "
        "binary_cross_entropy binary_cross_entropy_with_logits",
        _loss,
    ),
    ("stft istft", _spectrogram),
    ("lstm_cell", products.cell("lstm")),
    ("gru_cell", products.cell("gru")),
    ("rnn_tanh_cell rnn_relu_cell", products.cell("rnn")),
    ("_weight_norm _weight_norm_interface", _weight_norm),
    ("embedding_bag _embedding_bag", _bag),
    ("lstm", products.recurrent("lstm")),
    ("gru", products.recurrent("gru")),
    ("rnn_tanh rnn_relu", products.recurrent("rnn")),
)
_TABLE: dict[str, Handler] = {
    **{name: handler for names, handler in _BY_HANDLER for name in names.split()},
    **{
        name: _activation(name)
        for name in ("relu", "relu6", "sigmoid", "hardsigmoid", "silu", "gelu", "tanh", "elu")
    },
    **{name: _binary(name) for name in ("add", "mul", "sub", "div")},
    **{
        name: _binary(short)
        for name, short in (
            ("multiply", "mul"),
            ("divide", "div"),
            ("true_divide", "div"),
            ("subtract", "sub"),
        )
    },
}
_OTHERS: dict[str, Handler] = {
    "torchvision.roi_align": _sampled,
    "torchvision.ps_roi_align": _sampled,
    "torchvision.roi_pool": _sampled,
    "torchvision.deform_conv2d": products.deformed_conv,
    "transformers.grouped_mm_fallback": products.grouped,
}
"""Operators of other packages, by namespace and name."""
