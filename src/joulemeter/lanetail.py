"""The file of a lane that is still being written: which site was innermost at a moment just past."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAVE = -1
KEPT_NS = 5_000_000_000
"""How long a pair is remembered: several profilers ask about the same moments, one after the other."""


class LaneTail:
    """Follows one lane's pairs (t_ns, code) from where it last looked, and remembers those of KEPT_NS."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._open: list[int] = []
        self._inner = -1
        """The innermost wanted site after the last pair read."""
        self._before = -1
        """The same before the first pair remembered."""
        self._t_ns = np.empty(0, np.int64)
        self._after = np.empty(0, np.int64)

    def innermost_at(self, t_ns: NDArray[np.int64], wanted: Container[int]) -> NDArray[np.int64]:
        """The innermost open site among ``wanted`` at each of ``t_ns``, −1 for none; both int64 (n,).

        Moments more than KEPT_NS before the last question get the site that was open then.
        """
        pairs = self._fresh()
        if len(pairs):
            self._forget(int(pairs[0, 0]) - KEPT_NS)
            fresh = np.array([self._step(code, wanted) for code in pairs[:, 1].tolist()], np.int64)
            self._t_ns = np.concatenate([self._t_ns, pairs[:, 0]])
            self._after = np.concatenate([self._after, fresh])
        inner = np.concatenate([[self._before], self._after])
        return inner[np.searchsorted(self._t_ns, t_ns, side="right")]

    def _forget(self, until_ns: int) -> None:
        gone = int(np.searchsorted(self._t_ns, until_ns))
        if gone:
            self._before = int(self._after[gone - 1])
            self._t_ns, self._after = self._t_ns[gone:], self._after[gone:]

    def _fresh(self) -> NDArray[np.int64]:
        """The pairs written since the last look; the file's tail may be room not written yet."""
        if not self._path.exists():
            return np.empty((0, 2), np.int64)
        data = np.fromfile(self._path, dtype="<i8", offset=self._at)
        pairs = data[: len(data) // 2 * 2].reshape(-1, 2)
        pairs = pairs[: np.searchsorted(pairs[:, 0] == 0, True)]
        self._at += pairs.nbytes
        return pairs

    def _step(self, code: int, wanted: Container[int]) -> int:
        if code != LEAVE:
            self._open.append(code)
            if code in wanted:
                self._inner = code
        elif self._open and self._open.pop() == self._inner:
            self._inner = next((site for site in reversed(self._open) if site in wanted), -1)
        return self._inner
