"""`joulemeter run`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from joulemeter.reading import rank_of

if TYPE_CHECKING:
    from joulemeter.supervisor import Outcome


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--api",
    metavar="NAME,…",
    help="Libraries whose calls are metered, by dotted prefix. "
    "Default: every deep-learning library that the script imports.",
)
@click.option(
    "--level",
    default="api",
    metavar="NAME,…",
    show_default=True,
    help="run, api, module, operator, kernel: how fine, several together.",
)
@click.option(
    "--rewrite",
    metavar="NAME,…",
    help="Packages whose own calls are metered too. Default: the script and the modules beside it.",
)
@click.option(
    "--source",
    metavar="NAME,…",
    help="Meters to read (see `joulemeter doctor`). Default: all that answer, else the estimate.",
)
@click.option(
    "--period",
    metavar="TIME",
    help="Read every source this often, e.g. 10ms. Default: its own refresh period.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="The run folder. Default: joulemeter-run-1, -2, …",
)
@click.option("--force", is_flag=True, help="Replace the run folder if it exists.")
@click.option(
    "--idle",
    default="0.25s",
    show_default=True,
    metavar="TIME",
    help="Watch the idle machine this long before and after.",
)
@click.option("-m", "module", is_flag=True, help="The program is a module, as in python -m.")
@click.option("-c", "code", is_flag=True, help="The program is a string of code, as in python -c.")
@click.option(
    "--repeat", type=click.IntRange(min=1), metavar="N", help="Run N times: mean, interval, outliers."
)
@click.option("--cooldown", default="0s", metavar="TIME", help="With --repeat: rest this long between runs.")
@click.option("--randomize", is_flag=True, help="With --repeat: vary the rests, from half to one and a half.")
@click.option("--quiet", is_flag=True, help="Print no table.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="script.py [ARGS]…")
def command(
    api: str | None,
    level: str,
    rewrite: str | None,
    source: str | None,
    period: str | None,
    folder: Path | None,
    force: bool,
    idle: str,
    module: bool,
    code: bool,
    repeat: int | None,
    cooldown: str,
    randomize: bool,
    quiet: bool,
    program: tuple[str, ...],
) -> None:
    """Run a Python program unchanged, and see where its joules went.

    The program keeps its arguments, input, output, signals and exit status; the table goes to stderr.
    Of torchrun the workers are recorded too; started by torchrun, each rank has a folder RUN/rank-K.

    \b
      joulemeter run train.py --epochs 3
      joulemeter run --api torch,numpy -o RUN -- train.py --epochs 3
      joulemeter run -m package.train
      joulemeter run -o RUN -m torch.distributed.run --nproc-per-node 2 train.py
      torchrun --nproc-per-node 2 -m joulemeter run -o RUN train.py
    """
    from joulemeter import ranks, sources, supervisor, units

    if program[0] in ("-m", "-c") and len(program) > 1:  # after a "--", as python takes them
        module, code, program = program[0] == "-m", program[0] == "-c", program[1:]
    _must_exist(program[0], module or code)
    folder, one_of_several = ranks.place(folder, force), rank_of(os.environ) is not None
    what = ["-m" if module else "-c", *program] if module or code else list(program)
    supervise = functools.partial(
        supervisor.supervise,
        what,
        launcher=_launcher(program[0], module or code, api, level, rewrite),
        specs=sources.split_specs(source) if source is not None else sources.default_specs(),
        period_ns=None if period is None else round(units.parse_seconds(period) * 1e9),
        idle_s=units.parse_seconds(idle),
    )
    if repeat is not None:
        _repeat(supervise, what, folder, repeat, units.parse_seconds(cooldown), randomize, force, quiet)
        return
    outcome = supervise(folder=folder, force=force)
    if one_of_several:
        again = f"joulemeter report {outcome.folder.parent}"
        click.echo(f"Run folder: {outcome.folder}   (all ranks: {again})", err=True)
    elif not quiet:
        _show(outcome, api, level)
    supervisor.end_like(outcome.status)


def _launcher(program: str, elsewhere: bool, api: str | None, level: str, rewrite: str | None) -> list[str]:
    """The launcher's options, refused here, before anything runs, where they name what is not there."""
    from joulemeter import launch

    launch.check_levels(tuple(level.split(",")))
    launch.check_apis(
        tuple((api or "").split(",")) if api else (), "" if elsewhere else str(Path(program).parent)
    )
    given = {"--api": api, "--level": level, "--rewrite": rewrite}
    return [word for option, value in given.items() if value is not None for word in (option, value)]


def _repeat(
    supervise: Callable[..., Outcome],
    what: list[str],
    folder: Path | None,
    times: int,
    cooldown_s: float,
    randomize: bool,
    force: bool,
    quiet: bool,
) -> None:
    from joulemeter import series, supervisor
    from joulemeter.cli._progress import fraction_bar
    from joulemeter.report.repeated import text

    found, status = series.record(
        lambda place: supervise(folder=place),
        folder or series.numbered(),
        times,
        argv=what,
        cooldown_s=cooldown_s,
        randomize=randomize,
        force=force,
        progress=fraction_bar("repeating"),
    )
    if not quiet:
        click.echo(text(found), err=True, nl=False)
    supervisor.end_like(status)


def _must_exist(script: str, elsewhere: bool) -> None:
    from joulemeter.errors import UsageError

    if not elsewhere and script.startswith("-") and not Path(script).exists():
        raise UsageError(f"there is no option '{script.partition('=')[0]}'", _nearest_option(script))
    if not elsewhere and not Path(script).exists():
        raise UsageError(f"{script}: there is no such script", "its path, or -m for a module")


def _nearest_option(word: str) -> str:
    """The option of `run` most like a misspelt one."""
    import difflib

    known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return near[0] if near else "joulemeter run --help"


def _show(outcome: Outcome, api: str | None, level: str) -> None:
    from rich.console import Console

    from joulemeter.cli._progress import fraction_bar
    from joulemeter.report.text import render, show

    if outcome.run is None:
        click.echo(f"joulemeter: {outcome.fault}", err=True)
        return
    ledger = outcome.run.ledger(fraction_bar("attributing"))
    if sys.stderr.isatty():
        show(outcome.run, ledger, Console(stderr=True))
    else:
        click.echo(render(outcome.run, ledger), err=True, nl=False)
    if all(site.kind == "run" for site in outcome.run.sites) and not outcome.status:
        click.echo(f"No call was metered: {_unmetered(api, level)}", err=True)
    click.echo(f"Run folder: {outcome.folder}   (again: joulemeter report {outcome.folder})", err=True)


def _unmetered(api: str | None, level: str) -> str:
    """Why a program that ended well has no site but itself, and what would show some."""
    if level == "run":
        return "--level run records the whole program only; --level api its calls."
    if api:
        return f"the program made none to {api.replace(',', ', ')}."
    return "the program made none to a deep-learning library; --api names others, e.g. --api numpy,pandas."
