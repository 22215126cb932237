"""`joulemeter isolate`."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from joulemeter.isolate import Isolated


@click.command()
@click.argument("functions", nargs=-1, required=True, metavar="MODULE:FUNCTION…")
@click.option("--setup", default="", metavar="CODE", help="Python to run first; its names serve in --args.")
@click.option(
    "--args", "arguments", default="", metavar="EXPRESSIONS", help="The arguments, as between parentheses."
)
@click.option(
    "--ci", default="5%", show_default=True, help="Repeat until the 95 % interval is ± this or narrower."
)
@click.option("--limit", default="60s", show_default=True, help="Stop after this long for each function.")
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    functions: tuple[str, ...],
    setup: str,
    arguments: str,
    ci: str,
    limit: str,
    source: str | None,
    as_json: bool,
) -> None:
    """Measure one call alone, or several side by side in random order.

    Warms up until the time is steady, then repeats batches with rests between, removes drift, and stops when
    the interval is narrow enough or the time is over; both are reported.

    \b
      joulemeter isolate torch:mm --setup "import torch; x = torch.rand(512, 512)" --args "x, x"
      joulemeter isolate mymodel:small mymodel:large --ci 2%
    """
    from joulemeter import calls, comparison, sources, units
    from joulemeter.isolate import isolate_all, machine

    made = calls.named(functions, setup, arguments)
    with machine(sources.split_specs(source) if source else None) as stage:
        found = isolate_all(made, stage, ci=units.parse_fraction(ci), limit_s=units.parse_seconds(limit))
    results = list(found.values())
    pairs = [comparison.difference(results[0].energy, other.energy) for other in results[1:]]
    if as_json:
        document = {"calls": [r.to_json() for r in results], "differences": [p.to_json() for p in pairs]}
        click.echo(json.dumps(document, indent=1, allow_nan=False))
        return
    for result in results:
        _show(result)
    for result, pair in zip(results[1:], pairs, strict=True):
        click.echo(f"{result.name} against {results[0].name}: {pair.verdict}{_percent(pair.relative)}")


def _show(result: Isolated) -> None:
    from joulemeter.units import joules, seconds, watts

    energy, gross = result.energy, result.gross
    net = f"{joules(energy.energy_j)}  ({joules(energy.low_j)} – {joules(energy.high_j)})"
    if energy.energy_j != energy.energy_j or not result.resolved:
        net = f"below resolution: at most {joules(energy.high_j)}"
    reached = f"± {100 * result.target:g} % " + (
        "reached" if result.reached else "not reached in the time allowed"
    )
    known = math.isfinite(result.repeatability)
    scatter = f"± {100 * result.repeatability:.1f} %" if known else "not known"
    rows = [
        (result.name, result.origin),
        ("  energy above rest", net),
        ("  gross energy", f"{joules(gross.energy_j)}  ({joules(gross.low_j)} – {joules(gross.high_j)})"),
        (
            "  time",
            f"{seconds(result.time.value)}  ({seconds(result.time.low)} – {seconds(result.time.high)})",
        ),
        ("  power at rest", watts(result.rest_w.value)),
        ("  repeatability", f"{scatter}; {reached}"),
        ("  repeated", f"{result.calls:,} calls in {result.rounds} rounds, {seconds(result.machine_s)}"),
        *(("  note", note) for note in result.notes),
    ]
    for label, text in rows:
        click.echo(f"{label:<22}{text}")


def _percent(relative: Any) -> str:
    if relative.value != relative.value:
        return ""
    return f" ({100 * relative.value:+.1f} %, {100 * relative.low:+.1f} to {100 * relative.high:+.1f} %)"
