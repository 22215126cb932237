"""`joulemeter score`: devices and networks scored from tables of power and energy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from joulemeter.errors import UsageError

MOST_NAMED = 4
"""Missing cells of a device that are named one by one; the JSON lists all."""
NOUNS = {"power_w": "power", "energy_j": "energy"}


@click.command(name="score")
@click.argument("datasets", nargs=-1, metavar="[DATASET]...", type=click.Path(path_type=Path))
@click.option(
    "--table", type=click.Path(path_type=Path), help="CSV: device, dnn, processor, average_power_W, energy_J."
)
@click.option(
    "--devices", type=click.Path(path_type=Path), help="CSV: device and tdp_W; published scores if any."
)
@click.option(
    "--tdp", multiple=True, metavar="[NAME=]WATTS", help="Thermal design power; of one device, or of all."
)
@click.option(
    "--task", multiple=True, metavar="NETWORK=TASK", help="What a network does; labels compare within a task."
)
@click.option("--reference", metavar="DEVICE", help="The device that scores IECS 100; default: the first.")
@click.option(
    "--cell-error", default="5%", show_default=True, help="Error of cells that come without an interval."
)
@click.option(
    "--apps", is_flag=True, help="Measure networks of six applications here first, and score this machine."
)
@click.option(
    "--limit", default="20s", show_default=True, help="With --apps: the longest for each application."
)
@click.option("--ci", default="5%", show_default=True, help="With --apps: stop once known this well.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --apps: keep the data set here.")
@click.option(
    "--source",
    metavar="NAME,…",
    help="With --apps: meters to read. Default: all that answer, else the estimate.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write the leaderboard as one HTML page.")
def command(
    *,
    datasets: tuple[Path, ...],
    table: Path | None,
    devices: Path | None,
    tdp: tuple[str, ...],
    task: tuple[str, ...],
    reference: str | None,
    cell_error: str,
    apps: bool,
    limit: str,
    ci: str,
    output: Path | None,
    source: str | None,
    as_json: bool,
    html: Path | None,
) -> None:
    """Score devices: power (PCS), inferences per joule (IECS), with intervals, coverage and doubts.

    \b
    Examples:
      joulemeter score --table applications.csv --devices devices.csv
      joulemeter score --table applications.csv --devices devices.csv --json
      joulemeter score phone/ laptop/ --devices devices.csv
      joulemeter score --apps --tdp 45 -o this-laptop/

    PCS is 100 x the mean over applications of (1 - power / TDP). IECS is inferences per joule against the
    reference device (100), as a geometric mean over applications. docs/scores.md has the reasons.
    """
    import json

    from joulemeter import score_data, score_tables, units

    if (table is not None) + bool(datasets) + apps != 1:
        raise UsageError("one of data sets, --table and --apps must be given", "joulemeter score --help")
    rows = score_tables.read_devices(devices) if devices else []
    error, tdp_w = units.parse_fraction(cell_error), score_tables.parse_tdp(tdp)
    if table is not None:
        cells = score_tables.read_table(table, rows, tdp_w, error, score_tables.parse_tasks(task))
    else:
        if apps:
            datasets = (_applications(output, source, units.parse_fraction(ci), units.parse_seconds(limit)),)
        cells = score_tables.from_datasets(datasets, rows, tdp_w, error, score_tables.parse_tasks(task))
    scores = score_data.scored(cells, rows, reference)
    if html is not None:
        _write_page(html, scores.data)
    click.echo(json.dumps(scores.data, indent=1, ensure_ascii=False) if as_json else as_text(scores.data))


def _applications(output: Path | None, source: str | None, ci: float, limit_s: float) -> Path:
    """The data set that the applications' records were appended to."""
    import tempfile

    from joulemeter import applications, dataset, host, sources
    from joulemeter.isolate import machine

    folder = output or Path(tempfile.mkdtemp(prefix="joulemeter-apps-")) / "applications"
    device = host.device("cpu", measure=False).fingerprint
    with machine(sources.split_specs(source) if source else None) as stage:
        dataset.append(folder, applications.measured(stage, device, ci=ci, limit_s=limit_s), "applications")
    click.echo(f"applications measured: {folder}", err=True)
    return folder


def _write_page(place: Path, data: dict[str, Any]) -> None:
    from joulemeter.report import leaderboard

    try:
        place.write_text(leaderboard.page(data), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{place}: cannot be written ({error.strerror})", "--html with a writable place"
        ) from None
    click.echo(f"wrote {place}", err=True)


def as_text(data: dict[str, Any]) -> str:
    """The scores as tables and sentences for a terminal."""
    flagged = [f"  {_flag(d['device'], flag)}" for d in data["devices"] for flag in d["flags"]]
    lacking = [f"  {device['device']}: {_lacks(device)}" for device in data["devices"] if device["missing"]]
    parts = [
        _table(
            ["device", "PCS", "95 %", "rank", "TDP ∓10%", "IECS", "95 %", "rank", "coverage", "flags"],
            [_device(device) for device in data["devices"]],
        ),
        f"IECS: inferences per joule, {data['reference']} = 100. Origin of the cells: {data['origin']}.",
        _table(
            ["network", "task", "energy per inference", "label"],
            [_network(network) for network in data["networks"]],
        ),
        *(_sentences(data)),
        *(["Missing cells:", "\n".join(lacking)] if lacking else []),
        *(["Look at these cells:", "\n".join(flagged)] if flagged else []),
    ]
    return "\n\n".join(parts)


def _sentences(data: dict[str, Any]) -> list[str]:
    pairs = [(*pair, kind.upper()) for kind, found in data["cannot_be_told_apart"].items() for pair in found]
    ties = "; ".join(f"{one} and {other} cannot be told apart by {by}" for one, other, by in pairs)
    said = [ties] if ties else []
    published = data["published"]
    if published is not None:
        said.append(
            f"Pearson with the published IECS: {_figure(published['iecs_pearson'], 3)}; suspected misprints "
            f"mended: {_figure(published['iecs_pearson_misprints_mended'], 3)}"
        )
    return [*said, *data["notes"]]


def _flag(device: str, flag: dict[str, Any]) -> str:
    cell = f"{flag['network']} {flag['processor']}".strip()
    return f"{device}: {flag['kind']}, {f'{cell}: ' * bool(cell)}{flag['detail']}"


def _lacks(device: dict[str, Any]) -> str:
    """The device's missing cells, counted by processor, the first few by name."""
    missing = device["missing"]
    counts = Counter(cell["processor"] for cell in missing)
    named = [
        f"{cell['network']} {cell['processor']}"
        + (f" ({NOUNS[cell['lacks'][0]]})" * (len(cell["lacks"]) == 1))
        for cell in missing[:MOST_NAMED]
    ]
    rest = [f"{len(missing) - MOST_NAMED} more"] * (len(missing) > MOST_NAMED)
    many = ", ".join(f"{count} of {processor}" for processor, count in counts.items())
    return f"{many}: {', '.join([*named, *rest])}"


def _device(device: dict[str, Any]) -> list[str]:
    pcs, iecs = device["pcs"], device["iecs"]
    return [
        device["device"],
        _figure(pcs["value"], 0),
        _ends(pcs, 1),
        _rank(pcs["rank"]),
        f"{pcs['tdp_minus_10_percent']:.0f} to {pcs['tdp_plus_10_percent']:.0f}" if "exact" in pcs else "–",
        _figure(iecs["value"], 0),
        _ends(iecs, 0),
        _rank(iecs["rank"]),
        f"{device['coverage']:.0%}",
        str(len(device["flags"])),
    ]


def _network(network: dict[str, Any]) -> list[str]:
    from joulemeter import units

    energy = network["energy_per_inference"]
    known = energy["energy_j"] is not None
    shown = [units.joules(energy[key]) for key in ("energy_j", "low_j", "high_j")] if known else []
    figure = "{} ({} to {})".format(*shown) if known else "no energy in the table"
    sure = network["label_best"] == network["label_worst"]
    label = (
        network["label"]
        if sure
        else f"{network['label']} ({network['label_best']} to {network['label_worst']})"
    )
    return [network["network"], network["task"], figure, label]


def _figure(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _ends(score: dict[str, Any], digits: int) -> str:
    """The interval; a dash where there is none, for which a flag of the device has the reason."""
    return "–" if score["low"] is None else f"{score['low']:.{digits}f} to {score['high']:.{digits}f}"


def _rank(ends: list[int]) -> str:
    best, worst = ends
    return "–" if best == 0 else str(best) if best == worst else f"{best}–{worst}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *rows]
    )
