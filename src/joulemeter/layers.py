"""From the tensors of a layer to its Kernel: the one place that decides how a shape is spelled.

Every reader of network files comes through here, so that a layer is the same kernel whether it stood in an
exported PyTorch program, in ONNX or in TFLite. Images are batch × channels × space. Where the batch makes
no difference (rows of a matrix, numbers of a map) it is counted in, and the kernel's batch is 1.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

from joulemeter.kernel import Kernel, Value

Shape = Sequence[int]
_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def convolution(
    x: Shape,
    weight: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int = 1,
    bias: bool = False,
    dtype: str = "float32",
    layout: str = "",
) -> Kernel:
    """A convolution of ``x`` (n, c, …) by ``weight`` (out, c / groups, …); depthwise where each group is
    one channel. Raises ValueError where the weights are for another number of channels.
    """
    c_in, c_out = x[1], weight[0]
    if weight[1] * groups != c_in:
        raise ValueError(f"an image of {c_in} channels by weights for {weight[1] * groups}")
    axes = _AXES[len(x) - 2]
    family = "dwconv" if groups == c_in and groups > 1 and c_out % groups == 0 else "conv"
    shape: dict[str, Value] = {
        "in_channels": c_in,
        "out_channels": c_out,
        "groups": groups,
        "bias": int(bias),
    }
    for i, axis in enumerate(axes):
        size = weight[2 + i]
        shape |= {axis: x[2 + i], f"kernel_{axis}": size, f"stride_{axis}": stride[i]}
        if dilation[i] != 1:
            shape[f"dilation_{axis}"] = dilation[i]
        if padding[i] != dilation[i] * (size - 1) // 2:
            shape[f"padding_{axis}"] = padding[i]
    return Kernel(family, _laid(shape, layout), dtype, x[0])


def transposed_convolution(
    x: Shape, weight: Shape, stride: Shape, padding: Shape, extra: Shape, groups: int = 1, bias: bool = False,
    dtype: str = "float32",
) -> Kernel:  # fmt: skip
    """A transposed convolution of ``x`` (n, c, h, w) by ``weight`` (c, out / groups, kh, kw)."""
    shape: dict[str, Value] = {
        "in_channels": x[1],
        "out_channels": weight[1] * groups,
        "groups": groups,
        "bias": int(bias),
    }
    for i, axis in enumerate(_AXES[2]):
        shape |= {axis: x[2 + i], f"kernel_{axis}": weight[2 + i], f"stride_{axis}": stride[i]}
        shape |= {f"padding_{axis}": padding[i], f"output_padding_{axis}": extra[i]}
    return Kernel("transposed-conv", shape, dtype, x[0])


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> int:
    """The symmetric padding that gives ⌈size / stride⌉ results, as "SAME" does with an uneven one."""
    reach = dilation * (window - 1) + 1
    wanted = -(-size // stride)
    return max(0, -(-((wanted - 1) * stride + reach - size) // 2))


def fully_connected(
    rows: int, c_in: int, c_out: int, bias: bool, dtype: str = "float32", in_out: bool = False
) -> Kernel:
    """``rows`` × in by in × out; ``in_out`` says the weights are stored that way round."""
    shape: dict[str, Value] = {"rows": rows, "in_features": c_in, "out_features": c_out, "bias": int(bias)}
    if in_out:
        shape["weight"] = "in-out"
    return Kernel("fc", shape, dtype)


def product(a: Shape, b: Shape, dtype: str = "float32", transposed: bool = False) -> Kernel:
    """``a`` (…, rows, inner) by ``b`` (…, inner, columns); ``transposed``: b is a view of its transpose."""
    a, b = tuple(a), tuple(b)
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    count = max(math.prod(a[:-2]), math.prod(b[:-2]))
    shape: dict[str, Value] = {"products": count, "rows": a[-2], "inner": a[-1], "columns": b[-1]}
    if transposed:
        shape["second"] = "transposed"
    return Kernel("matmul", shape, dtype)


def contraction(
    equation: str, shapes: Sequence[Shape], dtype: str = "float32", weight: bool = False
) -> list[Kernel]:
    """A sum of products in Einstein's notation, two operands at a time from the left; ``weight``: the last
    one is trained. Raises ValueError where equation and shapes do not fit together.
    """
    names, result = letters(equation, shapes)
    if not set(result) <= set("".join(names)):
        raise ValueError(f"{equation} makes letters that no operand has")
    size: dict[str, int] = {}
    for each, shape in zip(names, shapes, strict=True):
        for letter, n in zip(each, shape, strict=True):
            size[letter] = max(size.get(letter, 1), n)

    def many(some: str) -> int:
        """How many numbers letters stand for."""
        return math.prod(size[each] for each in some)

    made: list[Kernel] = []
    done = names[0]
    for at, mine in enumerate(names[1:], 1):
        wanted = {*result, *"".join(names[at + 1 :])}
        count = many("".join(c for c in done if c in mine and c in wanted))
        inner = many("".join(c for c in done if c in mine and c not in wanted))
        rows = many("".join(c for c in done if c not in mine and c in wanted))
        columns = many("".join(c for c in mine if c not in done and c in wanted))
        if inner == 1:
            made.append(elementwise((count, rows, columns), 2, "mul", dtype))
        elif weight and count == 1 and at == len(names) - 1:
            made.append(fully_connected(rows, inner, columns, False, dtype))
        else:
            made.append(product((count, rows, inner), (count, inner, columns), dtype))
        done = "".join(c for c in dict.fromkeys(done + mine) if c in wanted)
    if len(names) == 1:
        summed = set(done) - set(result)
        made.append(reduction(shapes[0], many(result), dtype) if summed else plain_copy(shapes[0], dtype))
    return made


def letters(equation: str, shapes: Sequence[Shape]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with letters in place of dots."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != len(shapes):
        raise ValueError(f"{equation} has {len(names)} operands, not {len(shapes)}")
    hidden = max(
        len(shape) - len(each) + 3 if "..." in each else 0 for each, shape in zip(names, shapes, strict=True)
    )
    free = "".join(c for c in string.ascii_letters if c not in equation)[:hidden]
    if not arrow:
        once = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    names = [
        each.replace("...", free[len(free) - (len(shape) - len(each) + 3) :] if "..." in each else "")
        for each, shape in zip(names, shapes, strict=True)
    ]
    return names, result.replace("...", free)


def attention(q: Shape, k: Shape, dtype: str = "float32", causal: bool = False, mask: bool = False) -> Kernel:
    """Scaled dot-product attention of ``q`` (n, heads, queries, width) over ``k`` (n, key_heads, keys,
    width).
    """
    q, k = tuple(q), tuple(k)
    shape: dict[str, Value] = {
        "heads": q[-3] if len(q) > 3 else 1,
        "key_heads": k[-3] if len(k) > 3 else 1,
        "head_width": q[-1],
        "queries": q[-2],
        "keys": k[-2],
        "causal": int(causal),
    }
    if mask:
        shape["mask"] = 1
    return Kernel("attention", shape, dtype, math.prod(q[:-3]) if len(q) > 3 else q[0])


def pool(
    kind: str,
    x: Shape,
    window: Shape,
    stride: Shape,
    padding: Shape,
    ceil: bool = False,
    dtype: str = "float32",
    layout: str = "",
) -> Kernel:
    """A ``maxpool`` or ``avgpool`` of ``x`` (n, c, h, w)."""
    shape: dict[str, Value] = {"in_channels": x[1]}
    for i, axis in enumerate(_AXES[2]):
        shape |= {
            axis: x[2 + i],
            f"kernel_{axis}": window[i],
            f"stride_{axis}": stride[i],
            f"padding_{axis}": padding[i],
        }
    if ceil:
        shape["ceil"] = 1
    return Kernel(kind, _laid(shape, layout), dtype, x[0])


def adaptive_pool(kind: str, x: Shape, out: Shape, dtype: str = "float32", layout: str = "") -> Kernel:
    """The pool that makes ``out`` (h, w) of ``x``; the whole image where that is one number."""
    if kind == "avgpool" and tuple(out) == (1, 1):
        return global_pool(x, dtype, layout)
    stride = [n // o if o else 1 for n, o in zip(x[2:], out, strict=True)]
    window = [n - (o - 1) * s for n, o, s in zip(x[2:], out, stride, strict=True)]
    if any(n % o for n, o in zip(x[2:], out, strict=True)):
        window = [-(-n // o) for n, o in zip(x[2:], out, strict=True)]
    return pool(kind, x, window, [max(1, s) for s in stride], (0, 0), False, dtype, layout)


def global_pool(x: Shape, dtype: str = "float32", layout: str = "") -> Kernel:
    """The mean of each channel's image."""
    shape: dict[str, Value] = {"in_channels": x[1], "height": x[2], "width": math.prod(x[3:])}
    return Kernel("global-avgpool", _laid(shape, layout), dtype, x[0])


