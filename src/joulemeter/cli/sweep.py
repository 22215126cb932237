"""`joulemeter sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulemeter.cli._places import PLACE
from joulemeter.storage import Where

if TYPE_CHECKING:
    from joulemeter.plan import Plan
    from joulemeter.sweep import Cost, Tally


@click.command()
@click.argument("plan")
@click.option("-o", "--output", required=True, type=PLACE, help="The data set: a folder or a URL.")
@click.option("--dry-run", is_flag=True, help="Print the number of runs, their time and energy, and stop.")
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on with a data set of the same plan."
)
@click.option("--device", multiple=True, help="In place of the plan's devices; may be repeated.")
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option(
    "--tables", type=click.Path(path_type=Path), help="Where tables lie or are kept. Default: a cache."
)
@click.option("--offline", is_flag=True, help="Do not ask PMLB for tables that are not there.")
@click.option("--cluster", metavar="tcp://HOST:PORT", help="Run on the workers of this Dask scheduler.")
@click.option("--slurm", "scheduler", flag_value="slurm", help="Run on nodes of Slurm, each alone.")
@click.option("--pbs", "scheduler", flag_value="pbs", help="Run on nodes of PBS, each alone.")
@click.option("--nodes", default=1, show_default=True, type=click.IntRange(1), help="Nodes to ask for.")
@click.option("--walltime", default="04:00:00", show_default=True, help="How long to ask for them.")
@click.option("--queue", help="Partition or queue.")
@click.option("--account", help="Account that pays.")
@click.option("--cores", default=1, show_default=True, type=click.IntRange(1), help="Cores of a node.")
@click.option("--memory", default="8GB", show_default=True, help="Memory of a node.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    plan: str,
    output: Where,
    dry_run: bool,
    resume: bool,
    device: tuple[str, ...],
    source: str | None,
    tables: Path | None,
    offline: bool,
    cluster: str | None,
    scheduler: Any,
    as_json: bool,
    **nodes: Any,
) -> None:
    """Trains every configuration of PLAN, metered, into a data set.

    PLAN is a TOML file, or one that comes along: quick, butter-e, transformers. A sweep that was killed goes
    on where it was; a configuration that fails is recorded with its error. docs/sweeps.md says more.

    \b
    Example:
      joulemeter sweep quick --dry-run -o my-sweep
      joulemeter sweep quick -o my-sweep
      joulemeter qc my-sweep -o clean && joulemeter model fit clean -o model.json
    """
    from joulemeter import plan as plans
    from joulemeter import sources, sweep

    asked = plans.read(plan, device)
    specs = sources.split_specs(source) if source else None
    sweep.check_plan(output, asked)
    if dry_run:
        _foretell(asked, sweep.estimate(sweep.missing(output, asked), specs), as_json)
        return
    where, origins = _tables(asked, tables, offline)
    how = {"tables": where, "sources": specs, "resume": resume}
    _tell(_swept(output, asked, how, cluster, scheduler, nodes), output, origins, as_json)


def _tables(asked: Plan, folder: Path | None, offline: bool) -> tuple[Path, dict[str, str]]:
    """Where the plan's tables lie, fetched where need be, and where each came from."""
    from joulemeter import sweep, training_data

    where = folder or training_data.cache()
    origins = sweep.prepare(asked, where, network=not offline)
    stands = [name for name, origin in origins.items() if origin == training_data.STAND_IN]
    if stands:
        click.echo(f"note: stand-ins for {', '.join(stands)}: their losses mean nothing", err=True)
    return where, origins


def _swept(
    output: Where,
    asked: Plan,
    how: dict[str, Any],
    address: str | None,
    scheduler: Any,
    nodes: dict[str, Any],
) -> Tally:
    """What the sweep did: on the cluster at ``address``, on ``nodes`` of ``scheduler``, or here."""
    from joulemeter import sweep
    from joulemeter.cli import _progress

    try:
        with _progress.runs_bar(asked.name) as progress:
            if not (address or scheduler):
                return sweep.sweep(output, asked, progress=progress, **how)
            from joulemeter import cluster

            known = cluster.Nodes(count=nodes.pop("nodes"), **nodes)
            with cluster.connected(address) if address else cluster.submitted(scheduler, known) as client:
                return cluster.run_plan(client, output, asked, progress=progress, **how)
    except KeyboardInterrupt:
        click.echo(f"stopped: {output} keeps the runs that are done; the same command goes on", err=True)
        raise


def _tell(tally: Tally, output: Where, origins: dict[str, str], as_json: bool) -> None:
    """What the command says at its end."""
    import json

    if as_json:
        click.echo(json.dumps({"dataset": str(output), "tables": origins, **tally.to_json()}))
        return
    for error, count in tally.errors.most_common():
        click.echo(f"failed: {count} × {error}", err=True)
    click.echo(f"{output}: {tally.done} runs done, {tally.failed} failed, {tally.before} were there already")


def _foretell(asked: Plan, cost: Cost, as_json: bool) -> None:
    """What --dry-run says."""
    import json

    from joulemeter import units

    if as_json:
        click.echo(json.dumps({"plan": asked.name, "configurations": asked.distinct, **cost.to_json()}))
        return
    for why, count in asked.rejected.items():
        click.echo(f"rejected: {count} × {why}")
    click.echo(f"{asked.name}: {_count(asked.distinct, 'configuration')}, {_count(cost.runs, 'run')} to do")
    time, energy = units.seconds(cost.time_s), units.joules(cost.energy_j)
    click.echo(f"about {time} and {energy} on this machine (rough: within a factor of three)")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
