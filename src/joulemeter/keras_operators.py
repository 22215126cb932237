"""What each Keras 3 layer and operation is, as kernels, and the shape of its result: the table of the reader.

Settings are those that ``get_config`` of a layer writes; operations are those of ``keras.ops`` that a
functional model holds between its layers, under the names of their classes. What is there in training only
(dropout, noise, random flips) is a view, for at inference it hands its input on.
"""

from __future__ import annotations

import math
import string
from dataclasses import replace

from joulemeter import keras_images, layers
from joulemeter.keras_layer import Handler, Layer, Made, Shape, activate, dtype_of, ints, named, unwrapped
from joulemeter.kernel import DTYPE_BYTES, Kernel


def made(layer: Layer) -> Made:
    """What ``layer`` is. Raises KeyError, ValueError and their like where its settings are not Keras's."""
    handler = TABLE.get(layer.kind)
    if handler is None or not layer.inputs:
        return Made(None, None)
    found = handler(layer)
    if found.out is not None and min(found.out, default=1) < 1:
        raise ValueError(f"a {layer.kind} of {layer.inputs[0]} would leave {found.out}")
    sizes = (size for each in found.kernels or () for size in each.shape.values() if isinstance(size, int))
    if min(sizes, default=0) < 0:
        raise ValueError(f"a {layer.kind} of a size below nothing")
    return found if layer.dtype in DTYPE_BYTES else Made(None, found.out)


def _inner(layer: Layer) -> Layer:
    """The layer that ``layer`` wraps, reading what that reads."""
    held = layer.config["layer"]
    return Layer(held["class_name"], held["config"], layer.inputs, dtype_of(held["config"], layer.dtype))


# ── products ─────────────────────────────────────────────────────────────────────────────────────────


def _dense(layer: Layer) -> Made:
    x, units = layer.inputs[0], int(layer.config["units"])
    out = (*x[:-1], units)
    kernel = layers.fully_connected(math.prod(x[:-1]), x[-1], units, layer.bias, layer.dtype)
    return Made([kernel, *layer.activated(out)], out)


def _einsum_dense(layer: Layer) -> Made:
    """Letters that only the input has count rows, those only the weights have are results, and those in all
    three count products.
    """
    x, told = layer.inputs[0], layer.config["output_shape"]
    read, _, result = str(layer.config["equation"]).replace(" ", "").partition("->")
    mine, weights = read.split(",")
    if "..." in mine:
        free = [c for c in string.ascii_uppercase if c not in read + result]
        stood = "".join(free[: len(x) - len(mine) + 3])
        mine, result = mine.replace("...", stood), result.replace("...", stood)
    size = dict(zip(mine, x, strict=True))
    told = [told] if isinstance(told, int) else unwrapped(told)
    for letter, n in zip(result[len(result) - len(told) :], told, strict=True):
        size.setdefault(letter, int(n) if n is not None else 1)
    out = tuple(size[c] for c in result)
    over = [c for c in mine if c in weights and c not in result]
    both = [c for c in mine if c in weights and c in result]
    rows = math.prod(size[c] for c in mine if c not in weights)
    columns = math.prod(size[c] for c in weights if c not in mine)
    inner = math.prod(size[c] for c in over)
    if both:
        count = math.prod(size[c] for c in both)
        kernel = layers.product((count, rows, inner), (count, inner, columns), layer.dtype)
    else:
        bias = layer.config.get("bias_axes") is not None
        kernel = layers.fully_connected(rows, inner, columns, bias, layer.dtype)
    return Made([kernel, *layer.activated(out)], out)


def _matmul(layer: Layer) -> Made:
    a, b = layer.inputs
    stacked = a[:-2] if math.prod(a[:-2]) >= math.prod(b[:-2]) else b[:-2]
    return Made([layers.product(a, b, layer.dtype)], (*stacked, a[-2], b[-1]))


