"""Fourier transforms along rows: of real numbers, of complex ones, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.kernel import Kernel
from joulemeter.kernels import Form, OnnxNode, Operand, around, pick

if TYPE_CHECKING:
    import numpy as np

NAMES = ("fft",)

# (rows, points): a spectrogram's frames, FNet's words and width, GFNet's and a neural operator's images.
_ROWS = ((100, 400), (250, 512), (94, 1024), (128, 768), (768, 128), (5376, 14), (64, 4096), (2048, 64))
_KINDS = ("real", "complex", "inverse-real")


def form(kernel: Kernel) -> Form:
    """``rows`` transforms of ``points``; ``kind``: ``real`` to complex, ``complex``, ``inverse-real``."""
    rows, points = int(kernel.dimension("rows")) * kernel.batch, int(kernel.dimension("points"))
    kind = kernel.shape.get("kind", "real")
    wide, half = Operand((rows, points), kernel.dtype), Operand((rows, points // 2 + 1, 2), kernel.dtype)
    whole = Operand((rows, points, 2), kernel.dtype)
    x, y = {"real": (wide, half), "inverse-real": (half, wide)}.get(str(kind), (whole, whole))
    # FLOPs = 5 N log2 N (radix 2; Van Loan 1992, Computational Frameworks for the FFT, 1.4), half where one
    # side is real.
    flops = 5.0 * rows * points * math.log2(max(points, 2))
    return Form((x,), (), (y,), flops if kind == "complex" else flops / 2)


def sample(name: str, rng: np.random.Generator) -> Kernel:
    """A spectrum of a real network, jittered."""
    rows, points = pick(rng, _ROWS)
    points = around(rng, points, 0.7, int(rng.choice([1, 2, 8, 16])))
    return Kernel(
        name, {"rows": around(rng, rows, 1.0), "points": max(points, 4), "kind": str(pick(rng, _KINDS))}
    )


def torch(kernel: Kernel) -> Callable[..., Any]:
    """``torch.fft``: complex numbers come and go as pairs."""
    import torch

    kind, points = kernel.shape.get("kind", "real"), int(kernel.dimension("points"))
    if kind == "inverse-real":
        return lambda x: torch.fft.irfft(torch.view_as_complex(x), n=points)
    if kind == "complex":
        return lambda x: torch.view_as_real(torch.fft.fft(torch.view_as_complex(x)))
    return lambda x: torch.view_as_real(torch.fft.rfft(x))


def onnx(kernel: Kernel) -> tuple[OnnxNode, ...]:
    """None: ONNX Runtime's DFT takes its own shape of pairs, and few networks hold one."""
    return ()
