"""Protocol buffers as bytes: the wire format (protobuf.dev/programming-guides/encoding), for writing only.

A message is the concatenation of its fields, so a writer needs no schema, only field numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; negative numbers as their 64-bit two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """A field of any integer, bool or enum type but the zig-zag and fixed ones."""
    return varint(number << 3) + varint(value)


def double(number: int, value: float) -> bytes:
    """A field of type double."""
    return varint(number << 3 | 1) + struct.pack("<d", value)


def data(number: int, value: bytes) -> bytes:
    """A field of type bytes, or an embedded message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def text(number: int, value: str) -> bytes:
    """A field of type string."""
    return data(number, value.encode("utf-8", errors="replace"))


def packed(number: int, values: Iterable[int]) -> bytes:
    """A repeated field of integers in its packed form."""
    return data(number, b"".join(varint(value) for value in values))
