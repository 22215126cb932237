"""The records of XLA's profiler, which JAX's sessions (XSpace) and TensorFlow's (Trace) hand back as bytes.

Read here without generated classes: each framework brings its own, or none. The fields are those of
``tsl/profiler/protobuf/xplane.proto`` and ``trace_events.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Value = int | bytes


class Event(NamedTuple):
    """One record on a line, by the line's clock; ``stats`` by name, those that are text or whole numbers."""

    name: str
    start_ns: int
    end_ns: int
    stats: dict[str, str | int]


class Line(NamedTuple):
    """One thread of the host or one stream of a device; ``id`` is the profiler's own number for it."""

    plane: str
    id: int
    name: str
    events: list[Event]


def lines(space: bytes) -> Iterator[Line]:
    """The lines of all planes, with their events in the order they were written."""
    for number, plane in _fields(space):
        if number == 1:
            yield from _plane_lines(_bytes(plane))


def _plane_lines(plane: bytes) -> Iterator[Line]:
    name, found = "", []
    event_names: dict[int, str] = {}
    stat_names: dict[int, str] = {}
    for number, value in _fields(plane):
        if number == 2:
            name = _text(value)
        elif number == 3:
            found.append(_bytes(value))
        elif number in (4, 5):
            key, called = _entry(_bytes(value))
            (event_names if number == 4 else stat_names)[key] = called
    for line in found:
        yield _line(name, line, event_names, stat_names)


def _entry(entry: bytes) -> tuple[int, str]:
    """One entry of a map from id to metadata: the id and the metadata's name."""
    key, called = 0, ""
    for number, value in _fields(entry):
        if number == 1:
            key = _int(value)
        elif number == 2:
            called = next((_text(inner) for at, inner in _fields(_bytes(value)) if at == 2), "")
    return key, called


def _line(plane: str, line: bytes, event_names: dict[int, str], stat_names: dict[int, str]) -> Line:
    id, name, start_ns, events = 0, "", 0, []
    for number, value in _fields(line):
        if number == 1:
            id = _int(value)
        elif number == 2:
            name = _text(value)
        elif number == 3:
            start_ns = _int(value)
        elif number == 4:
            events.append(_bytes(value))
    return Line(plane, id, name, [_event(event, start_ns, event_names, stat_names) for event in events])


def _event(event: bytes, line_ns: int, names: dict[int, str], stat_names: dict[int, str]) -> Event:
    key, offset_ps, duration_ps = 0, 0, 0
    stats: dict[str, str | int] = {}
    for number, value in _fields(event):
        if number == 1:
            key = _int(value)
        elif number == 2:
            offset_ps = _int(value)
        elif number == 3:
            duration_ps = _int(value)
        elif number == 4:
            stats.update(_stat(_bytes(value), stat_names))
    start_ps = line_ns * 1000 + offset_ps
    return Event(names.get(key, ""), start_ps // 1000, (start_ps + duration_ps) // 1000, stats)


def _stat(stat: bytes, names: dict[int, str]) -> dict[str, str | int]:
    name = ""
    found: dict[str, str | int] = {}
    for number, value in _fields(stat):
        if number == 1:
            name = names.get(_int(value), "")
        elif number in (3, 4):
            found[name] = _int(value)
        elif number == 5:
            found[name] = _text(value)
        elif number == 7:
            found[name] = names.get(_int(value), "")
    return found


def trace_lines(trace: bytes) -> list[Line]:
    """The lines of a Trace, whose stamps count from the session's start."""
    names: dict[tuple[int, int], tuple[str, str]] = {}
    events: dict[tuple[int, int], list[Event]] = {}
    for number, value in _fields(trace):
        if number == 1:
            names.update(_resources(_bytes(value)))
        elif number == 4:
            place, event = _trace_event(_bytes(value))
            events.setdefault(place, []).append(event)
    unnamed = ("", "")
    return [
        Line(names.get(place, unnamed)[0], place[1], names.get(place, unnamed)[1], found)
        for place, found in events.items()
    ]


def _resources(entry: bytes) -> dict[tuple[int, int], tuple[str, str]]:
    """One device of a Trace: the names of it and of each of its lines."""
    id, device = 0, ""
    found: dict[int, str] = {}
    for number, value in _fields(next((_bytes(v) for n, v in _fields(entry) if n == 2), b"")):
        if number == 1:
            device = _text(value)
        elif number == 2:
            id = _int(value)
        elif number == 3:
            line, name = _named(_bytes(value))
            found[line] = name
    return {(id, line): (device, name) for line, name in found.items()}


def _named(entry: bytes) -> tuple[int, str]:
    """One resource of a device: its number and its name."""
    key, name = 0, ""
    for number, value in _fields(entry):
        if number == 1:
            key = _int(value)
        elif number == 2:
            name = next((_text(inner) for at, inner in _fields(_bytes(value)) if at == 1), "")
    return key, name


def _trace_event(event: bytes) -> tuple[tuple[int, int], Event]:
    device, line, name, start_ps, duration_ps = 0, 0, "", 0, 0
    stats: dict[str, str | int] = {}
    for number, value in _fields(event):
        if number == 1:
            device = _int(value)
        elif number == 2:
            line = _int(value)
        elif number == 3:
            name = _text(value)
        elif number == 9:
            start_ps = _int(value)
        elif number == 10:
            duration_ps = _int(value)
        elif number == 11:
            pair = dict(_fields(_bytes(value)))
            stats[_text(pair.get(1, b""))] = _text(pair.get(2, b""))
    return (device, line), Event(name, start_ps // 1000, (start_ps + duration_ps) // 1000, stats)


# ── the wire format ──────────────────────────────────────────────────────────────────────────────────


def _fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """The fields of one protocol-buffers message; raises ValueError where it is torn.

    https://protobuf.dev/programming-guides/encoding/
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > end:
            raise ValueError(f"a field of {size} bytes ends after the message")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise ValueError("a number ends after the message")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _int(value: Value) -> int:
    """A signed 64-bit number."""
    if not isinstance(value, int):
        return int.from_bytes(value, "little")
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else b""


def _text(value: Value) -> str:
    return _bytes(value).decode("utf-8", "replace")
