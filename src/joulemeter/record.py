"""Record: one energy that was measured, estimated or predicted, and of what.

One schema serves every level, from a kernel to a training run: columns that do not apply are empty
(text) or NaN (numbers), never zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast, get_args

from joulemeter.errors import DatasetError
from joulemeter.kernel import Kernel, Value, Work
from joulemeter.reading import Origin

SCHEMA = 1
"""The version of the columns below; readers refuse a newer one."""

Level = Literal["kernel", "module", "model", "application", "run"]
"""What the energy is of: one kernel, a module of a network, a whole network, an application with its
pre- and post-processing, or a training run."""

NAN = math.nan
OBJECT = 'a JSON object, such as {"batch_size": 8}'
"""What the columns ``shape`` and ``facts`` hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of a data set. Energies are of one execution, in joules; times in seconds.

    ``energy_j`` is gross (idle included), ``net_energy_j`` above idle; ``low``/``high`` bound a 95 %
    interval. A record of a kernel says its family, shape, dtype, batch and direction; of a network, its
    name in ``network`` (a module's or primitive's place in it in ``path``) and its kind in ``family``.
    """

    level: Level
    family: str
    origin: Origin
    name: str = ""
    network: str = ""
    path: str = ""
    device: str = ""
    backend: str = ""
    dtype: str = "float32"
    batch: int = 1
    direction: str = "forward"
    shape: Mapping[str, Value] = field(default_factory=dict)
    flops: float = NAN
    read_bytes: float = NAN
    write_bytes: float = NAN
    parameters: float = NAN
    time_s: float = NAN
    time_low_s: float = NAN
    time_high_s: float = NAN
    power_w: float = NAN
    idle_power_w: float = NAN
    energy_j: float = NAN
    energy_low_j: float = NAN
    energy_high_j: float = NAN
    net_energy_j: float = NAN
    net_low_j: float = NAN
    net_high_j: float = NAN
    repeats: int = 1
    temperature_c: float = NAN
    throttled: bool | None = None
    """Whether the device slowed itself down meanwhile; None where nobody looked."""
    source: str = ""
    """Where the figures come from: a meter, or the file they were imported from."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is known, as plain JSON values (a clock, a utilisation, a setting)."""

    @property
    def kernel(self) -> Kernel:
        """What was launched; for levels above the kernel, its name stands for the shape."""
        shape = dict(self.shape)
        if self.level != "kernel":
            shape["of"] = f"{self.level}:{self.network}:{self.path}:{self.name}"
        return Kernel(self.family, shape, self.dtype, self.batch, self.direction)

    @property
    def work(self) -> Work:
        """Its work; NaN where not known."""
        return Work(self.flops, self.read_bytes, self.write_bytes, self.parameters)

    @property
    def key(self) -> str:
        """The same text for repeats of the same thing on the same device and backend."""
        return f"{self.device}/{self.backend}/{self.kernel.key}"

    def to_row(self) -> dict[str, Any]:
        """Plain columns: ``shape`` and ``facts`` as JSON text."""
        row = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("shape", "facts"):
            row[name] = json.dumps(dict(row[name]), sort_keys=True)
        return row

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Record:
        """A record out of ``to_row``'s columns; absent ones take their defaults.

        Raises DatasetError where level or origin is not one of the known words, or JSON text is torn.
        """
        known = {each.name for each in fields(Record)}
        values = {key: value for key, value in row.items() if key in known and value is not None}
        _check_word(values, "level", get_args(Level))
        _check_word(values, "origin", get_args(Origin))
        for name in ("shape", "facts"):
            values[name] = _object(name, values.get(name, "{}"))
        try:
            return Record(**values)
        except TypeError as error:
            raise DatasetError(f"a record lacks a column ({error})", "write it with Record.to_row") from error


def _check_word(values: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> None:
    if values.get(name) not in allowed:
        raise DatasetError(f"a record's {name} is '{values.get(name)}'", f"one of {', '.join(allowed)}")


def _object(name: str, text: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(text, Mapping):
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"a record's {name} is not JSON ({error})", OBJECT) from error
    if not isinstance(value, dict):
        raise DatasetError(f"a record's {name} is not a JSON object", OBJECT)
    return cast("Mapping[str, Any]", value)
