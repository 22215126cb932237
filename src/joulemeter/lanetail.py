"""The file of a lane that is still being written: which site was innermost at a moment just past."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAVE = -1


class LaneTail:
    """Follows one lane's pairs (t_ns, code) from where it last looked; moments asked never go back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._open: list[int] = []
        self._inner = -1
        """The innermost wanted site after the last pair read."""

    def innermost_at(self, t_ns: NDArray[np.int64], wanted: Container[int]) -> NDArray[np.int64]:
        """The innermost open site among ``wanted`` at each of ``t_ns``, −1 for none; both int64 (n,)."""
        before = self._inner
        pairs = self._fresh()
        inner = np.array([self._step(code, wanted) for code in pairs[:, 1].tolist()], np.int64)
        after = np.concatenate([[before], inner])
        return after[np.searchsorted(pairs[:, 0], t_ns, side="right")]

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
