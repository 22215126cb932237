"""`joulemeter instrument`: the calls of a source, and the source with its gates written out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Shows which calls of a script are metered, or writes it instrumented.")
@click.argument("script", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the instrumented source here.")
@click.option("--json", "as_json", is_flag=True, help="Print every call expression as JSON.")
@click.option("--diff", "as_diff", is_flag=True, help="Print the changes that instrumenting makes.")
@click.option("--force", is_flag=True, help="Write over an output that exists.")
def command(script: Path, output: Path | None, as_json: bool, as_diff: bool, force: bool) -> None:
    """Shows which calls of SCRIPT are metered, or writes SCRIPT instrumented.

    `joulemeter run` instruments as it goes and needs none of this. Lines count from 1, columns from 0. Of a
    notebook the calls of its code cells are shown, with their cells' numbers.

    \b
    Examples:
      joulemeter instrument train.py
      joulemeter instrument train.py --json
      joulemeter instrument train.py -o metered.py
    """
    from joulemeter import instrument

    source = instrument.read(script, lambda line: click.echo(line, err=True))
    if output is not None:
        instrument.write(source, output, force)
        click.echo(f"wrote {output}", err=True)
    if as_json:
        click.echo(instrument.as_json(source))
    if as_diff:
        click.echo(instrument.as_diff(source), nl=False)
    if not (output or as_json or as_diff):
        click.echo(instrument.as_table(source))
