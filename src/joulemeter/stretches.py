"""Stretches of time: how long they are between edges, what lies between them, what two have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Stretches of time, in order, none touching: ``start_ns``, ``end_ns`` int64 (n,)."""

    start_ns: Ints
    end_ns: Ints

    def __len__(self) -> int:
        return len(self.start_ns)

    def seconds_between(self, edges_ns: Ints) -> Floats:
        """Seconds of the stretches between each two edges (len(edges) − 1,)."""
        if not len(self):
            return np.zeros(max(len(edges_ns) - 1, 0))
        return np.asarray(np.diff(self.gathered_ns(edges_ns)) / 1e9)

    def gathered_ns(self, at_ns: Ints) -> Ints:
        """Nanoseconds of the stretches before each time (n,)."""
        if not len(self):
            return np.zeros(len(at_ns), np.int64)
        before = np.searchsorted(self.start_ns, at_ns, side="right") - 1
        done = np.concatenate([[0], np.cumsum(self.end_ns - self.start_ns)])
        here = np.where(before >= 0, np.minimum(at_ns, self.end_ns[before]) - self.start_ns[before], 0)
        return np.where(before >= 0, done[np.maximum(before, 0)] + here, 0)

    def complement(self, start_ns: int, end_ns: int) -> Stretches:
        """What lies between the stretches, from ``start_ns`` to ``end_ns``."""
        start = np.maximum(np.append(start_ns, self.end_ns), start_ns)
        end = np.minimum(np.append(self.start_ns, end_ns), end_ns)
        some = end > start
        return Stretches(start[some], end[some])

    def where(self, chosen: Any) -> Stretches:
        """Some of the stretches."""
        return replace(self, start_ns=self.start_ns[chosen], end_ns=self.end_ns[chosen])

    def joined(self, other: Stretches) -> Stretches:
        """What lies in either."""
        start = np.append(self.start_ns, other.start_ns)
        end = np.append(self.end_ns, other.end_ns)
        order = np.argsort(start, kind="stable")
        start, end = start[order], np.maximum.accumulate(end[order]) if len(end) else end
        fresh = np.append(True, start[1:] > end[:-1]) if len(start) else np.empty(0, bool)
        return Stretches(start[fresh], end[np.append(fresh[1:], True)] if len(start) else end)

    def within(self, other: Stretches) -> Stretches:
        """What lies in both; ``other`` holds some."""
        if not len(self):
            return self
        first, last = int(other.start_ns[0]), int(other.end_ns[-1])
        if len(other) == 1 and first <= self.start_ns[0] and self.end_ns[-1] <= last:
            return self
        outside = other.complement(min(int(self.start_ns[0]), first), max(int(self.end_ns[-1]), last))
        return self.complement(first, last).joined(outside).complement(first, last)