def _dot(layer: Layer) -> Made:
    """Both operands summed over one axis each, sample by sample."""
    a, b = layer.inputs
    axes = layer.config["axes"]
    i, j = (axes, axes) if isinstance(axes, int) else ints(axes)
    rows = [n for at, n in enumerate(a) if at not in (0, i % len(a))]
    columns = [n for at, n in enumerate(b) if at not in (0, j % len(b))]
    inner = a[i]
    kernel = layers.product((a[0], math.prod(rows), inner), (a[0], inner, math.prod(columns)), layer.dtype)
    return Made([kernel], (a[0], *rows, *columns) if rows or columns else (a[0], 1))


def _multi_head(layer: Layer) -> Made:
    """MultiHeadAttention: four projections around the attention."""
    heads, each = int(layer.config["num_heads"]), int(layer.config["key_dim"])
    value = int(layer.config.get("value_dim") or each)
    return _projected(layer, (heads, heads), each, value)


def _grouped(layer: Layer) -> Made:
    """GroupQueryAttention: fewer heads of keys and values than of queries."""
    heads = int(layer.config["num_query_heads"]), int(layer.config["num_key_value_heads"])
    width = int(layer.config["head_dim"])
    return _projected(layer, heads, width, width)


def _projected(layer: Layer, heads: tuple[int, int], key: int, value: int) -> Made:
    query, second = layer.inputs[0], layer.inputs[min(1, len(layer.inputs) - 1)]
    third = layer.inputs[2] if len(layer.inputs) > 2 else second
    batch, length = math.prod(query[:-2]), query[-2]
    keys, (many, few) = second[-2], heads
    told = layer.config.get("output_shape")
    width = query[-1] if told is None else math.prod([told] if isinstance(told, int) else ints(told))

    def projection(rows: int, c_in: int, c_out: int) -> Kernel:
        return layers.fully_connected(batch * rows, c_in, c_out, layer.bias, layer.dtype)

    kernels = [
        projection(length, query[-1], many * key),
        projection(keys, third[-1], few * key),
        projection(keys, second[-1], few * value),
        layers.attention((batch, many, length, key), (batch, few, keys, key), layer.dtype),
        projection(length, many * value, width),
    ]
    return Made(kernels, (*query[:-1], width))


def _attention(layer: Layer) -> Made:
    """Attention without heads or projections; the third operand is the keys, where not the values."""
    query, value = layer.inputs[:2]
    key = layer.inputs[2] if len(layer.inputs) > 2 else value
    q, k = (query[0], 1, *query[1:]), (key[0], 1, *key[1:])
    return Made([layers.attention(q, k, layer.dtype)], (*query[:-1], value[-1]))


def _embedding(layer: Layer) -> Made:
    x, entries, width = layer.inputs[0], int(layer.config["input_dim"]), int(layer.config["output_dim"])
    return Made([layers.embedding(math.prod(x), entries, width, layer.dtype)], (*x, width))


def _recurrent(layer: Layer) -> Made:
    """One layer over all steps of the sequence."""
    n, steps, features = layer.inputs[0]
    units = int(layer.config["units"])
    out = (n, steps, units) if layer.config.get("return_sequences") else (n, units)
    family = layer.kind.lower().removeprefix("simple")
    return Made([layers.recurrent(family, steps, n, features, units, layer.dtype)], out)


def _einsum(layer: Layer) -> Made:
    """A sum of products, written with its result."""
    equation = str(layer.config["subscripts"])
    kernels = layers.contraction(equation, layer.inputs, layer.dtype)
    letters, result = layers.letters(equation, layer.inputs)
    size = {c: n for each, x in zip(letters, layer.inputs, strict=True) for c, n in zip(each, x, strict=True)}
    return Made(kernels, tuple(size[c] for c in result))


def _bidirectional(layer: Layer) -> Made:
    """The layer forwards and backwards, and both results brought together."""
    once = made(_inner(layer))
    if once.kernels is None or once.out is None:
        return once
    mode, part = layer.config.get("merge_mode"), once.out
    both = [*once.kernels, *once.kernels]
    if mode == "concat":
        joined = layers.concat([part, part], -1, layer.dtype)
        return Made([*both, joined], (*once.out[:-1], 2 * once.out[-1]))
    if mode is None:
        return Made(both, once.out)
    family = "mul" if mode == "mul" else "add"
    return Made([*both, layers.binary(family, part, part, False, layer.dtype)], once.out)


