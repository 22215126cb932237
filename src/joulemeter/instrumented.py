"""What sources written by ``joulemeter instrument -o`` import: gates that hand back what they are given.

Such a source does what its original does. ``joulemeter run`` meters it as it meters the original.
"""

from __future__ import annotations

from typing import Any


class Gate:
    """Hands back a callee, an iterable, an awaitable or a manager as it is."""

    __slots__ = ()

    def __call__(self, thing: Any) -> Any:
        """The thing itself."""
        return thing

    iter = aiter = steps = yield_from = manager = __call__

    def matmul(self, a: Any, b: Any) -> Any:
        """``a @ b``."""
        return a @ b

    def imatmul(self, a: Any, b: Any) -> Any:
        """``a`` after ``a @= b``."""
        a @= b
        return a


gate = Gate()
