"""Kernel (one launch of a family at one shape), and its Work in FLOPs and bytes.

Shapes are plain words and whole numbers. Families share this vocabulary where it applies, so that a
predictor and an importer mean the same thing: ``height``, ``width`` (of the input; ``length`` in one
dimension, ``depth`` the third), ``in_channels``, ``out_channels``, ``kernel_height``, ``kernel_width``,
``stride_height``, ``stride_width``, ``padding_height``, ``padding_width`` (left out: "same"),
``dilation_height``, ``dilation_width``, ``groups``; ``rows``, ``inner``, ``columns`` of a matrix product
(rows × inner by inner × columns); ``in_features``, ``out_features``; ``heads``, ``key_heads``,
``head_width``, ``queries``, ``keys`` of attention; ``elements`` where only the count matters. What a shape
does not name is 1 (a stride, a group) or absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

from joulemeter.errors import DatasetError

Value = int | str
"""A dimension, or a word such as a mode."""
_written = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

DTYPE_BYTES = {
    "float64": 8,
    "complex64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "float8": 1,
}
"""Bytes of one element of each dtype."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel must do at least, whoever runs it.

    ``flops`` counts a multiply and an add as two. ``read_bytes`` and ``write_bytes`` are the operands and
    results once each (compulsory traffic); the weights are part of ``read_bytes``. ``parameters`` are the
    trained numbers it holds. NaN where a figure is not known.
    """

    flops: float
    read_bytes: float
    write_bytes: float
    parameters: float = 0.0

    @property
    def bytes(self) -> float:
        """Bytes read and written."""
        return self.read_bytes + self.write_bytes

    @property
    def intensity(self) -> float:
        """FLOPs per byte; NaN where nothing moves."""
        return self.flops / self.bytes if self.bytes > 0 else math.nan

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Work)))

    def times(self, count: float) -> Work:
        """The work of ``count`` such launches (the parameters stay the same)."""
        return Work(self.flops * count, self.read_bytes * count, self.write_bytes * count, self.parameters)


@dataclass(frozen=True)
class Kernel:
    """One launch: a family (``conv-bn-relu``) at a shape, batch and dtype.

    ``shape`` leaves the batch out. ``direction`` is ``forward``, ``backward`` or ``step`` (an optimizer's).
    """

    family: str
    shape: Mapping[str, Value] = field(default_factory=dict)
    dtype: str = "float32"
    batch: int = 1
    direction: str = "forward"

    @cached_property  # every look-up of a kernel's form, work or price hashes it
    def key(self) -> str:
        """The same text for the same configuration: what repeats and folds are grouped by."""
        return f"{self.family}/{self.direction}/{self.dtype}/{self.batch}/{_written(dict(self.shape))}"

    def __hash__(self) -> int:
        return hash(self.key)

    def dimension(self, name: str, otherwise: float = 1) -> float:
        """The number named ``name``; ``otherwise`` where the shape does not say, or says a word."""
        value = self.shape.get(name, otherwise)
        return value if isinstance(value, int | float) else otherwise

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {**asdict(self), "shape": dict(self.shape)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Kernel:
        """A kernel out of ``to_json``; raises DatasetError where family or shape is missing or odd."""
        shape = data.get("shape", {})
        if not isinstance(data.get("family"), str) or not isinstance(shape, Mapping):
            raise DatasetError("a kernel lacks its family or its shape", "write it with Kernel.to_json")
        if not all(isinstance(value, int | str) for value in shape.values()):
            raise DatasetError(
                f"the shape of a {data['family']} holds more than words and whole numbers",
                "write it with Kernel.to_json",
            )
        known = {each.name for each in fields(Kernel)}
        return Kernel(**{key: value for key, value in data.items() if key in known})
