"""`joulemeter compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.compare import Comparison
    from joulemeter.comparison import Difference

ABOVE = 10
"""Exit status where B surely takes more than --fail-above allows."""


@click.command()
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option(
    "--fail-above", metavar="PERCENT", help=f"Exit with {ABOVE} if B surely takes more than this over A."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="A table, one JSON object, or a table for a pull request.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--most", default=20, show_default=True, help="How many sites to show.")
def command(run_a: Path, run_b: Path, fail_above: str | None, form: str, as_json: bool, most: int) -> None:
    """Compare two runs, or two series of `run --repeat`: B against A, in all and by site.

    A verdict is given only where the 95 % interval of the difference leaves out zero.

    \b
      joulemeter compare main/ branch/
      joulemeter compare main/ branch/ --fail-above 3% --format markdown
    """
    from joulemeter import units
    from joulemeter.compare import compare

    limit = None if fail_above is None else units.parse_fraction(fail_above)
    found = compare(run_a, run_b)
    if as_json or form == "json":
        click.echo(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _show(found, most, form == "markdown")
    if limit is not None:
        _judge(found, limit)


def _judge(found: Comparison, limit: float) -> None:
    if found.total.is_above(limit):
        click.echo(f"joulemeter: B takes more than {100 * limit:g} % over A", err=True)
        raise SystemExit(ABOVE)
    if found.total.may_be_above(limit):
        click.echo(
            f"joulemeter: cannot tell whether B takes more than {100 * limit:g} % over A. "
            "Try: joulemeter run --repeat 10 for each",
            err=True,
        )


def _show(found: Comparison, most: int, markdown: bool) -> None:
    header = ("", "A", "B", "difference", "verdict")
    rows = [("**total**" if markdown else "total", *_figures(found.total))]
    for site in found.sites[:most]:
        name = f"{site.name} {site.place}".strip()
        figures = _figures(site.difference) if site.resolved else ("", "", "", "below resolution")
        rows.append((f"`{name}`" if markdown else name, *figures))
    click.echo(_markdown(header, rows) if markdown else _text(header, rows))
    for which, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            click.echo(f"Only in {which}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
    click.echo(f"Origin of both: {', '.join(found.origins[0])}. Intervals are 95 %.")
    for note in found.notes:
        click.echo(f"note: {note}")


def _figures(each: Difference) -> tuple[str, str, str, str]:
    from joulemeter.units import joules

    relative = each.relative
    change = "" if relative.value != relative.value else f"{100 * relative.value:+.1f} % "
    bounds = f"({100 * relative.low:+.1f} to {100 * relative.high:+.1f} %)" if change else ""
    return joules(each.a.energy_j), joules(each.b.energy_j), change + bounds, each.verdict


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|---:|---:|---:|---|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _text(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        first, *rest = row
        cells = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
