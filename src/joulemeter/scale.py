"""The data-size experiment: the same call on growing inputs, its energy and time against bytes."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from joulemeter import calls
from joulemeter.errors import UsageError
from joulemeter.isolate import Isolated, Stage, isolate_all
from joulemeter.isolation import UNKNOWN, Interval
from joulemeter.ledger import number

Axis = Literal["bytes", "size"]
SIZE_NAME = "n"
"""What ``--args`` calls the size."""


# ── inputs that grow ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Input:
    """One size of the experiment: how it was asked for, what it weighs, and the call on it."""

    size: float
    bytes: int
    """Of all arrays, tensors and strings among the arguments; 0 where there are none."""
    call: Callable[[], Any]


def parse_sizes(text: str) -> list[float]:
    """Sizes from ``1000,10000``, ``1e3,1e4`` (counts) or ``0.1,50%,1.0`` (fractions), increasing.

    Raises UsageError for fewer than three different sizes, mixed kinds, or ones that are not positive.
    """
    sizes = sorted({_size(part.strip()) for part in text.split(",") if part.strip()})
    if len(sizes) < 3:
        raise UsageError(f"--sizes '{text}' names fewer than three sizes", "--sizes 1000,10000,100000")
    if not all(0 < size < math.inf for size in sizes):
        raise UsageError(f"--sizes '{text}': a size is not above zero", "--sizes 1000,10000,100000")
    whole = [size > 1 or text.strip() == "1" for size in sizes]
    if any(whole) and sizes[0] < 1:
        raise UsageError(f"--sizes '{text}' mixes fractions and counts", "--sizes 0.1,0.5,1.0")
    return sizes


def _size(text: str) -> float:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"'{text}' is not a size", "a count (1000) or a fraction (0.5)") from None


def inputs(name: str, sizes: Sequence[float], setup: str = "", arguments: str = "") -> list[Input]:
    """The call ``name`` (``module:function``) on each size.

    ``arguments`` is Python, as between the parentheses of the call, after ``setup`` has run. Where either
    names ``n``, they are made anew for every size. Else they are made once, and everything in them that
    shares the longest leading dimension is cut: to a fraction of it, or to a count. Without ``arguments``
    the function is called once, without any, and returns the call to measure and a tuple of its arguments.
    """
    function = calls.function(name)
    if not arguments:
        function, whole = _given_by(function, name)
    elif re.search(rf"\b{SIZE_NAME}\b", f"{setup}\n{arguments}"):
        made = [calls.arguments(arguments, f"{SIZE_NAME} = {count}\n{setup}") for count in _counts(sizes)]
        return [_input(size, function, *each) for size, each in zip(sizes, made, strict=True)]
    else:
        whole = calls.arguments(arguments, setup)
    args, kwargs = whole
    cut = [_cut((args, kwargs), size) for size in sizes]
    return [_input(size, function, *each) for size, each in zip(sizes, cut, strict=True)]


def _counts(sizes: Sequence[float]) -> list[int]:
    if sizes[0] < 1:
        raise UsageError(f"of what is '{SIZE_NAME}' a fraction?", "counts: --sizes 1000,10000,100000")
    return [round(size) for size in sizes]


def _given_by(function: Callable[..., Any], name: str) -> tuple[Callable[..., Any], tuple[Any, Any]]:
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise UsageError(
            f"'{name}' needs arguments, and nobody said which",
            f"--setup 'import numpy' --args 'numpy.random.rand({SIZE_NAME})'",
        ) from None
    given = function()
    if not (isinstance(given, tuple) and len(given) == 2 and callable(given[0])):
        raise UsageError(f"'{name}()' did not return a function and its arguments", "return step, (x, y)")
    args = given[1] if isinstance(given[1], tuple) else (given[1],)
    return given[0], (args, {})


def _input(size: float, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Input:
    return Input(size, bytes_of((args, kwargs)), lambda: function(*args, **kwargs))


def _cut(arguments: Any, size: float) -> Any:
    longest = max(_lengths(arguments), default=0)
    if longest == 0:
        raise UsageError(
            "no argument has a leading dimension to cut",
            f"name the size in --args: 'torch.rand({SIZE_NAME}, 64)'",
        )
    # A fraction of everything, or a count; 1 alone could be either, and means everything.
    count = max(1, round(size * longest)) if size <= 1 else round(size)
    if count > longest:
        raise UsageError(f"size {count} is more than the {longest} rows there are", "a smaller --sizes")
    return _map(arguments, lambda each: each[:count] if _length(each) == longest else each)


def _length(value: Any) -> int:
    """The leading dimension of an array, tensor, frame or string; 0 for anything without one."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 0
    return len(value) if isinstance(value, str | bytes) else 0


def _lengths(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [length for each in value.values() for length in _lengths(each)]
    if isinstance(value, tuple | list):
        return [length for each in value for length in _lengths(each)]
    return [_length(value)]


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _map(each, change) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_map(each, change) for each in value)
    return change(value)


def bytes_of(value: Any) -> int:
    """The bytes of the arrays, tensors and strings in ``value``, through tuples, lists and dicts."""
    if isinstance(value, dict):
        return sum(bytes_of(each) for each in value.values())
    if isinstance(value, tuple | list):
        return sum(bytes_of(each) for each in value)
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    size = getattr(value, "nbytes", 0)
    return int(size) if isinstance(size, int | np.integer) else 0


