"""`joulemeter evaluate`: fit on one data set, test on another."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="evaluate")
@click.option(
    "--fit", "train", required=True, type=click.Path(path_type=Path), help="The data set to learn from."
)
@click.option("--test", required=True, type=click.Path(path_type=Path), help="The data set to be foreseen.")
@click.option("--device", help="Learn only from this device's records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; all figures fractions.")
def command(*, train: Path, test: Path, device: str | None, as_json: bool) -> None:
    """How well a predictor fitted on one data set foresees another.

    Both may be Joulemeter data sets or published layouts: DeepEn2023 kernels (CSV or JSON), an IrEne
    folder.

    \b
    Example:
      joulemeter evaluate --fit kernels_cpu.csv --test kernels_cpu_kept_back.csv --json
    """
    from joulemeter import dataset_import, evaluate
    from joulemeter.cli import _prediction

    learnt, tested = dataset_import.load(train, device), dataset_import.load(test)
    with _prediction.families_shown() as progress:
        found = evaluate.evaluate(learnt, tested, progress)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, allow_nan=False))
        return
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    _prediction.show_accuracy({**found.families, "overall": found.overall})