def _each_step(layer: Layer) -> Made:
    """TimeDistributed: every step is a sample more."""
    n, steps, *rest = layer.inputs[0]
    found = made(replace(_inner(layer), inputs=((n * steps, *rest),)))
    return Made(found.kernels, None if found.out is None else (n, steps, *found.out[1:]))


# ── norms, activations and numbers one by one ────────────────────────────────────────────────────────


def _batch_norm(layer: Layer) -> Made:
    x = layer.inputs[0]
    axis = layer.config.get("axis", -1)
    at = int(axis if isinstance(axis, int) else ints(axis)[0]) % len(x)
    image = (x[0], x[at], *(n for i, n in enumerate(x) if i not in (0, at)))
    return Made([layers.batch_norm((*image, 1, 1)[: max(4, len(image))], layer.dtype)], x)


def _group_norm(layer: Layer) -> Made:
    x = layer.inputs[0]
    groups = int(layer.config.get("groups", 32))
    image = layer.channels_first(x)
    return Made([layers.group_norm(image, image[1] if groups == -1 else groups, layer.dtype)], x)


def _row_norm(layer: Layer) -> Made:
    x = layer.inputs[0]
    axes = layer.config.get("axis", -1)
    axes = [axes] if isinstance(axes, int) else ints(axes)
    features = math.prod(x[axis] for axis in axes)
    return Made(
        [layers.row_norm("rmsnorm" if "RMS" in layer.kind else "layernorm", x, features, layer.dtype)], x
    )


def _activation(layer: Layer) -> Made:
    x = layer.inputs[0]
    return Made(activate(named(layer.config["activation"]), x, layer.dtype) or [layers.view(layer.dtype)], x)


def _relu(layer: Layer) -> Made:
    x = layer.inputs[0]
    name = "relu6" if layer.config.get("max_value") == 6 else "relu"
    return Made(activate(name, x, layer.dtype), x)


