"""Device: what a machine can do at most, and the fingerprint that says which machine it is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from joulemeter.errors import DatasetError


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """A cache or the memory: its bytes (all instances together) and how fast it gives them to all threads.

    ``bandwidth_bytes_per_s`` is NaN where nobody measured it.
    """

    name: str
    size_bytes: float
    bandwidth_bytes_per_s: float = math.nan


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its users see it. ``levels`` go from the smallest cache to the memory.

    ``peak_flops_per_s`` by dtype, ``kind`` is ``cpu`` or ``cuda``; ``model`` the maker's name for it.
    """

    model: str
    kind: str
    threads: int
    peak_flops_per_s: Mapping[str, float] = field(default_factory=dict)
    levels: tuple[MemoryLevel, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions of what runs the kernels."""

    @property
    def fingerprint(self) -> str:
        """A short text that is the same for the same hardware and threads, whatever was measured on it."""
        stable = [
            self.model,
            self.kind,
            self.threads,
            [(level.name, level.size_bytes) for level in self.levels[:-1]],
        ]
        digest = hashlib.sha256(json.dumps(stable).encode()).hexdigest()
        return f"{self.kind}-{digest[:12]}"

    @property
    def last_cache_bytes(self) -> float:
        """The size of the largest cache; 0 where none is known."""
        return self.levels[-2].size_bytes if len(self.levels) > 1 else 0.0

    @property
    def memory(self) -> MemoryLevel | None:
        """The level behind all caches."""
        return self.levels[-1] if self.levels else None

    def to_json(self) -> dict[str, Any]:
        """A plain object, with its fingerprint; NaN becomes null."""
        data = {**asdict(self), "fingerprint": self.fingerprint}
        for level in data["levels"]:
            level.update(
                {key: None for key, value in level.items() if isinstance(value, float) and math.isnan(value)}
            )
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Device:
        """A device out of ``to_json``; raises DatasetError where a key is missing."""
        try:
            levels = tuple(
                MemoryLevel(each["name"], each["size_bytes"], each["bandwidth_bytes_per_s"] or math.nan)
                for each in data["levels"]
            )
            return Device(
                data["model"],
                data["kind"],
                data["threads"],
                data["peak_flops_per_s"],
                levels,
                data.get("software", {}),
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"a device's description lacks {error}", "the device.json that `joulemeter bench` writes"
            ) from error
