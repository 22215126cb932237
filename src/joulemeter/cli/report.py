"""`joulemeter report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from joulemeter.cli import _carbon, _cards


def _formats(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The formats that a shell may complete ``begun`` to."""
    from joulemeter import report

    return [name for name in report.names() if name.startswith(begun)]


_KNOWN = "a run folder, a data set, a sweep, a predictor, an energy model, or scores (JSON)"


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    default="text",
    metavar="NAME",
    show_default=True,
    shell_complete=_formats,
    help="One of those that --formats lists.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here instead of to stdout.")
@click.option(
    "--formats",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, wanted: _list(context, wanted),
    help="List the formats.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="With --format html: compare with this run.",
)
@click.option(
    "--otlp",
    metavar="URL",
    help="Send its spans, with their energies, to this OpenTelemetry collector (OTLP over HTTP) instead.",
)
@_carbon.options
def command(
    path: Path, form: str, output: Path | None, against: Path | None, otlp: str | None, **carbon: Any
) -> None:
    """Show where the joules of a run went, from its run folder.

    A folder of ranks (RUN/rank-0, …) is shown as one run, each rail of a host counted once.
    Data sets, sweeps, predictors, energy models and scores (JSON) are known too, and shown as text, json,
    html and (but for scores) markdown.

    \b
      joulemeter report joulemeter-run-1
      joulemeter report joulemeter-run-1 --format json -o run.json
      joulemeter report joulemeter-run-2 --format html --against joulemeter-run-1 -o compared.html
    """
    from joulemeter import report, run
    from joulemeter.carbon import noted
    from joulemeter.cli._progress import fraction_bar
    from joulemeter.errors import RunFolderError

    if _is_series(path, form, output):
        return
    if otlp is not None:
        _send(path, otlp)
        return
    card = _cards.shown(path, form)
    if card is not None:
        _write(card, output)
        return
    view = report.format_named(form)
    if path.is_file():
        raise RunFolderError(f"{path}: holds nothing that has a report", _KNOWN)
    recorded = run.load(path)
    ledger = recorded.ledger(fraction_bar("attributing"))
    found = _carbon.footprint(ledger.total, **carbon)
    if found is not None:
        ledger = noted(ledger, found)
    if against is not None:
        other = run.load(against)
        _write(_cards.compared(form, (recorded, ledger), (other, other.ledger())), output)
        return
    if form == "text" and output is None and sys.stdout.isatty():
        from rich.console import Console

        from joulemeter.report.text import show

        show(recorded, ledger, Console())
        return
    _write(view.render(recorded, ledger), output)


def _send(path: Path, url: str) -> None:
    from joulemeter import otel, run

    sent, left_out = otel.send(run.load(path), url)
    short = f"; {left_out:,} were shorter than the meters' period, and left out" if left_out else ""
    click.echo(f"{sent:,} spans sent to {url}{short}", err=True)


def _is_series(path: Path, form: str, output: Path | None) -> bool:
    """Shows a series of runs, if that is what ``path`` holds."""
    import json

    from joulemeter import series
    from joulemeter.errors import UsageError
    from joulemeter.report.repeated import text

    if not series.is_series(path):
        return False
    if form not in ("text", "json"):
        raise UsageError(
            f"{path}: is a series of runs, and '{form}' shows one run",
            f"joulemeter report {path}/1 --format {form}",
        )
    found = series.load(path)
    _write(text(found) if form == "text" else json.dumps(found.to_json(), indent=1) + "\n", output)
    return True


def _write(text: str | bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(text if isinstance(text, bytes) else text.encode())
        return
    from joulemeter.errors import UsageError

    try:
        output.write_bytes(text if isinstance(text, bytes) else text.encode())
    except OSError as error:
        raise UsageError(
            f"{output}: cannot be written ({error.strerror})", "-o with a writable place"
        ) from None


def _list(context: click.Context, wanted: bool) -> None:
    if wanted:
        from joulemeter import report

        click.echo("\n".join(report.names()))
        context.exit()
