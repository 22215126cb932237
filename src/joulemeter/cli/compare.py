"""`joulemeter compare`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.compare import Comparison, SiteDifference
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
        click.echo(_as_markdown(found, most, limit) if form == "markdown" else _as_text(found, most))
    judgement = None if limit is None else _judgement(found, limit)
    if judgement is not None:
        click.echo(f"joulemeter: {judgement}", err=True)
    if limit is not None and found.total.is_above(limit):
        raise SystemExit(ABOVE)


def _judgement(found: Comparison, limit: float) -> str | None:
    """What --fail-above says; None where B surely keeps within it."""
    if found.total.is_above(limit):
        return f"B takes more than {100 * limit:g} % over A"
    if found.total.may_be_above(limit):
        return (
            f"cannot tell whether B takes more than {100 * limit:g} % over A. "
            "Try: joulemeter run --repeat 10 for each"
        )
    return None


def _as_text(found: Comparison, most: int) -> str:
    rows = [("total", *_figures(found.total))]
    rows += [(_name(site), *_site_figures(site)) for site in found.sites[:most]]
    return "\n".join([_text(("", *_HEADS), rows), *_remarks(found), *(f"note: {n}" for n in found.notes)])


def _as_markdown(found: Comparison, most: int, limit: float | None) -> str:
    """For a pull request or a job's summary: the verdict first, then the table, the doubts last."""
    verdict = {"more": "B takes more than A", "less": "B takes less than A"}.get(
        found.total.verdict, found.total.verdict
    )
    judgement = (
        None if limit is None else _judgement(found, limit) or f"B keeps within {100 * limit:g} % of A"
    )
    rows = [("**total**", *_figures(found.total))]
    rows += [(f"`{_name(site)}`", *_site_figures(site)) for site in found.sites[:most]]
    said = [
        f"### Energy, {' and '.join(found.origins[0])}: {verdict}",
        *([f"**{judgement}.**"] if judgement else []),
        _markdown(("site", *_HEADS), rows),
        "\n".join(_remarks(found)),
        "\n".join(f"- {note}" for note in found.notes),
    ]
    return "\n\n".join(part for part in said if part)


_HEADS = ("A", "B", "difference", "verdict")


def _name(site: SiteDifference) -> str:
    return f"{site.name} {site.place}".strip()


def _site_figures(site: SiteDifference) -> tuple[str, str, str, str]:
    return _figures(site.difference) if site.resolved else ("", "", "", "below resolution")


def _remarks(found: Comparison) -> list[str]:
    """What is in one of them only, the origin, and what it is worth."""
    said = []
    for which, names in (("A", found.only_a), ("B", found.only_b)):
        if names:
            said.append(f"Only in {which}: {', '.join(names[:8])}{' …' if len(names) > 8 else ''}")
    return [*said, f"Origin of both: {', '.join(found.origins[0])}. Intervals are 95 %."]


def _figures(each: Difference) -> tuple[str, str, str, str]:
    from joulemeter.units import joules

    relative = each.relative
    change = "" if relative.value != relative.value else f"{100 * relative.value:+.1f} % "
    low, high = 100 * relative.low, 100 * relative.high
    bounds = f"({low:+.1f} to {high:+.1f} %)" if math.isfinite(high) else f"({low:+.1f} % or more)"
    bounds = bounds if change else ""
    return joules(each.a.energy_j), joules(each.b.energy_j), change + bounds, each.verdict


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|---:|---:|---:|---|"]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells])


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
