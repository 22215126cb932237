"""Views of a run: one file, one format, found by scanning this folder.

A format's file offers ``EXTENSION`` (the usual ending of its files), ``BINARY`` (whether ``render`` gives
bytes) and ``render(run, ledger)``. Its name is the file's.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from joulemeter.errors import UsageError
from joulemeter.ledger import Ledger
from joulemeter.run import Run


class Format(Protocol):
    """What a file of this folder offers."""

    EXTENSION: str
    BINARY: bool

    def render(self, run: Run, ledger: Ledger) -> str | bytes:
        """The whole report."""


def names() -> list[str]:
    """The formats that a run can be written in."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "render"))


def format_named(name: str) -> Format:
    """The format of this name; raises UsageError with the names there are."""
    if name not in {module.name for module in pkgutil.iter_modules(__path__)}:
        raise UsageError(f"'{name}' is not a report format", f"one of {', '.join(names())}")
    return cast(Format, importlib.import_module(f"{__name__}.{name}"))
