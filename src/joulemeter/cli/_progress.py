"""Progress on stderr, only where somebody watches: a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Runs = Callable[[int, int, float, float], None]
"""Told the runs that are done, of how many, and their estimated seconds, of how many."""


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
        """Moves the bar, which shows itself after half a second."""
        if not bar.live.is_started and monotonic() - began > 0.5:
            bar.start()
        bar.update(task, completed=fraction)
        if fraction >= 1.0:
            bar.stop()

    return advance


@contextmanager
def runs_bar(label: str) -> Iterator[Runs | None]:
    """A bar of runs with the time that is left, gone when the block ends; None where stderr is no terminal.

    It is drawn once a second: it runs beside what is measured.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from joulemeter import units

    bar = Progress(
        TextColumn(label), BarColumn(), TextColumn("{task.fields[said]}"),
        console=Console(stderr=True), transient=True, refresh_per_second=1,
    )  # fmt: skip
    task = bar.add_task(label, total=1.0, said="")
    began = monotonic()

    def advance(runs: int, of: int, done_s: float, whole_s: float) -> None:
        """Moves the bar, with the runs so far and the time that is left."""
        spent_s = monotonic() - began
        left_s = (whole_s - done_s) * (spent_s / done_s if runs else 1.0)
        how = "about" if runs else "roughly"
        said = f"{runs} of {of} runs, {how} {units.seconds(round(left_s))} left"
        bar.update(task, completed=done_s / whole_s, said=said)

    with bar:
        yield advance
