"""Keras's layers of images and signals as kernels: convolutions, pools, borders, and other sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from joulemeter import layers
from joulemeter.keras_layer import Handler, Layer, Made, Shape, ints, unwrapped
from joulemeter.kernel import Kernel


def _windows(
    layer: Layer, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], Shape]:
    """The padding along each axis, and the size of the result. Raises ValueError where a size is no size."""
    if min(*size, *stride, *dilation) < 1:
        raise ValueError(f"a window of {size} by steps of {stride}, {dilation} apart")
    space = layer.x[2:]
    axes = list(zip(space, size, stride, dilation, strict=True))
    # "causal" looks back only: as many results as "same" has, all of the padding before the first.
    if layer.config.get("padding") in ("same", "causal"):
        return [layers.same_padding(*each) for each in axes], tuple(-(-n // s) for n, _, s, _ in axes)
    return [0] * len(space), tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)


def conv(layer: Layer) -> Made:
    """A convolution and its activation; depthwise ones have as many groups as channels."""
    return Made(*_convolved(layer, layer.kind.startswith("Depthwise")))


def separable(layer: Layer) -> Made:
    """A depthwise convolution without a bias, then one of size one with it."""
    bare = replace(layer, config={**layer.config, "use_bias": False, "activation": None})
    once = {"kernel_size": 1, "strides": 1, "dilation_rate": 1}
    depthwise, between = _convolved(bare, True)
    pointwise, out = _convolved(replace(layer, config={**layer.config, **once}, inputs=(between,)), False)
    return Made([*depthwise, *pointwise], out)


def _convolved(layer: Layer, depthwise: bool) -> tuple[list[Kernel], Shape]:
    size, stride, dilation = layer.pair("kernel_size"), layer.pair("strides"), layer.pair("dilation_rate")
    x = layer.x
    groups = x[1] if depthwise else int(layer.config.get("groups", 1))
    out = x[1] * int(layer.config.get("depth_multiplier", 1)) if depthwise else int(layer.config["filters"])
    pads, space = _windows(layer, size, stride, dilation)
    weight = (out, x[1] // groups, *size)
    kernel = layers.convolution(x, weight, stride, pads, dilation, groups, layer.bias, layer.dtype)
    result = (x[0], out, *space)
    return [kernel, *layer.activated(result)], layer.as_stored(result)


def transposed(layer: Layer) -> Made:
    """n·s results where padded to "same", else (n − 1)s + k; in one dimension the image is one pixel wide."""
    size, stride = layer.pair("kernel_size"), layer.pair("strides")
    out, x = int(layer.config["filters"]), layer.x
    same = layer.config.get("padding") == "same"
    # "same": n·s results, so that (n − 1)s + k − 2p + extra = n·s.
    pads = [max(0, -(-(k - s) // 2)) if same else 0 for k, s in zip(size, stride, strict=True)]
    extra = [max(0, 2 * p - k + s) if same else 0 for p, k, s in zip(pads, size, stride, strict=True)]
    space = tuple(
        n * s if same else (n - 1) * s + max(k, s) for n, k, s in zip(x[2:], size, stride, strict=True)
    )
    result = (x[0], out, *space)
    if len(space) > 2:
        return Made(None, layer.as_stored(result))
    short = 2 - len(space)
    kernel = layers.transposed_convolution(
        (*x, *[1] * short), (x[1], out, *size, *[1] * short), [*stride, *[1] * short], [*pads, *[0] * short],
        [*extra, *[0] * short], 1, layer.bias, layer.dtype,
    )  # fmt: skip
    return Made([kernel, *layer.activated(result)], layer.as_stored(result))


def pool(kind: str) -> Handler:
    """The handler of a ``maxpool`` or ``avgpool``, in one to three dimensions."""

    def pooled(layer: Layer) -> Made:
        """A window over the image, as the layer's configuration says."""
        x, size = layer.x, layer.pair("pool_size", 2)
        stride = layer.pair("strides") if layer.config.get("strides") else size
        pads, space = _windows(layer, size, stride, [1] * len(size))
        out = layer.as_stored((*x[:2], *space))
        if len(size) == 1:
            x, size, stride, pads = (*x[:2], 1, x[2]), [1, *size], [1, *stride], [0, *pads]
        if len(size) == 3:  # depth counts as more images: the window's depth is left to its height
            x = (*x[:2], x[2] * x[3], x[4])
            size, stride, pads = [size[0] * size[1], size[2]], [stride[0] * stride[1], stride[2]], pads[1:]
        return Made([layers.pool(kind, x, size, stride, pads, False, layer.dtype)], out)

    return pooled


def global_pool(layer: Layer) -> Made:
    x = layer.x
    out = (*x[:2], *[1] * (len(x) - 2)) if layer.config.get("keepdims") else x[:2]
    return Made([layers.global_pool(x, layer.dtype)], layer.as_stored(out))


def resized(layer: Layer) -> Made:
    x = layer.x
    factors = [layer.config.get("size", 2)] if len(x) == 3 else layer.pair("size", 2)
    return _to_size(layer, [n * k for n, k in zip(x[2:], factors, strict=True)])


def resizing(layer: Layer) -> Made:
    return _to_size(layer, [int(layer.config["height"]), int(layer.config["width"])])


def _to_size(layer: Layer, space: list[int]) -> Made:
    x, kind = layer.x, str(layer.config.get("interpolation", "nearest"))
    out = layer.as_stored((*x[:2], *space))
    if len(space) > 2:
        return Made(None, out)
    short = [1] * (2 - len(space))
    return Made([layers.resize((*x, *short), (*space, *short), kind, layer.dtype)], out)


def padded(sign: int) -> Handler:
    """The handler of a border that is added (+1) or cut off (−1)."""

    def copied(layer: Layer) -> Made:
        """Every number that is left is written anew."""
        x = layer.x
        value = layer.config["padding" if sign > 0 else "cropping"]
        each = [value] * (len(x) - 2) if isinstance(value, int) else unwrapped(value)
        if len(x) == 3 and len(each) == 2:
            each = [each]
        border = [2 * size if isinstance(size, int) else sum(ints(size)) for size in each]
        out = (*x[:2], *(n + sign * b for n, b in zip(x[2:], border, strict=True)))
        return Made([layers.plain_copy(out, layer.dtype)], layer.as_stored(out))

    return copied
