"""What a predictor sees of a kernel: logarithms of its dimensions, of its work, and of what an
implementation makes of them.

A product (convolution, fully connected layer, matrix product) is M × K by K × N. Implementations work on
blocks, so that a dimension is rounded up: eight rows by eight columns in the float kernel of TFLite's CPU
back end (ruy), four channels a slice on its GPU delegate, which also changes its algorithm with the shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.kernel import DTYPE_BYTES, Kernel, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WALKED = ("se", "global-avgpool")
"""Families that take the mean of each channel."""
_LINE_BYTES = 64
_MALI_UNITS = 16
"""Compute units of the GPU whose block thresholds ``block`` follows."""

VIEWS: dict[str, tuple[str, ...]] = {
    "work": ("dim ", "log flops", "log read", "log write", "log parameters", "log batch", "log dtype"),
    "tiles": ("log M", "log N", "log K", "window", "stride", "log tiles", "log lhs", "log rhs", "log out",
              "log groups", "log batch", "log dtype"),
    "slices": ("log M", "log in slices", "log out slices", "window", "stride", "log transformed", "odd width",
               "winograd", "block", "log groups", "log batch", "log dtype"),
    "size": ("log moved", "log parameters", "log batch", "log dtype"),
    "pooled": ("family ", "log flops", "log moved", "log parameters", "log batch", "log dtype",
               "dim in_channels", "dim kernel_height", "dim stride_height"),
    "none": (),
    "published": ("raw ",),
}  # fmt: skip
"""Sets of features by the beginning of their names; which serves best is chosen for each family."""


def describe(kernel: Kernel, work: Work) -> dict[str, float]:
    """Every feature of a kernel by name; products have more. Unknown work leaves its features out."""
    dims = {name: value for name, value in kernel.shape.items() if isinstance(value, int | float)}
    features = {f"dim {name}": math.log(max(value, 0.5)) for name, value in dims.items()}
    features |= {
        f"word {name}={value}": 1.0 for name, value in kernel.shape.items() if isinstance(value, str)
    }
    for name, amount in (
        ("flops", work.flops),
        ("read", work.read_bytes),
        ("write", work.write_bytes),
        ("parameters", work.parameters),
    ):
        if not math.isnan(amount):
            features[f"log {name}"] = math.log1p(amount)
    if not math.isnan(work.bytes):
        features["log moved"] = math.log1p(work.bytes)
    features[f"family {kernel.family}"] = 1.0
    features["log batch"] = math.log(kernel.batch)
    features["log dtype"] = math.log(DTYPE_BYTES.get(kernel.dtype, 4))
    features |= {f"raw {name}": float(value) for name, value in dims.items()}
    features |= {"raw flops": work.flops, "raw parameters": work.parameters, "raw batch": float(kernel.batch)}
    product = dimensions_of_product(kernel)
    return features | (_of_product(kernel, *product) if product else _of_walk(kernel))


def dimensions_of_product(kernel: Kernel) -> tuple[float, float, float] | None:
    """M, N and K where the family is a product (for a group of a grouped one); None elsewhere."""
    d = kernel.dimension
    if kernel.family.startswith("conv") and {"in_channels", "out_channels"} <= set(kernel.shape):
        axes = [axis for axis in ("length", "depth", "height", "width") if axis in kernel.shape]
        pixels = math.prod(math.ceil(d(axis) / d(f"stride_{axis}")) for axis in axes)
        window = math.prod(d(f"kernel_{axis}") for axis in axes)
        groups = d("groups")
        return kernel.batch * pixels, d("out_channels") / groups, d("in_channels") / groups * window
    if kernel.family.startswith("fc"):
        return kernel.batch * d("rows"), d("out_features"), d("in_features")
    if kernel.family.startswith("matmul"):
        return kernel.batch * d("products") * d("rows"), d("columns"), d("inner")
    return None


def _of_walk(kernel: Kernel) -> dict[str, float]:
    """What a mean over the image costs where channels lie together and each is summed on its own, as in
    TFLite's: the whole image is strode over once a channel, a line of the cache for each pixel."""
    if kernel.family not in _WALKED or "in_channels" not in kernel.shape:
        return {}
    channels = kernel.dimension("in_channels")
    pixels = kernel.dimension("height") * kernel.dimension("width")
    image = pixels * channels * DTYPE_BYTES.get(kernel.dtype, 4)
    strode = kernel.batch * channels * image
    return {"log strode": math.log(strode), "log held": math.log(pixels * _LINE_BYTES)}


def _of_product(kernel: Kernel, m: float, n: float, k: float) -> dict[str, float]:
    d, log = kernel.dimension, math.log
    window, stride = d("kernel_height"), d("stride_height")
    return {
        "log M": log(m),
        "log N": log(n),
        "log K": log(k),
        "window": log(window),
        "stride": log(stride),
        # MACs of whole 8 × 8 tiles.
        "log tiles": log(_up(m, 8) * _up(n, 8) * k),
        "log lhs": log(m * k),
        "log rhs": log(k * n),
        "log out": log(m * n),
        "log groups": log(d("groups")),
        **_slices(kernel, m, n, k),
    }


