"""Arguments described, never copied: shapes, dtypes, devices, bytes, scalars, short strings.

Only types whose attributes are known to be harmless are looked into; of everything else the type's name
is taken. (A property of the user's may have effects, and a proxy that records what is asked of it would
record us.)
"""

from __future__ import annotations

import math
import sys
import weakref
from typing import Any

LONGEST = 64
"""Longest string that is taken as it is."""
MOST = 32
"""Most different values kept for one argument; what comes later is counted as "other"."""
ITEMS = 8
"""Most items of a list, tuple or dictionary that are looked into."""

Description = tuple[Any, ...]
"""(type,) or (type, shape, dtype, device, bytes) or (type, value) or (type, length, items)."""


class Seen:
    """What was seen of one site's arguments."""

    __slots__ = ("arguments", "calls", "described", "traced")

    def __init__(self) -> None:
        self.arguments: dict[str, dict[Description, int]] = {}
        self.calls = 0
        self.described = 0
        self.traced = False

    def take(self, count: int, values: tuple[Any, ...], names: tuple[str, ...], callee: Any) -> None:
        """Takes note of one call's arguments; ``names`` are those of the last ``values``."""
        self.calls = max(self.calls, count)
        self.described += 1
        first_named = len(values) - len(names)
        bound = getattr(callee, "__self__", None) if type(callee).__name__ in BOUND else None
        if is_array(bound):
            self.note("self", bound)
        for index, value in enumerate(values):
            self.note(str(index) if index < first_named else names[index - first_named], value)

    def note(self, label: str, value: Any) -> None:
        """Counts one value of the argument ``label``; beyond MOST different ones, as ``other``."""
        counts = self.arguments.setdefault(label, {})
        what = describe(value)
        if what not in counts and len(counts) >= MOST:
            what = ("other",)
        counts[what] = counts.get(what, 0) + 1

    def summary(self) -> dict[str, Any]:
        """``{"described": n, "of": calls, "each": {label: [{"type": …, "count": n}, …]}}``; "of" counts the
        calls up to the last that was described."""
        each = {
            label: [{**as_json(what), "count": count} for what, count in counts.items()]
            for label, counts in self.arguments.items()
        }
        made: dict[str, Any] = {"described": self.described, "of": self.calls, "each": each}
        if self.traced:
            made["traced"] = True
        return made


BOUND = frozenset({"method", "builtin_function_or_method", "method-wrapper"})
SCALARS = frozenset({int, float, bool, complex, type(None)})


def describe(value: Any, depth: int = 0) -> Description:
    """A hashable description of one argument."""
    kind = type(value)
    if kind in SCALARS:
        return (kind.__name__, value if kind is not int or abs(value) < 1 << 63 else "large")
    if kind is str:
        return ("str", value) if len(value) <= LONGEST else ("str", len(value), ())
    if kind is bytes:
        return ("bytes", len(value), ())
    if kind in (list, tuple, set, frozenset, dict):
        items = (
            () if depth else tuple(describe(each, 1) for each, _ in zip(value, range(ITEMS), strict=False))
        )
        return (kind.__name__, len(value), items)
    return describe_array(value, kind)


def describe_array(value: Any, kind: type) -> Description:
    """Type, shape, dtype, device and bytes of an array; the type alone where it has no size to tell."""
    reader = reader_of(kind)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if reader is None:
        return (name,)
    try:
        shape, dtype, device, size = reader(value)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return (name,)  # symbolic, deleted or not yet built: it has no size to tell
    return (name, shape, dtype, device, size)


def is_array(value: Any) -> bool:
    """Whether ``value`` is of a type whose size can be told."""
    return value is not None and reader_of(type(value)) is not None


_readers: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def reader_of(kind: type) -> Any:
    """How to read shape, dtype, device and bytes off instances of ``kind``; None: leave them alone."""
    if kind in _readers:
        return _readers[kind]
    found = None
    for base in kind.__mro__:
        found = READERS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            break
    if (
        found not in (None, read_numpy)
        and kind.__module__.partition(".")[0] != base.__module__.partition(".")[0]
    ):
        found = None  # a subclass of the user's may answer attributes itself
    _readers[kind] = found
    return found


def read_torch(value: Any) -> tuple[Any, ...]:
    """Shape, dtype, device and bytes of a PyTorch tensor. Raises ValueError where a length is symbolic."""
    # Without this, a function mode of the user's would be asked about each attribute.
    with sys.modules["torch"]._C.DisableTorchFunction():
        shape = tuple(value.shape)
        if not all(type(length) is int for length in shape):
            raise ValueError("a symbolic shape")
        return (
            shape,
            str(value.dtype).removeprefix("torch."),
            str(value.device),
            value.nelement() * value.element_size(),
        )


def read_numpy(value: Any) -> tuple[Any, ...]:
    # NumPy's own answers: a subclass of the user's may have properties of those names.
    array = sys.modules["numpy"].ndarray
    shape, dtype, size = (getattr(array, name).__get__(value) for name in ("shape", "dtype", "nbytes"))
    return shape, str(dtype), "cpu", int(size)


def read_tensorflow(value: Any) -> tuple[Any, ...]:
    """Shape, dtype, device and bytes of a TensorFlow tensor. Raises ValueError where a length is unknown."""
    shape = tuple(value.shape.as_list())
    if any(length is None for length in shape):
        raise ValueError("an unknown shape")
    elements = 1
    for length in shape:
        elements *= length
    return (
        shape,
        value.dtype.name,
        str(value.device).rpartition("/device:")[2].lower(),
        elements * value.dtype.size,
    )


def read_jax(value: Any) -> tuple[Any, ...]:
    return tuple(value.shape), str(value.dtype), str(value.device), int(value.nbytes)


READERS: dict[str, Any] = {
    "torch.Tensor": read_torch,
    "torch.nn.parameter.Parameter": read_torch,
    "numpy.ndarray": read_numpy,
    "tensorflow.python.framework.ops.EagerTensor": read_tensorflow,
    "tensorflow.python.ops.resource_variable_ops.ResourceVariable": read_tensorflow,
    "jaxlib._jax.ArrayImpl": read_jax,
    "jaxlib.xla_extension.ArrayImpl": read_jax,
}


def as_json(what: Description) -> dict[str, Any]:
    """A description as a plain object."""
    if len(what) == 5:
        keys = ("type", "shape", "dtype", "device", "bytes")
        return dict(zip(keys, (what[0], list(what[1]), *what[2:]), strict=True))
    if len(what) == 3:
        return {"type": what[0], "length": what[1], "items": [as_json(item) for item in what[2]]}
    if len(what) == 2:
        value = what[1]
        # JSON has no complex numbers, no infinities and no NaN.
        plain = math.isfinite(value) if isinstance(value, float) else not isinstance(value, complex)
        return {"type": what[0], "value": value if plain else str(value)}
    return {"type": what[0]}
