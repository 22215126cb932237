"""`joulemeter watch`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulemeter.cli import _carbon

_Carbon = dict[str, Any]
_GoOn = Callable[[float], bool]

if TYPE_CHECKING:
    from joulemeter.live import Watch


@click.command()
@click.argument("pid", type=int, required=False)
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Show the top sites of a run that is being recorded.",
)
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option("--period", default="1s", show_default=True, metavar="TIME", help="Look this often.")
@click.option("--for", "duration", metavar="TIME", help="End after this long. Default: at Ctrl-C.")
@_carbon.options
def command(
    pid: int | None, folder: Path | None, source: str | None, period: str, duration: str | None, **carbon: Any
) -> None:
    """Watch the energy of this machine live; with PID, until that process ends.

    The power is the machine's, not the process's alone. Where stdout is no terminal, a line a look.

    \b
      joulemeter watch --zone FR --price 0.25
      joulemeter watch 4711
    """
    from joulemeter import sources, units
    from joulemeter.errors import UsageError
    from joulemeter.live import Watch

    if pid is not None and not _alive(pid):
        raise UsageError(f"there is no process {pid}", "the number that `ps` or `pgrep` shows")
    limit_s = float("inf") if duration is None else units.parse_seconds(duration)
    step_s = units.parse_seconds(period)
    with Watch(sources.split_specs(source) if source else None, step_s) as watch:
        show = _terminal if sys.stdout.isatty() else _lines
        show(
            watch,
            folder,
            step_s,
            lambda elapsed_s: elapsed_s < limit_s and (pid is None or _alive(pid)),
            carbon,
        )


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _lines(watch: Watch, _: Path | None, step_s: float, go_on: _GoOn, carbon: dict[str, Any]) -> None:
    from joulemeter.report.live import ends
    from joulemeter.units import joules, watts

    began = time.monotonic()
    while go_on(time.monotonic() - began):
        time.sleep(step_s)
        watch.read()
        rails = (
            f"{s.rail.name} {watts(s.power_w)} {joules(s.energy_j)} ({ends(s.energy)}) {s.rail.origin}"
            for s in watch.states()
        )
        click.echo(f"{time.monotonic() - began:8.1f} s  " + "; ".join(rails))
    for note in _notes(watch, carbon):
        click.echo(note)


def _terminal(watch: Watch, folder: Path | None, step_s: float, go_on: _GoOn, carbon: dict[str, Any]) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    from joulemeter.live import Followed
    from joulemeter.report.live import Course, sites, view

    began, course = time.monotonic(), Course()
    following: contextlib.AbstractContextManager[Followed | None]
    following = contextlib.nullcontext() if folder is None else Followed(folder)
    with following as followed, Live(console=Console(), refresh_per_second=4, transient=False) as live:
        try:
            while go_on(time.monotonic() - began):
                time.sleep(step_s)
                states = watch.states()
                course.take(states)
                parts = [view(states, course, time.monotonic() - began, _notes(watch, carbon))]
                if followed is not None:
                    parts.append(sites(followed.latest, followed.fault))
                live.update(Group(*parts))
        except KeyboardInterrupt:
            return


def _notes(watch: Watch, carbon: _Carbon) -> list[str]:
    import math

    from joulemeter.ledger import Energy
    from joulemeter.reading import outermost

    states = watch.states()
    outer = outermost(tuple(state.rail for state in states))
    seen = [state.energy for state in states if state.rail in outer]
    ends = ((each.energy_j, each.low_j, each.high_j) for each in seen)
    columns = zip(*ends, strict=True) if seen else ((0.0,), (0.0,), (0.0,))
    found = _carbon.footprint(Energy(*(math.fsum(column) for column in columns)), **carbon)
    return [] if found is None else found.sentences()
