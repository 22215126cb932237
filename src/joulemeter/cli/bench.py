"""`joulemeter bench`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The data set's folder.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")
@click.option("--budget", default="30m", show_default=True, help="How long to take.")
@click.option("--families", default="", metavar="NAME,…", help="Kernel families. Default: all.")
@click.option("--models", metavar="NAME,…", help="Networks, or 'none'. Default: all.")
@click.option("--applications", is_flag=True, help="Six applications too, from input to answer, on the CPU.")
@click.option(
    "--backends",
    default="torch",
    show_default=True,
    metavar="NAME,…",
    help="torch, torch-compile, onnxruntime.",
)
@click.option("--seed", default=0, show_default=True, help="Of the shapes drawn.")
@click.option("--resume", is_flag=True, help="Go on with a data set that is there.")
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, wanted: _list(context, wanted),
    help="Print families, networks and backends, and stop.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    output: Path,
    device: str,
    budget: str,
    families: str,
    models: str | None,
    applications: bool,
    backends: str,
    seed: int,
    resume: bool,
    source: str | None,
    as_json: bool,
) -> None:
    """Builds this device's energy data set: kernels, then whole networks, then applications if asked for.

    Shapes are drawn around those of real networks' layers. Each record has its work, time, power, energy and
    intervals; where no meter answers, energies are estimates and say so.

    \b
    Example:
      joulemeter bench --budget 30m -o my-machine/
      joulemeter fit my-machine/ -o my-machine.joules
    """
    from joulemeter import bench, sources, units
    from joulemeter.isolate import machine

    chosen = None if models == "none" else _names(models or "")
    plan = bench.Plan(
        units.parse_seconds(budget), _names(families), chosen, _names(backends), device, seed,
        applications=applications,
    )  # fmt: skip
    specs = sources.split_specs(source) if source else None
    with machine(specs, bench.period_s(specs)) as stage:
        try:
            tally = bench.bench(output, plan, stage, resume, _shown if sys.stderr.isatty() else None)
        except KeyboardInterrupt:
            click.echo(f"\nstopped; {output} holds what was timed so far: --resume goes on", err=True)
            raise
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        click.echo(json.dumps({"dataset": str(output), **tally.to_json()}))
        return
    for why, count in tally.left_out.most_common():
        click.echo(f"note: left out {count} × {why}", err=True)
    more = f", and {tally.applications} records of applications" if applications else ""
    click.echo(f"{output}: {tally.kernels} kernels and {tally.models} networks added{more} ({tally.origin})")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _shown(what: str, fraction: float) -> None:
    click.echo(f"\r\x1b[K{what}, {min(fraction, 1):.0%} of the budget", nl=False, err=True)


def _list(context: click.Context, wanted: bool) -> None:
    if not wanted:
        return
    from joulemeter import kernels, networks, rig

    click.echo(f"families: {', '.join(sorted(kernels.families()))}")
    click.echo(f"networks: {', '.join(sorted(networks.kinds()))}")
    click.echo(f"backends: {', '.join(rig.backends())}")
    context.exit()
