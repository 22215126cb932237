"""`joulemeter join`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from joulemeter.cli._places import PLACE
from joulemeter.storage import Where

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("meters", type=PATH)
@click.argument("runs", type=PLACE)
@click.option("-o", "--output", type=PLACE, required=True, help="Folder of the data set to write.")
@click.option("--zone", default="", help="Zone of times that say none: UTC, America/Denver.")
@click.option("--run-zone", default="", help="The same for RUNS, where it differs.")
@click.option(
    "--integration", type=click.Choice(["hold", "linear"]), default="hold", show_default=True,
    help="Between samples: the first one's power, or straight to the second.",
)  # fmt: skip
@click.option("--gap", help="A longer stretch without a sample was not seen. Default: three periods.")
@click.option("--time", default="time", show_default=True, help="Column of the meter's times.")
@click.option("--power", default="power_w", show_default=True, help="Column of watts.")
@click.option("--host", default="host", show_default=True, help="Column of hosts, in METERS and in RUNS.")
@click.option("--run-host", default="", help="The same in RUNS, where it differs. A data set's is host.")
@click.option("--start", default="start", show_default=True, help="Column of the runs' starts.")
@click.option("--end", default="end", show_default=True, help="Column of the runs' ends.")
@click.option("--duration", default="", help="Column of the runs' seconds, in place of --end.")
@click.option(
    "--unit", type=click.Choice(["s", "ms", "us", "ns"]), default="s", show_default=True,
    help="Unit of times that are numbers, since 1970.",
)  # fmt: skip
@click.option(
    "--run-unit", default="", type=click.Choice(["", "s", "ms", "us", "ns"]), metavar="[s|ms|us|ns]",
    help="The same of RUNS, where it differs. A data set's is s.",
)  # fmt: skip
@click.option("--separator", default=",", show_default=True, help="Between the hosts of one run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    meters: Path,
    runs: Where,
    output: Where,
    integration: Any,
    gap: str | None,
    as_json: bool,
    **columns: str,
) -> None:
    """Joins the energy of external meters in METERS to RUNS, by host and time.

    METERS is a CSV or a folder of them (time, watts, host; without a host column the file's name is the
    host). RUNS is a CSV, a Parquet file or a data set with host, start and end. A run on several hosts gives
    a record for each. What was not seen is counted, and its energy is unknown where that is more than a tenth
    of a run.

    \b
    Example:
      joulemeter join watts/ runs.csv -o joined --zone America/Denver
    """
    import json
    from dataclasses import asdict

    from joulemeter import join, units

    gap_s = units.parse_seconds(gap) if gap else None
    tally = join.join(meters, runs, output, join.Columns(**columns), method=integration, gap_s=gap_s)
    if as_json:
        click.echo(json.dumps({"dataset": str(output), **asdict(tally)}))
        return
    click.echo(f"{output}: {tally.joined} of {tally.lines} records (run × host) have an energy")
    told = {
        "hosts without a log": tally.no_log,
        "less than 90 % seen: energy unknown": tally.too_little_seen,
        "partly unseen, filled at the mean of the rest": tally.gaps,
        "shorter than the sampling: see their intervals": tally.short,
        "readings of zero watts or less left out": tally.zero_readings,
        "readings that are no number left out": tally.unread_readings,
        "times that cannot be read: left out": tally.unread_times,
    }
    for what, count in told.items():
        if count:
            click.echo(f"note: {count} × {what}", err=True)
