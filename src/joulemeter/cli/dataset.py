"""`joulemeter dataset`: looks at, checks, joins and describes energy data sets."""

from __future__ import annotations

import json
from pathlib import Path

import click

from joulemeter.cli import Suggesting
from joulemeter.cli._places import PLACE
from joulemeter.storage import Where


@click.group(cls=Suggesting, name="dataset")
def command() -> None:
    """Energy data sets: Parquet folders, or published layouts to be read.

    \b
    Examples:
      joulemeter dataset check my-machine/
      joulemeter dataset import kernels_cpu.csv -o phone/
    """


@command.command(name="check")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The findings as one JSON object on stdout.")
@click.option("--strict", is_flag=True, help="End with status 5 where anything was found.")
@click.option("--no-fit", is_flag=True, help="Leave out the gate that fits a predictor.")
@click.option(
    "--limit", "limit_w", type=click.FloatRange(min=0, min_open=True), metavar="WATTS",
    help="The most that the device may draw (its TDP or power limit); 20,000 W where not told.",
)  # fmt: skip
def check(*, dataset: Path, as_json: bool, strict: bool, no_fit: bool, limit_w: float | None) -> None:
    """Gates: units, stamps, power, repeats, duplicates, energy against work, power × time.

    \b
    Examples:
      joulemeter dataset check kernels_cpu.csv
      joulemeter dataset check my-machine/ --limit 65 --strict
    """
    from joulemeter import dataset_check, dataset_import
    from joulemeter.errors import DatasetError

    read = dataset_import.load(dataset)
    findings = dataset_check.check(read.records, not no_fit, limit_w or dataset_check.MAX_W)
    if as_json:
        found = {
            "records": len(read),
            "left_out": list(read.left_out),
            "findings": [f.to_json() for f in findings],
        }
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{read.name}: {len(read)} records, {len(findings)} finding(s)")
        for each in read.left_out:
            click.echo(f"  on reading    {each}")
        for finding in findings:
            click.echo(f"  {finding.gate:<13} {finding.fact}")
    if strict and (findings or read.left_out):
        raise DatasetError(f"{dataset}: {len(findings)} finding(s)", "look at them above")


@command.command(name="import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A new data set folder.")
def import_(*, source: Path, output: Path) -> None:
    """Reads a published layout into a new data set, and counts what it had to leave out.

    \b
    Example:
      joulemeter dataset import kernels_cpu.csv -o phone/
    """
    from joulemeter import dataset, dataset_import

    read = dataset_import.load(source)
    dataset.write(output, read)
    click.echo(f"{output}: {len(read)} records")
    for each in read.left_out:
        click.echo(f"note: {each}", err=True)


@command.command(name="card")
@click.argument("dataset_folder", metavar="DATASET", type=PLACE)
def card(*, dataset_folder: Where) -> None:
    """Writes the data set's card (Croissant JSON-LD) into it.

    \b
    Example:
      joulemeter dataset card my-machine/
    """
    from joulemeter import dataset

    click.echo(str(dataset.write_card(dataset_folder)))


@command.command(name="compact")
@click.argument("dataset_folder", metavar="DATASET", type=PLACE)
def compact(*, dataset_folder: Where) -> None:
    """Joins the parts of a data set into one file.

    \b
    Example:
      joulemeter dataset compact my-machine/
    """
    from joulemeter import dataset

    click.echo(str(dataset.compact(dataset_folder)))
