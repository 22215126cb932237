"""Work and cache sizes into bytes moved at each memory level, and the time and energy they take at least."""

from __future__ import annotations

import math

from joulemeter.device import Device, MemoryLevel
from joulemeter.kernel import DTYPE_BYTES, Work


def product_bytes(multiply_adds: float, cache_bytes: float, element_bytes: int) -> float:
    """The least bytes a product of ``multiply_adds`` moves into a cache it does not fit.

    A cache of S numbers makes at most √S/2 products for each number that enters it: Q ≥ 2 MACs / √S
    (Smith, Lowery, Langou and van de Geijn 2019, arXiv:1702.02017, who tighten Hong and Kung 1981).
    """
    return 2 * multiply_adds / math.sqrt(cache_bytes / element_bytes) * element_bytes


def moved_bytes(work: Work, multiply_adds: float, cache_bytes: float, dtype: str = "float32") -> float:
    """Bytes that cross into and out of a cache of ``cache_bytes``: each operand once, or what tiling
    needs.
    """
    compulsory = work.bytes
    if compulsory <= cache_bytes or cache_bytes <= 0:
        return compulsory
    return max(compulsory, product_bytes(multiply_adds, cache_bytes, DTYPE_BYTES[dtype]))


def by_level(work: Work, multiply_adds: float, device: Device, dtype: str = "float32") -> dict[str, float]:
    """Bytes moved out of each memory level towards the next smaller one.

    What fits into a cache entirely does not come from behind it, weights apart: between two uses of a
    network's weights lie all its other weights, so that they come from the memory unless all of them fit.
    """
    moved: dict[str, float] = {}
    inner = 0.0
    for level in device.levels:
        crossing = moved_bytes(work, multiply_adds, inner, dtype) if inner else work.bytes
        weights = work.parameters * DTYPE_BYTES[dtype]
        moved[level.name] = crossing if work.bytes > inner else min(work.bytes, weights)
        inner = level.size_bytes
    return moved


def least_time_s(work: Work, multiply_adds: float, device: Device, dtype: str = "float32") -> float:
    """The roofline: the longer of the arithmetic and the slowest level's traffic.

    Williams, Waterman and Patterson 2009, with a roof for each level (Ilic et al. 2014). Only FLOPs of
    products count against the peak. Levels of unknown bandwidth are left out; 0 where nothing is known.
    """
    peak = device.peak_flops_per_s.get(dtype, math.inf)
    moved = by_level(work, multiply_adds, device, dtype)
    times = [_over(moved[level.name], level) for level in device.levels]
    return max([2 * multiply_adds / peak, *times])


def _over(moved: float, level: MemoryLevel) -> float:
    rate = level.bandwidth_bytes_per_s
    return moved / rate if rate > 0 else 0.0
