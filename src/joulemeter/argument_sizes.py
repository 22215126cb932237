"""What a site's arguments were, as counts: read from the distributions that tracers describe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seen:
    """One value or size of an argument in words, its bytes (NaN where it has none), how often it was."""

    text: str
    size_bytes: float
    count: float


def distributions(arguments: dict[str, Any], path: str = "") -> list[tuple[str, list[Seen]]]:
    """The arguments of a site by name, each with what was seen of it.

    Reads ``{"each": {name: [{"type", "shape", "dtype", "bytes", "count"}, …]}}`` as tracers write it, and
    any nested mapping of values to counts. What is neither is left out.
    """
    if isinstance(arguments.get("each"), dict):
        arguments = arguments["each"]
    found = []
    for name, value in arguments.items():
        where = f"{path} {name}".strip()
        if isinstance(value, list):
            seen = [_described(each) for each in value if isinstance(each, dict) and "count" in each]
            found += [(where, seen)] if seen else []
        elif isinstance(value, dict):
            found += _counts(value, where)
    return found


def _counts(value: dict[str, Any], where: str) -> list[tuple[str, list[Seen]]]:
    if value and all(isinstance(n, int | float) and not isinstance(n, bool) for n in value.values()):
        sized = where.endswith("bytes")
        return [(where, [Seen(str(k), _bytes(k) if sized else math.nan, float(n)) for k, n in value.items()])]
    return distributions(value, where)


def _bytes(text: str) -> float:
    return float(text) if str(text).isdigit() else math.nan


def _described(each: dict[str, Any]) -> Seen:
    size = each.get("bytes")
    known = isinstance(size, int | float) and not isinstance(size, bool)
    return Seen(_words(each), float(size) if known and size is not None else math.nan, float(each["count"]))


def _words(each: dict[str, Any]) -> str:
    if "shape" in each:
        shape = "×".join(map(str, each["shape"])) or "scalar"
        return f"{shape} {str(each.get('dtype', '')).removeprefix('torch.')}".strip()
    if "value" in each:
        return str(each["value"])
    kind = str(each.get("type", "?")).rpartition(".")[2]
    return f"{kind} of {each['length']}" if "length" in each else kind


def bytes_per_call(arguments: dict[str, Any]) -> float:
    """Mean bytes of a call's arguments, those that have a size; NaN where none has."""
    means = []
    for _, seen in distributions(arguments):
        sized = [each for each in seen if not math.isnan(each.size_bytes)]
        count = math.fsum(each.count for each in seen)
        if sized and count > 0:
            means.append(math.fsum(each.size_bytes * each.count for each in sized) / count)
    return math.fsum(means) if means else math.nan