# ── the experiment ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Point:
    """One size, measured; energy net of rest, per call."""

    size: float
    bytes: int
    found: Isolated

    def to_json(self) -> dict[str, Any]:
        """One plain object."""
        return {"size": self.size, "bytes": self.bytes, **self.found.to_json()}


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope · x, with 95 % intervals; ``r2`` is the share of y's variation it explains."""

    slope: Interval
    intercept: Interval
    r2: float

    def to_json(self, unit: str) -> dict[str, Any]:
        """One plain object; ``unit`` is that of the slope."""
        plain = {f"{end}": number(getattr(self.slope, end)) for end in ("value", "low", "high")}
        return {
            "slope": plain,
            "unit": unit,
            "intercept": {end: number(getattr(self.intercept, end)) for end in ("value", "low", "high")},
            "r2": number(self.r2),
        }


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the experiment found. ``axis`` says what x is: bytes, or the size where bytes do not grow."""

    function: str
    axis: Axis
    points: tuple[Point, ...]
    energy: Line
    time: Line
    exponent: Interval
    """k in energy ∝ x^k; NaN where an energy could not be told from nothing."""

    @property
    def origin(self) -> str:
        """The meters' origin."""
        return ", ".join(sorted({point.found.origin for point in self.points}))

    @property
    def x(self) -> NDArray[np.float64]:
        """Bytes or sizes, float64 (n,)."""
        return np.array([float(getattr(point, self.axis)) for point in self.points])

    def to_json(self) -> dict[str, Any]:
        """The object that ``joulemeter scale --json`` prints."""
        per = "B" if self.axis == "bytes" else "unit of size"
        return {
            "schema": 1,
            "function": self.function,
            "origin": self.origin,
            "axis": self.axis,
            "points": [point.to_json() for point in self.points],
            "energy": self.energy.to_json(f"J/{per}"),
            "time": self.time.to_json(f"s/{per}"),
            "exponent": {end: number(getattr(self.exponent, end)) for end in ("value", "low", "high")},
        }


def scale(
    name: str, grown: Sequence[Input], stage: Stage, *, ci: float = 0.05, limit_s: float = 20.0, seed: int = 0
) -> Scaling:
    """Isolates each input's call, all of them interleaved in random order, and fits the lines.

    ``limit_s`` holds for each size. Raises UsageError for inputs of one size.
    """
    labelled: Mapping[str, Input] = {f"{each.size:g}": each for each in grown}
    made = {key: each.call for key, each in labelled.items()}
    found = isolate_all(made, stage, ci=ci, limit_s=limit_s, seed=seed)
    return fitted(name, [Point(each.size, each.bytes, found[key]) for key, each in labelled.items()])


def fitted(name: str, points: Sequence[Point]) -> Scaling:
    """The lines through ``points``: energy and time against bytes, or size where bytes do not grow."""
    axis: Axis = "bytes" if len({point.bytes for point in points}) == len(points) else "size"
    x = np.array([float(getattr(point, axis)) for point in points])
    energies = [point.found.energy for point in points]
    energy = [Interval(each.energy_j, each.low_j, each.high_j) for each in energies]
    time = [point.found.time for point in points]
    return Scaling(name, axis, tuple(points), line(x, energy), line(x, time), _exponent(x, energy))


def line(x: NDArray[np.float64], y: Sequence[Interval]) -> Line:
    """The weighted least-squares line through y(x), each y with its own 95 % interval.

    The slope's interval is the wider, at either end, of two: Student's with n − 2 degrees of freedom,
    the scatter never taken for less than the points' own errors (Draper & Smith, Applied Regression
    Analysis, ch. 1 and 9), and that of lines through all lower and all upper ends, because a meter whose
    gain is off is off at every point. Points that are not known are left out; all is NaN with fewer
    than three that are.
    """
    value, low, high = np.array([(each.value, each.low, each.high) for each in y]).T
    known = np.isfinite(value) & np.isfinite(low) & np.isfinite(high)
    if known.sum() < 3:
        return Line(UNKNOWN, UNKNOWN, math.nan)
    x, value, low, high = x[known], value[known], low[known], high[known]
    sigma = (high - low) / (2 * stats.norm.ppf(0.975))
    sigma = np.maximum(sigma, max(1e-12 * float(np.abs(value).max()), np.finfo(float).tiny))
    design = np.column_stack([np.ones_like(x), x])
    best, covariance, r2 = _least_squares(design, value, 1 / sigma)
    half = stats.t.ppf(0.975, len(x) - 2) * np.sqrt(np.diag(covariance))
    ends = [_least_squares(design, end, 1 / sigma)[0] for end in (low, high)]
    intercept, slope = (
        Interval(
            float(best[i]),
            float(min(best[i] - half[i], *(end[i] for end in ends))),
            float(max(best[i] + half[i], *(end[i] for end in ends))),
        )
        for i in (0, 1)
    )
    return Line(slope, intercept, r2)


def _least_squares(
    design: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Coefficients, their covariance, and the weighted R²; ``weight`` is 1/σ of each point."""
    # Columns of one length keep the normal matrix far from singular when x is in gigabytes.
    unit = np.linalg.norm(design * weight[:, None], axis=0)
    scaled = design * weight[:, None] / unit
    solution, *_ = np.linalg.lstsq(scaled, y * weight, rcond=None)
    residual = y * weight - scaled @ solution
    free = len(y) - design.shape[1]
    spread = max(1.0, float(residual @ residual) / free)
    covariance = spread * np.linalg.pinv(scaled.T @ scaled) / np.outer(unit, unit)
    mean = np.average(y, weights=weight**2)
    total = float((((y - mean) * weight) ** 2).sum())
    r2 = 1 - float(residual @ residual) / total if total > 0 else math.nan
    return solution / unit, covariance, r2


def _exponent(x: NDArray[np.float64], energy: Sequence[Interval]) -> Interval:
    """The slope of log energy against log x."""
    if not (all(each.low > 0 for each in energy) and x.min() > 0):
        return UNKNOWN
    logs = [Interval(math.log(each.value), math.log(each.low), math.log(each.high)) for each in energy]
    return line(np.log(x), logs).slope
