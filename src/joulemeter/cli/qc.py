"""`joulemeter qc`."""

from __future__ import annotations

import click

from joulemeter.cli._places import PLACE
from joulemeter.storage import Where


@click.command()
@click.argument("dataset", type=PLACE)
@click.option("-o", "--output", type=PLACE, help="A new data set of the runs that were kept.")
@click.option("--shortest", default="0s", show_default=True, help="Filter shorter runs.")
@click.option("--longest", help="Filter longer runs. Default: no limit.")
@click.option(
    "--outlier", default=6.0, show_default=True, type=click.FloatRange(min=1),
    help="Robust standard deviations from the group's median, in log space.",
)  # fmt: skip
@click.option("--group", metavar="NAME,…", help="Facts in which a group agrees. Default: all settings.")
@click.option("--idle", multiple=True, metavar="DEVICE=W", help="Idle watts of a device or host.")
@click.option("--reference", type=click.FloatRange(min=0), help="Standardise to this idle power (W).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    dataset: Where,
    output: Where | None,
    shortest: str,
    longest: str | None,
    outlier: float,
    group: str | None,
    idle: tuple[str, ...],
    reference: float | None,
    as_json: bool,
) -> None:
    """Says which runs of DATASET to keep, which not, and why.

    With -o writes the kept ones, with `idle_j`, `above_idle_j` and `standardized_j` beside the raw energy.
    DATASET itself is left as it is.

    \b
    Example:
      joulemeter qc my-sweep -o clean --shortest 1s
    """
    import json
    import math

    from joulemeter import dataset as datasets
    from joulemeter import qc, units

    rules = qc.Rules(
        shortest_s=units.parse_seconds(shortest),
        longest_s=units.parse_seconds(longest) if longest else math.inf,
        outlier=outlier,
        group=tuple(group.split(",")) if group else qc.GROUP,
        idle_w=dict(_watts(each) for each in idle),
        reference_w=reference,
    )
    rows = datasets.table(dataset)
    report = qc.check(rows, rules)
    if output is not None:
        datasets.write_table(output, datasets.name(dataset), report.kept)
    if as_json:
        click.echo(json.dumps({**report.to_json(), "rules": qc.rules_to_json(rules)}))
        return
    click.echo(f"{len(report.kept)} of {len(rows)} runs kept")
    for reason, count in report.reasons.most_common():
        click.echo(f"filtered: {count} × {reason}")
    for each in report.filtered[:10]:
        click.echo(f"  {each.name or each.device}: {each.reason}")
    if len(report.filtered) > 10:
        click.echo(f"  … and {len(report.filtered) - 10} more; --json names all")
    if report.no_idle:
        click.echo(f"note: idle power is not known for {report.no_idle} runs", err=True)


def _watts(text: str) -> tuple[str, float]:
    name, _, watts = text.partition("=")
    try:
        return name, float(watts)
    except ValueError:
        raise click.BadParameter(f"'{text}' is not DEVICE=WATTS") from None