def _slices(kernel: Kernel, m: float, n: float, k: float) -> dict[str, float]:
    """What TFLite's GPU delegate goes by: channels in fours, 4 × 4 Winograd tiles, results per unit."""
    d = kernel.dimension
    window, stride = d("kernel_height"), d("stride_height")
    height, width = (math.ceil(d(axis) / d(f"stride_{axis}")) for axis in ("height", "width"))
    inner = k / (d("kernel_height") * d("kernel_width"))
    s, t = math.ceil(inner / 4), math.ceil(n / 4)
    # Winograd F(4×4, 3×3) where 32 tiles and 64 channels either way make it worth while: 36 products a tile.
    tiles = math.ceil(height / 4) * math.ceil(width / 4)
    winograd = window == 3 and stride == 1 and min(s, t) >= 16 and tiles >= 32
    products = tiles * 36 * s * t if winograd else m * math.ceil(k / inner) * s * t
    per_unit = m * t / _MALI_UNITS
    return {
        "log in slices": math.log(s),
        "log out slices": math.log(t),
        "log transformed": math.log(16 * products),
        "odd width": float(width % 2),
        "winograd": float(winograd),
        "block": float(sum(per_unit > threshold for threshold in (256, 1536, 4096))),
    }


def _up(value: float, multiple: int) -> float:
    return math.ceil(value / multiple) * multiple


def names(described: Sequence[dict[str, float]], view: str) -> tuple[str, ...]:
    """The features of ``view`` that are present, sorted; of those that are the same everywhere none, and of
    those that say the same as another the first."""
    prefixes = VIEWS[view] + (("word ",) if view in ("work", "tiles", "slices") else ())
    present = sorted({name for each in described for name in each if name.startswith(prefixes)})
    seen: dict[tuple[float, ...], str] = {}
    for name in present:
        column = tuple(each.get(name, 0.0) for each in described)
        if len(set(column)) > 1:
            seen.setdefault(column, name)
    return tuple(sorted(seen.values()))


def table(described: Sequence[dict[str, float]], columns: Sequence[str]) -> NDArray[np.float64]:
    """The features ``columns`` of each kernel, shape (n, d); 0, a dimension of 1, where it has none."""
    rows = [[each.get(name, 0.0) for name in columns] for each in described]
    return np.nan_to_num(np.array(rows, np.float64).reshape(len(described), len(columns)))


SPILL_BYTES = tuple(4.0**step for step in range(10, 15))
"""Sizes that caches have, 1 to 256 MiB: bytes beyond one cost more than those within, on no device less."""

OPERAND_BYTES = tuple(4.0**step for step in range(8, 15))
"""Sizes of caches, 64 KiB to 256 MiB, that hold the operands of a product: a core's own are smaller."""

_BEYOND = tuple(f"beyond {size / 2**20:g} MiB" for size in SPILL_BYTES)
_STRODE = ("strode", *(f"strode {name}" for name in _BEYOND))
FETCHED = tuple(
    f"tiles, {name} out of {size / 2**10:g} KiB" for name in ("lhs", "rhs") for size in OPERAND_BYTES
)
"""Costs of tiles whose operands a cache does not hold."""
TERMS = (
    "launch", "flops", "bytes", *_BEYOND, "tiles", *FETCHED, "gathered", "lhs", "rhs", "out", *_STRODE,
)  # fmt: skip
"""Costs that add up: a launch, FLOPs, bytes, bytes beyond what a cache holds, whole tiles, those of them
whose operands a cache does not hold, the gathered input of a convolution, operands, bytes strode over."""


def terms(described: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    """The amounts behind ``TERMS``, shape (n, 33); those of products and of walks are 0 elsewhere."""
    return np.array([_amounts(each) for each in described], np.float64).reshape(len(described), len(TERMS))


def _amounts(each: dict[str, float]) -> list[float]:
    flops = math.expm1(each.get("log flops", 0.0))
    moved = sum(math.expm1(each.get(f"log {way}", 0.0)) for way in ("read", "write"))
    if "log M" in each:
        tiles, lhs, rhs, out = (math.exp(each[f"log {name}"]) for name in ("tiles", "lhs", "rhs", "out"))
        gathered = lhs if each["window"] > 0 or each["stride"] > 0 else 0.0
        spilt = [0.0] * len(SPILL_BYTES)
        fetched = _fetched(tiles, (lhs, rhs), math.exp(each.get("log dtype", math.log(4))))
        return [1.0, flops, moved, *spilt, tiles, *fetched, gathered, lhs, rhs, out, *_strode(each)]
    spilt = [max(moved - size, 0.0) for size in SPILL_BYTES]
    return [1.0, flops, moved, *spilt, *[0.0] * (5 + len(FETCHED)), *_strode(each)]


def _fetched(tiles: float, operands: Sequence[float], element_bytes: float) -> list[float]:
    """MACs of tiles for which an operand is fetched from beyond a cache of each size.

    Every tile goes through strips of both operands again. The share that a cache no longer holds grows
    gradually with the operand, s/(s + size): blocking keeps part of a large one, other data displace part
    of a small one.
    """
    sizes = [count * element_bytes for count in operands]
    return [tiles * size / (size + cache) for size in sizes for cache in OPERAND_BYTES]


def _strode(each: dict[str, float]) -> list[float]:
    """Bytes strode over, and those of them whose lines do not stay in a cache of each size."""
    if "log strode" not in each:
        return [0.0] * len(_STRODE)
    strode, held = math.exp(each["log strode"]), math.exp(each["log held"])
    return [strode, *(strode * max(1 - size / held, 0.0) for size in SPILL_BYTES)]


GROUNDS: dict[str, frozenset[str]] = {
    "ground": frozenset(TERMS) - frozenset(_STRODE),
    "walk": frozenset(TERMS) - frozenset(_BEYOND),
}
"""Terms that a ground adds up. What a walk misses in caches is not counted a second time as bytes beyond."""