def _named_activation(layer: Layer) -> Made:
    """An operation that is called as its activation is: ``HardSilu`` is hard_silu."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in layer.kind).lstrip("_")
    return Made(activate(name, layer.inputs[0], layer.dtype), layer.inputs[0])


def _softmax(layer: Layer) -> Made:
    x, axis = layer.inputs[0], layer.config.get("axis", -1)
    return Made([layers.softmax(x, axis if isinstance(axis, int) else ints(axis)[0], layer.dtype)], x)


def _elementwise(layer: Layer) -> Made:
    x = layer.inputs[0]
    return Made([layers.elementwise(x, 1, layer.kind.lower(), layer.dtype)], x)


def _merged(family: str) -> Handler:
    def merged(layer: Layer) -> Made:
        return Made(*_in_turn(family, layer))

    return merged


def _in_turn(family: str, layer: Layer) -> tuple[list[Kernel], Shape]:
    """Each operand after the first is merged in turn; where there is none it is a number."""
    rank = max(len(each) for each in layer.inputs)
    out, *others = (layer.image((*[1] * (rank - len(each)), *each)) for each in layer.inputs)
    kernels = []
    for other in others or [()]:
        kernels.append(_two(family, out, other, layer.dtype))
        out = _broadcast(out, other)
    return kernels, layer.as_stored(out) if len(out) in (4, 5) else out


def _two(family: str, a: Shape, b: Shape, dtype: str) -> Kernel:
    if family in ("add", "mul", "sub", "div"):
        return layers.binary(family, a, b, False, dtype)
    return layers.elementwise(_broadcast(a, b), 2 if b else 1, family, dtype)


def _broadcast(a: Shape, b: Shape) -> Shape:
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    return tuple(n if m == 1 else m for n, m in pairs)


def _average(layer: Layer) -> Made:
    kernels, out = _in_turn("add", layer)
    return Made([*kernels, layers.binary("mul", out, (), False, layer.dtype)], out)


def _scaled(layer: Layer) -> Made:
    """A factor for each channel."""
    x = layer.inputs[0]
    factors = layer.image((1,) * (len(x) - 1) + x[-1:])
    return Made([layers.binary("mul", layer.image(x), factors, False, layer.dtype)], x)


def _scaled_sum(layer: Layer) -> Made:
    """What a branch made, times a number, on top of what it read."""
    x, branch = layer.inputs
    factor = layers.binary("mul", branch, (), False, layer.dtype)
    return Made([factor, layers.binary("add", x, branch, False, layer.dtype)], x)


# ── numbers put elsewhere ────────────────────────────────────────────────────────────────────────────


def _view(layer: Layer) -> Made:
    return Made([layers.view(layer.dtype)], layer.inputs[0])


def _copy(layer: Layer) -> Made:
    return Made([layers.plain_copy(layer.inputs[0], layer.dtype)], layer.inputs[0])


def _part(layer: Layer) -> Made:
    """A slice is another look at the same numbers; how large a one, the file says."""
    return Made([layers.view(layer.dtype)], None)


def _flat(layer: Layer) -> Made:
    x = layer.inputs[0]
    return Made([layers.view(layer.dtype)], (x[0], math.prod(x[1:])))


def _reshape(layer: Layer) -> Made:
    """A layer's target leaves the batch out, an operation's has it; one size may be left to the others."""
    x = layer.inputs[0]
    told = layer.config.get("target_shape")
    wanted = [
        -1 if n is None else int(n) for n in unwrapped(layer.config["newshape"] if told is None else told)
    ]
    if told is not None:
        wanted = [x[0], *wanted]
    elif wanted and wanted[0] == -1 and -1 in wanted[1:]:
        wanted[0] = x[0]
    known = math.prod(n for n in wanted if n != -1)
    out = tuple(math.prod(x) // max(known, 1) if n == -1 else n for n in wanted)
    return Made([layers.view(layer.dtype)], out)


def _permuted(layer: Layer) -> Made:
    x = layer.inputs[0]
    if "dims" in layer.config:
        order = [0, *ints(layer.config["dims"])]
    else:
        axes = layer.config.get("axes")
        order = list(reversed(range(len(x)))) if axes is None else [axis % len(x) for axis in ints(axes)]
    out, strides = layers.transposed_strides(x, order)
    return Made([layers.permuted_copy(out, strides, layer.dtype)], out)


def _repeated(layer: Layer) -> Made:
    n, features = layer.inputs[0]
    out = (n, int(layer.config["n"]), features)
    return Made([layers.plain_copy(out, layer.dtype)], out)


def _concat(layer: Layer) -> Made:
    axis = int(layer.config.get("axis", -1))
    first, rank = layer.inputs[0], len(layer.inputs[0])
    at = axis % rank
    out = (*first[:at], sum(each[at] for each in layer.inputs), *first[at + 1 :])
    if rank in (4, 5) and at == rank - 1:
        parts, at = [layer.image(each) for each in layer.inputs], 1
    else:
        parts = list(layer.inputs)
    return Made([layers.concat(parts, at, layer.dtype)], out)


def _reduced(layer: Layer) -> Made:
    """A mean, sum or maximum along some axes, or of all numbers."""
    x, axis = layer.inputs[0], layer.config.get("axis")
    axes = range(len(x)) if axis is None else [axis] if isinstance(axis, int) else ints(axis)
    along = {each % len(x) for each in axes}
    kept = [
        (1 if i in along else n) for i, n in enumerate(x) if i not in along or layer.config.get("keepdims")
    ]
    if layer.kind == "Mean" and len(x) == 4 and along == {1, 2}:
        return Made([layers.global_pool(layer.x, layer.dtype)], tuple(kept))
    outer = bool(along) and max(along) != len(x) - 1
    return Made([layers.reduction(x, math.prod(kept), layer.dtype, outer)], tuple(kept))


def _expanded(layer: Layer) -> Made:
    x, at = layer.inputs[0], int(layer.config["axis"])
    at %= len(x) + 1
    return Made([layers.view(layer.dtype)], (*x[:at], 1, *x[at:]))


def _squeezed(layer: Layer) -> Made:
    x, axis = layer.inputs[0], layer.config.get("axis")
    gone = (
        [axis]
        if isinstance(axis, int)
        else [i for i, n in enumerate(x) if n == 1]
        if axis is None
        else ints(axis)
    )
    at = {each % len(x) for each in gone}
    return Made([layers.view(layer.dtype)], tuple(n for i, n in enumerate(x) if i not in at))


_BY_HANDLER: tuple[tuple[str, Handler], ...] = (
    ("Conv1D Conv2D Conv3D DepthwiseConv1D DepthwiseConv2D", keras_images.conv),
    ("SeparableConv1D SeparableConv2D", keras_images.separable),
    ("Conv1DTranspose Conv2DTranspose Conv3DTranspose", keras_images.transposed),
    ("MaxPooling1D MaxPooling2D MaxPooling3D", keras_images.pool("maxpool")),
    ("AveragePooling1D AveragePooling2D AveragePooling3D", keras_images.pool("avgpool")),
    ("GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D", keras_images.global_pool),
    ("GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D", keras_images.global_pool),
    ("UpSampling1D UpSampling2D UpSampling3D", keras_images.resized),
    ("Resizing", keras_images.resizing),
    ("ZeroPadding1D ZeroPadding2D ZeroPadding3D", keras_images.padded(1)),
    ("Cropping1D Cropping2D Cropping3D", keras_images.padded(-1)),
    ("Dense", _dense),
    ("EinsumDense", _einsum_dense),
    ("Matmul", _matmul),
    ("Einsum", _einsum),
    ("Dot", _dot),
    ("MultiHeadAttention", _multi_head),
    ("GroupQueryAttention GroupedQueryAttention", _grouped),
    ("Attention", _attention),
    ("Embedding", _embedding),
    ("LSTM GRU SimpleRNN", _recurrent),
    ("Bidirectional", _bidirectional),
    ("TimeDistributed", _each_step),
    ("BatchNormalization", _batch_norm),
    ("GroupNormalization", _group_norm),
    ("LayerNormalization RMSNormalization", _row_norm),
    ("Activation", _activation),
    ("ReLU", _relu),
    ("Relu Relu6 Sigmoid Silu Gelu HardSigmoid HardSilu Tanh Elu LeakyRelu", _named_activation),
    ("Softmax", _softmax),
    ("Rescaling Normalization LeakyReLU ELU PReLU Masking UnitNormalization", _elementwise),
    ("Absolute Abs Exp Expm1 Log Log2 Log10 Log1p Sqrt Rsqrt Square Negative Reciprocal", _elementwise),
    ("Clip Sin Cos Tan Arcsin Arccos Arctan Sinh Cosh Erf Softplus Sign Floor Ceil Round", _elementwise),
    ("Cumsum Cumprod", _elementwise),
    ("Add", _merged("add")),
    ("Multiply", _merged("mul")),
    ("Subtract", _merged("sub")),
    ("Divide TrueDivide", _merged("div")),
    ("Maximum", _merged("maximum")),
    ("Minimum", _merged("minimum")),
    ("Power", _merged("power")),
    ("Average", _average),
    ("LayerScale", _scaled),
    ("CustomScaleLayer", _scaled_sum),
    ("Concatenate", _concat),
    ("Mean Sum Max Min Amax Amin Prod Var Std", _reduced),
    ("Flatten", _flat),
    ("Reshape", _reshape),
    ("GetItem", _part),
    ("ExpandDims", _expanded),
    ("Squeeze", _squeezed),
    ("Permute Transpose", _permuted),
    ("RepeatVector", _repeated),
    ("Identity Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout", _view),
    ("GaussianDropout GaussianNoise ActivityRegularization StochasticDepth StopGradient", _view),
    ("RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast RandomBrightness", _view),
    ("RandomHue RandomSaturation RandomSharpness RandomShear RandomColorJitter RandomErasing", _view),
    ("Cast Copy", _copy),
)  # fmt: skip
TABLE: dict[str, Handler] = {name: handler for names, handler in _BY_HANDLER for name in names.split()}
