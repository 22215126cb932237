"""What the commands about prediction print alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.accuracy import Accuracy

_COLUMNS = ("n", "RMSPE", "MAPE", "median", "±5 %", "±10 %", "±15 %", "in 90 %", "width", "by energy")


@contextmanager
def families_shown() -> Iterator[Callable[[str], None]]:
    """A line on stderr that names the family being learnt, where stderr is a terminal."""
    terminal = sys.stderr.isatty()

    def show(name: str) -> None:
        """Writes over the name before it."""
        if terminal:
            click.echo(f"\r\x1b[Klearning {name}", nl=False, err=True)

    try:
        yield show
    finally:
        if terminal:
            click.echo("\r\x1b[K", nl=False, err=True)


def show_accuracy(accuracies: Mapping[str, Accuracy]) -> None:
    """A table of accuracies by name, on stdout."""
    wide = max([len(name) for name in accuracies] + [6])
    click.echo(f"{'family':<{wide}}" + "".join(f"{column:>10}" for column in _COLUMNS))
    for name, a in accuracies.items():
        figures = (a.rmspe, a.mape, a.median_ape, a.within_5, a.within_10, a.within_15, a.coverage_90)
        cells = [str(a.n), *map(percent, figures), percent(a.width_90), percent(a.energy_weighted_mape)]
        click.echo(f"{name:<{wide}}" + "".join(f"{cell:>10}" for cell in cells))


def percent(fraction: float) -> str:
    """``0.123`` as ``12.3 %``; unknown as a dash."""
    return "—" if math.isnan(fraction) else f"{100 * fraction:.1f} %"
