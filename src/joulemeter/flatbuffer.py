"""Flatbuffers read in place, without a schema (flatbuffers.dev/internals): tables of fields by number.

Whatever reaches beyond the file, or would read before it, raises struct.error.
"""

from __future__ import annotations

import struct


def root(data: bytes) -> Table:
    """The outermost table of the flatbuffer ``data``."""
    return Table(data, struct.unpack_from("<I", data, 0)[0])


class Table:
    """A flatbuffer table: fields by number, absent ones by their default."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.vtable = at - struct.unpack_from("<i", data, at)[0]
        if self.vtable < 0:
            raise struct.error("a table's layout lies before the file")
        self.size = struct.unpack_from("<H", data, self.vtable)[0]

    def offset(self, number: int) -> int:
        """Where field ``number`` lies; 0 where it is absent."""
        place = 4 + 2 * number
        if place + 2 > self.size:
            return 0
        relative = struct.unpack_from("<H", self.data, self.vtable + place)[0]
        return self.at + int(relative) if relative else 0

    def number(self, number: int, code: str = "<i", otherwise: int = 0) -> int:
        """A scalar field."""
        at = self.offset(number)
        return int(struct.unpack_from(code, self.data, at)[0]) if at else otherwise

    def vector(self, number: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are; (0, 0) where the field is absent."""
        at = self.offset(number)
        if not at:
            return 0, 0
        start = at + int(struct.unpack_from("<I", self.data, at)[0])
        count = int(struct.unpack_from("<I", self.data, start)[0])
        if count > len(self.data):
            raise struct.error(f"a vector of {count} items")
        return start + 4, count

    def numbers(self, number: int, code: str = "i") -> tuple[int, ...]:
        """A vector of scalars."""
        start, count = self.vector(number)
        return struct.unpack_from(f"<{count}{code}", self.data, start) if count else ()

    def tables(self, number: int) -> list[Table]:
        """A vector of tables."""
        start, count = self.vector(number)
        places = [start + 4 * i for i in range(count)]
        return [Table(self.data, at + int(struct.unpack_from("<I", self.data, at)[0])) for at in places]

    def table(self, number: int) -> Table | None:
        """A table field; None where it is absent."""
        at = self.offset(number)
        return Table(self.data, at + int(struct.unpack_from("<I", self.data, at)[0])) if at else None

    def text(self, number: int) -> str:
        """A string field; what is no UTF-8 is replaced."""
        start, count = self.vector(number)
        return self.data[start : start + count].decode("utf-8", "replace")
