"""`joulemeter predict`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.predict import Figure, Priced, Row


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option(
    "--predictor",
    "predictors",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A predictor's file, or a data set's folder to learn from. Several with --compare. Needed.",
)
@click.option(
    "--input", "inputs", multiple=True, metavar="[NAME=]SIZES", help="An input's shape, such as 1,3,224,224."
)
@click.option("--train", is_flag=True, help="A training step in place of an inference.")
@click.option(
    "--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True, help="With --train."
)
@click.option("--backend", help="What runs the network; the predictor must know it.")
@click.option(
    "--deployed/--as-is", default=None, help="Fold batch normalisation. Default: for files, not for modules."
)
@click.option("--compare", is_flag=True, help="Models, or predictors, side by side.")
@click.option("--device", help="Refuse a predictor that is not of this machine's device, such as cpu.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    *,
    models: tuple[str, ...],
    predictors: tuple[Path, ...],
    inputs: tuple[str, ...],
    train: bool,
    optimizer: str,
    backend: str | None,
    deployed: bool | None,
    compare: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """The energy and time of networks that were never run, from the kernels they are made of.

    MODEL is a file (.onnx, .tflite, .pt2, .keras) or module:function, which returns a PyTorch module, or one
    and its example inputs.

    \b
    Example:
      joulemeter predict resnet50.onnx --predictor my-machine.joules
      joulemeter predict nets:vit --input 8,3,224,224 --train --predictor my-machine/ --json
      joulemeter predict a.onnx b.onnx --compare --predictor my-machine.joules
    """
    from joulemeter import graphs, host, predict
    from joulemeter import pricing as prices
    from joulemeter.errors import PredictorError, UsageError

    if not compare and len(models) * len(predictors) > 1:
        raise UsageError("several models or predictors", "--compare")
    shapes = dict(_shape(each) for each in inputs)
    networks = [graphs.read(model, shapes, train) for model in models]
    if not predictors:
        raise UsageError(
            "no predictor was given, and none ships: prices hold for one machine",
            "joulemeter bench -o machine/, then --predictor machine/",
        )
    if train:
        networks = [predict.training_step(each, optimizer) for each in networks]
    priced: list[Priced] = []
    for path in predictors:
        pricing = prices.opened(path, backend)
        if device is not None and pricing.predictor.device != host.device(device, measure=False).fingerprint:
            raise PredictorError(
                f"{path}: is of the device {pricing.predictor.device}, not of this machine's {device}",
                "joulemeter bench here, or leave --device out",
            )
        found = predict.price_all(networks, pricing, False if train else deployed)
        priced += found if host.has(pricing.predictor.device) else [predict.elsewhere(each) for each in found]
    if as_json:
        plain = [each.to_json() for each in priced]
        click.echo(json.dumps({"schema": 1, "models": plain} if compare else plain[0], allow_nan=False))
    elif compare:
        _compared(priced)
    else:
        _show(priced[0], "training step" if train else "inference")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``x=1,3,224,224`` or ``1,3,224,224``."""
    from joulemeter.errors import UsageError

    remedy = "--input 1,3,224,224 or --input name=1,128"
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(","))
    except ValueError:
        raise UsageError(f"--input {text}: not a shape", remedy) from None
    if any(size <= 0 for size in shape):
        raise UsageError(f"--input {text}: a size is not above zero", remedy)
    return name, shape


def _show(priced: Priced, what: str) -> None:
    from joulemeter.units import joules, seconds, si, watts

    if priced.partial:
        names = ", ".join(f"{count} × {name}" for name, count in priced.unpriced.items())
        click.echo(
            f"PARTIAL: {priced.flops_covered:.1%} of the FLOPs and {priced.bytes_covered:.1%} of the bytes "
            f"have a "
            f"price; without one: {names}"
        )
    device = priced.device or "an unnamed device"
    click.echo(f"{priced.name}: one {what} on {device} with {priced.backend} (predicted)")
    click.echo(f"  energy    {_figure(priced.energy, joules)}")
    click.echo(f"  time      {_figure(priced.time, seconds)}")
    click.echo(f"  power     {_figure(priced.power, watts)}")
    click.echo(
        f"  overhead  {seconds(priced.overhead_s)} and {joules(priced.overhead_j)} of it in the framework"
    )
    total = sum(priced.multiply_adds.values())
    macs = ", ".join(f"{name} {si(value, 'MAC')}" for name, value in priced.multiply_adds.items())
    click.echo(f"  work      {si(priced.flops, 'FLOP')}" + (f"; {si(total, 'MAC')} ({macs})" if macs else ""))
    click.echo(f"  coverage  {priced.flops_covered:.1%} of FLOPs, {priced.bytes_covered:.1%} of bytes")
    for warning in priced.warnings:
        click.echo(f"  warning   {warning}")
    _table("kernels", priced.kernels)
    _table("modules", priced.modules)


def _figure(figure: Figure, shown: object) -> str:
    assert callable(shown)
    if math.isnan(figure.value):
        return "unknown"
    return f"{shown(figure.value)}  ({shown(figure.low)} – {shown(figure.high)}, 90 %)"


def _table(title: str, rows: tuple[Row, ...]) -> None:
    from joulemeter.units import joules, seconds, si

    wide = max([len(row.name) for row in rows[:15]] + [len(title)])
    click.echo(f"\n{title:<{wide}}  {'launches':>8}  {'energy':>9}  {'time':>9}  {'work':>11}")
    for row in rows[:15]:
        cells = f"{joules(row.energy_j):>9}  {seconds(row.time_s):>9}  {si(row.flops, 'FLOP'):>11}"
        click.echo(f"{row.name:<{wide}}  {row.launches:>8}  {cells}")
    if len(rows) > 15:
        click.echo(f"… and {len(rows) - 15} more (--json has all)")


def _compared(priced: list[Priced]) -> None:
    from joulemeter.units import joules, seconds

    wide = max(len(each.name) for each in priced)
    click.echo(f"{'model':<{wide}}  {'device':<18}  {'energy (90 %)':<32}  {'time':>9}  coverage")
    for each in priced:
        energy = f"{joules(each.energy.value)} ({joules(each.energy.low)} – {joules(each.energy.high)})"
        partial = " PARTIAL" if each.partial else ""
        click.echo(
            f"{each.name:<{wide}}  {each.device:<18}  {energy:<32}  {seconds(each.time.value):>9}  "
            f"{each.flops_covered:.1%}{partial}"
        )
    for each in priced:
        for warning in each.warnings:
            click.echo(f"warning: {each.name}: {warning}", err=True)