def activation(name: str, x: Shape, in_place: bool = False, dtype: str = "float32") -> Kernel:
    """An activation of every number of ``x``."""
    shape: dict[str, Value] = {"elements": math.prod(x)}
    if in_place:
        shape["in_place"] = 1
    return Kernel(name, shape, dtype)


def batch_norm(x: Shape, dtype: str = "float32", layout: str = "", training: bool = False) -> Kernel:
    """Batch normalisation of ``x`` (n, c, …) with running statistics, or in training with the batch's own."""
    shape: dict[str, Value] = {"in_channels": x[1], "height": math.prod(x[2:3]), "width": math.prod(x[3:])}
    return Kernel("bn-train" if training else "bn", _laid(shape, layout), dtype, x[0])


def group_norm(x: Shape, groups: int, dtype: str = "float32") -> Kernel:
    """Group normalisation of ``x`` (n, c, …)."""
    shape: dict[str, Value] = {"in_channels": x[1], "height": math.prod(x[2:3]), "width": math.prod(x[3:])}
    return Kernel("groupnorm", {**shape, "groups": groups}, dtype, x[0])


def row_norm(family: str, x: Shape, features: int, dtype: str = "float32") -> Kernel:
    """A ``layernorm`` or ``rmsnorm`` over the last ``features`` numbers."""
    return Kernel(family, {"rows": math.prod(x) // max(features, 1), "features": features}, dtype)


def softmax(x: Shape, axis: int, dtype: str = "float32") -> Kernel:
    """Softmax of ``x`` along ``axis``."""
    return Kernel("softmax", {"rows": math.prod(x) // max(x[axis], 1), "columns": x[axis]}, dtype)


def reduction(x: Shape, results: int, dtype: str = "float32", outer: bool = False) -> Kernel:
    """A sum, mean or maximum of ``x`` into ``results`` numbers; ``outer``: along its first dimension."""
    shape: dict[str, Value] = {"rows": max(results, 1), "columns": math.prod(x) // max(results, 1)}
    if outer:
        shape["along"] = "rows"
    return Kernel("reduction", shape, dtype)


def elementwise(x: Shape, operands: int, operator: str = "", dtype: str = "float32") -> Kernel:
    """Some function of ``operands`` tensors, element by element."""
    shape: dict[str, Value] = {"elements": math.prod(x), "operands": operands}
    return Kernel("elementwise", {**shape, "operator": operator} if operator else shape, dtype)


def binary(
    family: str, x: Shape, other: Shape, in_place: bool = False, dtype: str = "float32", layout: str = ""
) -> Kernel:
    """``x`` and ``other`` added, multiplied … with broadcasting; ``layout`` is the second's, where it
    differs.
    """
    result = _broadcast(x, other)
    if math.prod(x) < math.prod(other):
        x, other = other, x
    shape: dict[str, Value]
    if math.prod(other) == math.prod(result):
        shape = {"elements": math.prod(result)}
        if layout and len(result) == 4:
            shape = {
                "outer": result[0],
                "channels": result[1],
                "inner": math.prod(result[2:]),
                "layout": layout,
            }
    elif math.prod(other) <= 1:
        shape = {"elements": math.prod(result), "broadcast": "scalar"}
    else:
        shape = _spanned(result, other)
    if in_place:
        shape["in_place"] = 1
    return Kernel(family, shape, dtype)


def _broadcast(x: Shape, other: Shape) -> tuple[int, ...]:
    rank = max(len(x), len(other))
    x, other = ((1,) * (rank - len(each)) + tuple(each) for each in (x, other))
    return tuple(max(a, b) if 0 not in (a, b) else 0 for a, b in zip(x, other, strict=True))


def _spanned(result: Shape, other: Shape) -> dict[str, Value]:
    """Outer, channels and inner, and which of them the second operand spans."""
    other = (1,) * (len(result) - len(other)) + tuple(other)
    runs: list[tuple[bool, int]] = []
    for n, m in zip(result, other, strict=True):
        if n == 1:
            continue
        if runs and runs[-1][0] == (m == n):
            runs[-1] = (runs[-1][0], runs[-1][1] * n)
        else:
            runs.append((m == n, n))
    sizes = [n for _, n in runs]
    if runs[0][0]:
        spans = "channels" if len(runs) == 2 else "inner"
        sizes = [1, *sizes] if len(runs) == 2 else sizes
    else:
        spans = "outer" if len(runs) == 2 else "channels"
        sizes = [sizes[0], 1, sizes[1]] if len(runs) == 2 else sizes
    return {"outer": sizes[0], "channels": sizes[1], "inner": math.prod(sizes[2:]), "broadcast": spans}


def fft(x: Shape, axis: int, kind: str = "real", dtype: str = "float32") -> Kernel:
    """Fourier transforms along ``axis`` of ``x``: ``real`` to complex, ``complex``, or ``inverse-real``."""
    points = x[axis]
    rows = math.prod(x) // max(points, 1)
    return Kernel("fft", {"rows": max(rows, 1), "points": points, "kind": kind}, dtype)


def sort(x: Shape, axis: int, kept: int = 0, dtype: str = "float32") -> Kernel:
    """``x`` in order along ``axis``, or its ``kept`` largest there."""
    shape: dict[str, Value] = {
        "rows": math.prod(x) // max(x[axis], 1) if x else 1,
        "columns": x[axis] if x else 1,
    }
    return Kernel("sort", {**shape, "kept": kept} if kept else shape, dtype)


def grouped_product(x: Shape, weight: Shape, dtype: str = "float32") -> list[Kernel]:
    """Rows of ``x`` (m, inner), each by one of the matrices ``weight`` (n, inner, columns): experts.

    How many rows each matrix gets depends on the data; they are taken to share them as evenly as can be, so
    some have one row more than others.
    """
    inner, columns = x[-1], weight[-1]
    each, more = divmod(x[-2], max(weight[0], 1))
    shares = ((weight[0] - more, each), (more, each + 1))
    return [
        product((count, rows, inner), (count, inner, columns), dtype)
        for count, rows in shares
        if count and rows
    ]


def concat(parts: Sequence[Shape], axis: int, dtype: str = "float32") -> Kernel:
    """``parts`` joined along ``axis``."""
    first = parts[0]
    axis %= max(len(first), 1)
    whole = sum(part[axis] for part in parts)
    shape: dict[str, Value] = {
        "in_channels": whole,
        "height": math.prod(first[axis + 1 :]),
        "width": 1,
        "parts": len(parts),
    }
    return Kernel("concat", shape, dtype, math.prod(first[:axis]))


def split(x: Shape, parts: int, axis: int, dtype: str = "float32") -> Kernel:
    """``x`` cut into ``parts`` along ``axis``, each written anew."""
    axis %= max(len(x), 1)
    shape: dict[str, Value] = {
        "in_channels": x[axis],
        "height": math.prod(x[axis + 1 :]),
        "width": 1,
        "parts": parts,
    }
    return Kernel("split", shape, dtype, math.prod(x[:axis]))


def plain_copy(x: Shape, dtype: str = "float32") -> Kernel:
    """Numbers copied in their order."""
    return Kernel("copy", {"elements": math.prod(x), "order": "kept"}, dtype)


def permuted_copy(result: Shape, strides: Sequence[int], dtype: str = "float32") -> Kernel:
    """A row-major copy of a view of shape ``result`` whose source has ``strides`` (in elements)."""
    run = 1
    axis = len(result)
    while axis > 0 and (result[axis - 1] == 1 or strides[axis - 1] == run):
        axis -= 1
        run *= result[axis]
    if axis == 0:
        return plain_copy(result, dtype)
    outer = result[axis - 1]
    return Kernel("copy", {"outer": outer, "middle": math.prod(result) // (outer * run), "inner": run}, dtype)


def transposed_strides(shape: Shape, order: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of a row-major tensor of ``shape`` seen with its dimensions in ``order``."""
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return tuple(shape[i] for i in order), tuple(strides[i] for i in order)


def view(dtype: str = "float32") -> Kernel:
    """Another look at the same numbers: nothing moves, only the call is made."""
    return Kernel("view", {}, dtype)


def embedding(tokens: int, entries: int, width: int, dtype: str = "float32") -> Kernel:
    """``tokens`` rows of a table of ``entries``."""
    return Kernel("embedding", {"tokens": tokens, "entries": entries, "width": width}, dtype)


def resize(x: Shape, out: Shape, mode: str, dtype: str = "float32") -> Kernel:
    """``x`` (n, c, h, w) at another size; modes with more than two neighbours count as bilinear."""
    shape: dict[str, Value] = {"in_channels": x[1], "height": x[2], "width": x[3]}
    kind = "nearest" if mode == "nearest" else "bilinear"
    return Kernel("resize", {**shape, "out_height": out[0], "out_width": out[1], "mode": kind}, dtype, x[0])


def recurrent(family: str, steps: int, batch: int, c_in: int, hidden: int, dtype: str = "float32") -> Kernel:
    """One direction of one layer of an ``lstm``, ``gru`` or plain ``rnn``."""
    return Kernel(family, {"steps": steps, "in_features": c_in, "hidden": hidden}, dtype, batch)


def _laid(shape: dict[str, Value], layout: str) -> dict[str, Value]:
    return {**shape, "layout": layout} if layout else shape
