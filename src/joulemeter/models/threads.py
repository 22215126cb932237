"""How many threads the libraries of linear algebra may take while a model is learnt."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def one_thread() -> AbstractContextManager[Any]:
    """One thread for the libraries of linear algebra, where scikit-learn's ``threadpoolctl`` is here.

    The matrices are small, and two threads that wait for each other on a busy machine take ten times as long.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits
