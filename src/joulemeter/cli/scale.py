"""`joulemeter scale`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.scale import Line, Scaling


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--sizes", required=True, help="Three or more counts (1e3,1e4,1e5) or fractions (0.1,0.5,1).")
@click.option("--setup", default="", metavar="CODE", help="Python to run first; its names serve in --args.")
@click.option("--args", "arguments", default="", metavar="EXPRESSIONS", help="The arguments; n is the size.")
@click.option("--ci", default="5%", show_default=True, help="Repeat until each interval is ± this.")
@click.option("--limit", default="20s", show_default=True, help="Stop after this long for each size.")
@click.option("--source", metavar="NAME,…", help="Meters to read; default: all that answer.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw a .png or .svg.")
@click.option("--force", is_flag=True, help="Replace the plot's file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    function: str,
    sizes: str,
    setup: str,
    arguments: str,
    ci: str,
    limit: str,
    source: str | None,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the same call on growing inputs: joules and seconds per byte.

    The arguments are made anew for every size where --args or --setup names n; else they are made once and
    their leading dimension is cut to each size. Without --args, FUNCTION takes none and returns the function
    to measure and a tuple of its arguments.

    \b
      joulemeter scale torch:sort --setup "import torch" --args "torch.rand(n)" --sizes 1e4,1e5,1e6
      joulemeter scale mymodule:step --setup "import numpy; x = numpy.ones((9999, 64))" --args x \\
          --sizes 10%,50%,100% --plot step.png
    """
    from joulemeter import scale, scale_plot, sources, units
    from joulemeter.isolate import machine

    if plot is not None:
        scale_plot.check(plot, force)
    grown = scale.inputs(function, scale.parse_sizes(sizes), setup, arguments)
    with machine(sources.split_specs(source) if source else None) as stage:
        found = scale.scale(
            function, grown, stage, ci=units.parse_fraction(ci), limit_s=units.parse_seconds(limit)
        )
    if plot is not None:
        scale_plot.draw(found, plot)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, allow_nan=False))
        return
    _show(found)
    if plot is not None:
        click.echo(f"plot: {plot}")


UNSEEN = (
    "not seen at any size, and so no slope. "
    "Try: larger --sizes, a longer --limit, a meter (joulemeter doctor), a machine at rest"
)


def _show(found: Scaling) -> None:
    from joulemeter.units import joules, seconds, si

    click.echo(f"{found.function}  ({found.origin}; energy above rest, of one call)")
    click.echo(f"{'size':>12}  {'bytes':>10}  {'energy':>10}  {'95 % interval':>22}  {'time':>10}")
    for point in found.points:
        energy = point.found.energy
        shown = joules(energy.energy_j) if point.found.resolved else "not seen"
        interval = f"{joules(energy.low_j)} – {joules(energy.high_j)}"
        time = seconds(point.found.time_s)
        click.echo(f"{point.size:>12g}  {si(point.bytes, 'B'):>10}  {shown:>10}  {interval:>22}  {time:>10}")
    per = "B" if found.axis == "bytes" else "unit of size"
    unseen = not any(point.found.resolved for point in found.points)
    click.echo(f"energy  {UNSEEN if unseen else _line(found.energy, f'J/{per}')}")
    click.echo(f"time    {_line(found.time, f's/{per}')}")
    if found.exponent.value == found.exponent.value:
        k = found.exponent
        click.echo(f"energy grows as {found.axis}^{k.value:.2f}  ({k.low:.2f} to {k.high:.2f})")
    for note in sorted({note for point in found.points for note in point.found.notes}):
        click.echo(f"note: {note}")


def _line(line: Line, unit: str) -> str:
    from joulemeter.units import si

    slope = line.slope
    ends = f"{si(slope.low, unit)} to {si(slope.high, unit)}"
    if slope.value != slope.value:
        return "no line: fewer than three of the points can be told from nothing"
    return f"{si(slope.value, unit)}  ({ends}), R² {line.r2:.3f}"
