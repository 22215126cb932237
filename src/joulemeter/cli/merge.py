"""`joulemeter merge`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The run folder to make.",
)
@click.option("--force", is_flag=True, help="Replace OUT if it is a run folder.")
def command(runs: tuple[Path, ...], output: Path, force: bool) -> None:
    """Merge runs that worked together, ranks or machines, into one run.

    Runs of one host saw the same meters: each rail counts once. Rails of different hosts add. A folder of
    ranks (RUN/rank-0, …) is one RUN here; `joulemeter report` reads such a folder without merging it first.

    \b
      joulemeter merge node-a/RUN node-b/RUN -o RUN
      joulemeter report RUN
    """
    from joulemeter import ranks, run

    parts = [
        each for path in runs for each in (ranks.parts(path) if ranks.is_ranks(path) else [run.load(path)])
    ]
    made = ranks.merged(parts, output)
    run.keep(made, force=force)
    hosts = ", ".join(made.header["hosts"])
    rails = ", ".join(f"{rail.name} ({rail.origin})" for rail in made.rails) or "no rails"
    click.echo(f"{output}: {len(parts)} runs of {hosts}; {rails}", err=True)
