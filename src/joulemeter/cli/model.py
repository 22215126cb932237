"""`joulemeter model`: energy models of training, fitted to runs, tried on others, and asked for advice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from joulemeter.cli import Suggesting
from joulemeter.cli._places import PLACE
from joulemeter.storage import Where

if TYPE_CHECKING:
    from joulemeter.energy_advice import Advice
    from joulemeter.models.hierarchy.training import Training

PATH = click.Path(path_type=Path)
LEVELS = click.option(
    "--levels",
    multiple=True,
    metavar="DEVICE=L1:BYTES,…,DRAM",
    help="Memory levels of a device; default: the study's nodes for its layout, this host otherwise.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group(cls=Suggesting, name="model")
def command() -> None:
    """Models of training energy after the memory hierarchy: fit, show, predict, evaluate, advise, plot.

    \b
    Examples:
      joulemeter model fit sweep-data -o model.json
      joulemeter model evaluate --fit runs.csv --test others.csv --json
      joulemeter model advise -m model.json --dataset mnist --params 1000000 --depth 6

    DATASET is a folder that `joulemeter sweep` wrote, a Parquet file, or a CSV in the layout of the BUTTER-E
    runs (device, dataset, shape, size, depth, run_time_s, std_energy_J). docs/energy-model.md says more.
    """


@command.command()
@click.argument("dataset", type=PLACE)
@click.option("-o", "--output", type=PATH, required=True, help="Where to write the model (JSON).")
@click.option("--bootstrap", default=100, show_default=True, help="Resamplings for the intervals of costs.")
@click.option("--force", is_flag=True, help="Overwrite the model.")
@LEVELS
def fit(*, dataset: Where, output: Path, bootstrap: int, force: bool, levels: tuple[str, ...]) -> None:
    """Fit a model to the runs in DATASET, one for each device.

    \b
    Example:
      joulemeter model fit my-sweep -o model.json
    """
    from joulemeter import energy_model, energy_runs
    from joulemeter.errors import UsageError

    if output.exists() and not force:
        raise UsageError(f"will not overwrite {output}", "--force")
    table = energy_runs.read(dataset)
    fitted = energy_model.fit(table.runs, energy_runs.levels_of(table, levels), bootstrap=bootstrap)
    energy_model.save(fitted, output)
    for device, model in fitted.models.items():
        click.echo(
            f"{device}: {model.runs} trainings ({fitted.origin}); {model.choices.words}; "
            f"mean error {min(model.validated.values()):.1%} in validation"
        )
    _left_out(fitted.left_out)


@command.command()
@click.argument("model", type=PATH)
@JSON
def show(*, model: Path, as_json: bool) -> None:
    """Show what MODEL learned: each cost with its unit and 90 % interval, and its validated errors.

    \b
    Example:
      joulemeter model show model.json
    """
    import json

    from joulemeter import energy_model, units

    fitted = energy_model.load(model)
    found = {name: energy_model.describe(each) for name, each in fitted.models.items()}
    if as_json:
        click.echo(
            json.dumps({"origin": fitted.origin, "devices": found}, default=str).replace("NaN", "null")
        )
        return
    for name, each in found.items():
        click.echo(f"{name}: {each['runs']} trainings ({fitted.origin}); {each['made_of']}")
        for words, error in each["validated"].items():
            click.echo(f"  {error:6.1%}  mean error in validation: {words}")
        low, high = each["interval_90"]
        click.echo(f"  90 % of runs cost {low:.2f} to {high:.2f} times the prediction")
        for row in each["costs"]:
            value, low, high = (units.joules(row[key]) for key in ("cost", "low", "high"))
            click.echo(f"  {row['term']:26} {value:>9}  per {row['joules_per']:20} 90 %: {low} to {high}")


@command.command()
@click.option("--fit", "train", type=PLACE, required=True, help="Runs to fit to.")
@click.option("--test", type=PLACE, required=True, help="Runs to predict.")
@LEVELS
@JSON
def evaluate(*, train: Where, test: Where, levels: tuple[str, ...], as_json: bool) -> None:
    """Fit to some runs and say how far predictions of others lie, and how often their intervals hold.

    \b
    Example:
      joulemeter model evaluate --fit runs.csv --test others.csv --json
    """
    import json

    from joulemeter import energy_model, energy_runs

    table, others = energy_runs.read(train), energy_runs.read(test)
    fitted = energy_model.fit(table.runs, energy_runs.levels_of(table, levels), bootstrap=0)
    found = energy_model.evaluate(fitted, others.runs)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'device':10} {'runs':>7} {'mean error':>11} {'median':>8} {'within 90 %':>12}")
    for device, each in found["devices"].items():
        click.echo(
            f"{device:10} {each['n']:7} {each['mape']:11.1%} {each['median_ape']:8.1%} "
            f"{each['coverage_90']:12.1%}"
        )
    _left_out(found["left_out"])


def _asked(function: Any) -> Any:
    """The options that say which training is meant."""
    options = [
        click.option(
            "-m", "--model", "model_path", type=PATH, required=True, help="A model that `fit` wrote."
        ),
        click.option("--device", help="Which device; not needed where the model knows one."),
        click.option(
            "--dataset", default="", help="One of the 13 data sets of the study, or a name of yours."
        ),
        click.option("--params", type=click.IntRange(1), help="Trainable parameters."),
        click.option("--depth", type=click.IntRange(2), help="Layers, the output layer included."),
        click.option("--shape", default="rectangle", show_default=True, help="Shape of the network."),
        click.option("--rows", type=click.IntRange(1), help="Rows of a data set of yours."),
        click.option("--inputs", type=click.IntRange(1), help="Its encoded inputs."),
        click.option("--outputs", type=click.IntRange(1), help="Its encoded outputs."),
        click.option(
            "--epochs", default=3000, show_default=True, type=click.IntRange(1), help="Passes over the rows."
        ),
        click.option(
            "--batch-size", default=256, show_default=True, type=click.IntRange(1), help="Rows of a batch."
        ),
        click.option(
            "--network", type=PATH, help="A network's file (ONNX) in place of --params, --depth and --shape."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@command.command()
@_asked
@JSON
def predict(*, model_path: Path, device: str | None, as_json: bool, **asked: Any) -> None:
    """Predict what a training costs, with a 90 % interval.

    \b
    Example:
      joulemeter model predict -m model.json --dataset mnist --params 1000000 --depth 6
    """
    import json
    from dataclasses import asdict

    from joulemeter import energy_advice, energy_model, units

    fitted = energy_model.load(model_path)
    training = _training(asked)
    found = energy_advice.cost(fitted.of(device), training)
    if as_json:
        click.echo(json.dumps({"origin": "predicted", "learned_from": fitted.origin, **asdict(found)}))
        return
    low, value, high = (units.joules(each) for each in found.energy_j)
    click.echo(f"{value} ({low} to {high}, 90 %), predicted from {fitted.origin} runs")
    low, value, high = (units.joules(each) for each in found.datum_j)
    click.echo(f"{value} ({low} to {high}) for each trained row; widths {list(training.widths)}")


@command.command()
@_asked
@click.option("--runs", type=PLACE, help="Runs with losses, to compare networks of the same loss.")
@click.option("--most", default=5, show_default=True, type=click.IntRange(1), help="Alternatives to name.")
@JSON
def advise(
    *, model_path: Path, device: str | None, runs: Where | None, most: int, as_json: bool, **asked: Any
) -> None:
    """Say where a network's working sets sit, what it costs, and which network costs less.

    \b
    Example:
      joulemeter model advise -m model.json --dataset mnist --params 1000000 --depth 6
    """
    import json
    from dataclasses import asdict

    from joulemeter import energy_advice, energy_model, energy_runs

    fitted = energy_model.load(model_path)
    known = energy_runs.read(runs).runs if runs else None
    found = energy_advice.advise(
        fitted.of(device), _training(asked), origin=fitted.origin, runs=known, most=most
    )
    if as_json:
        click.echo(json.dumps(asdict(found)).replace("NaN", "null"))
        return
    for line in _lines(found):
        click.echo(line)


@command.command()
@click.argument("dataset", type=PLACE)
@click.option("-m", "--model", "model_path", type=PATH, help="A fitted model; default: fit to DATASET.")
@click.option("-o", "--output", type=PATH, required=True, help="Folder for the plots (PNG and SVG).")
@LEVELS
def plot(*, dataset: Where, model_path: Path | None, output: Path, levels: tuple[str, ...]) -> None:
    """Plot energy per datum with the cache edges, energy against loss, and the model's error.

    \b
    Example:
      joulemeter model plot my-sweep -m model.json -o plots/
    """
    from joulemeter import energy_model, energy_plots, energy_runs

    table = energy_runs.read(dataset)
    if model_path:
        fitted = energy_model.load(model_path)
    else:
        fitted = energy_model.fit(table.runs, energy_runs.levels_of(table, levels), bootstrap=0)
    for path in energy_plots.draw(table.runs, fitted, output):
        click.echo(str(path))
    _left_out(table.runs.left_out)


def _training(asked: dict[str, Any]) -> Training:
    from joulemeter import butter, energy_advice
    from joulemeter.errors import UsageError

    own = [asked[name] for name in ("rows", "inputs", "outputs")]
    how = {"epochs": asked["epochs"], "batch_size": asked["batch_size"]}
    if asked["network"]:
        known = butter.DATASETS.get(asked["dataset"])
        rows = asked["rows"] or (known.rows if known else None)
        if rows is None:
            raise UsageError("a network's file does not say how many rows it is trained on", "--rows")
        return energy_advice.of_file(asked["network"], rows=rows, dataset=asked["dataset"], **how)
    if asked["params"] is None or asked["depth"] is None or not asked["dataset"]:
        raise UsageError("no network is named", "--dataset, --params and --depth, or --network")
    facts = butter.Facts(*own) if all(own) else None
    return energy_advice.training_of(
        asked["dataset"],
        size=asked["params"],
        depth=asked["depth"],
        shape=asked["shape"],
        facts=facts,
        **how,
    )


def _lines(advice: Advice) -> list[str]:
    from joulemeter import units

    low, value, high = (units.joules(each) for each in advice.cost.energy_j)
    lines = [
        f"{advice.training.shape} of depth {advice.training.depth} with {advice.training.parameters} "
        f"parameters on {advice.device}, widths {_short(advice.training.widths)}",
        f"  training: {value} ({low} to {high}, 90 %), predicted from {advice.origin} runs",
        "  each trained row: {1} ({0} to {2})".format(*(units.joules(each) for each in advice.cost.datum_j)),
        "working sets, largest first:",
        *[
            f"  {each.name:22} {units.si(each.held_bytes, 'B'):>9}  in {each.level}"
            for each in advice.places[:8]
        ],
        "where the joules go (physics alone):",
        *[f"  {name:26} {units.joules(joules):>9}" for name, joules in list(advice.breakdown.items())[:8]],
        "same number of parameters for less:" if advice.same_size else "nothing of the same size costs less",
        *[_alternative(each) for each in advice.same_size],
    ]
    if advice.same_loss:
        lines += ["same loss for less, among the runs:", *[_alternative(each) for each in advice.same_loss]]
    return [*lines, *[f"note: {note}" for note in advice.notes]]


def _alternative(each: Any) -> str:
    from joulemeter import units

    low, value, high = each.saving
    loss = "" if each.loss != each.loss else f", loss {each.loss:.4g}"
    return (
        f"  {each.training.shape} of depth {each.training.depth}: {units.joules(each.cost.energy_j[1])}, "
        f"{value:.0%} less ({low:.0%} to {high:.0%}, 90 %){loss}; widths {_short(each.training.widths)}"
    )


def _short(widths: tuple[int, ...]) -> str:
    text = [str(width) for width in widths]
    return "-".join(text if len(text) <= 8 else [*text[:4], "…", *text[-3:]])


def _left_out(sayings: Any) -> None:
    for saying in sayings:
        click.echo(f"left out: {saying}", err=True)
