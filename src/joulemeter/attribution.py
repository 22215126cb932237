"""Timelines and spans into a ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from joulemeter.ledger import Ledger
from joulemeter.span import Site, Spans
from joulemeter.timeline import Timeline

Progress = Callable[[float], None]
"""Called with the fraction done, from 0 to 1."""


def attribute(
    timelines: Sequence[Timeline], sites: Sequence[Site], spans: Spans, progress: Progress | None = None
) -> Ledger:
    """Where the joules of ``timelines`` went among ``sites``."""
    raise NotImplementedError
