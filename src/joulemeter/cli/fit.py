"""`joulemeter fit`: a data set into a predictor."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="fit")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The predictor's file.")
@click.option("--device", help="Learn only from this device's records.")
@click.option("--force", is_flag=True, help="Overwrite the predictor's file.")
@click.option("--json", "as_json", is_flag=True, help="The validation card as one JSON object on stdout.")
def command(*, dataset: Path, output: Path, device: str | None, force: bool, as_json: bool) -> None:
    """Learns the energy (and time) of kernels and networks from DATASET.

    For each family of kernels the best of several models is chosen by cross-validation in groups of one
    configuration; the validation card says how far to trust it. The file is arrays and JSON: loading it
    never runs code.

    \b
    Example:
      joulemeter fit my-machine/ -o my-machine.joules
    """
    from joulemeter import dataset_import, predictor_file, pricing
    from joulemeter.cli import _prediction
    from joulemeter.errors import UsageError
    from joulemeter.models import learning

    if output.exists() and not force:
        raise UsageError(f"{output}: is there already", "--force, to overwrite it")
    read = dataset_import.load(dataset, device)
    records = pricing.undisturbed(read.records)
    with _prediction.families_shown() as progress:
        predictor = learning.fit(records, progress)
    predictor = pricing.with_networks(predictor, dataset, records)
    predictor_file.save(predictor, output)
    if as_json:
        card = {name: accuracy.to_json() for name, accuracy in predictor.card.items()}
        click.echo(json.dumps({"predictor": str(output), "origin": predictor.origin, "card": card}, indent=2))
        return
    for each in read.left_out:
        click.echo(f"note: left out: {each}", err=True)
    _prediction.show_accuracy(predictor.card)
    click.echo(f"\n{output}: learnt from {len(read)} records ({predictor.origin}), cross-validated above")
