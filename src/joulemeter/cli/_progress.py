"""Progress on stderr, only where somebody watches: a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable


def fraction_bar(label: str) -> Callable[[float], None] | None:
    """A bar fed with fractions from 0 to 1, shown after half a second; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(label), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    task = bar.add_task(label, total=1.0)
    began = monotonic()

    def advance(fraction: float) -> None:
        if not bar.live.is_started and monotonic() - began > 0.5:
            bar.start()
        bar.update(task, completed=fraction)
        if fraction >= 1.0:
            bar.stop()

    return advance
