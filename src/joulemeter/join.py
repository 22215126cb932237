"""Energy of external meters joined to runs by host and time: node watt-meters, PDUs, smart plugs, BMC logs.

A log is a CSV of a time, watts, and a host (a column, or the file's name). Between two samples the power is
the first one's (``hold``) or runs straight to the second (``linear``). A stretch between samples longer than
``gap_s`` was not seen: its energy is unknown and no part of any sum. Readings of zero watts are no readings.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from joulemeter import storage
from joulemeter.errors import DatasetError, UsageError
from joulemeter.storage import Where

if TYPE_CHECKING:
    import polars

Floats = NDArray[np.float64]
Method = Literal["hold", "linear"]
GAP_PERIODS = 3.0
"""Where no gap is given, one is a stretch of more than this many sampling periods."""
LEAST_SEEN = 0.9
"""A run of which less than this share was seen has no energy."""
READINGS = ("samples", "zero_readings", "unread_readings")
"""Counts of a run's readings: taken, of zero watts or less, and of no number."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_RUNS = "a CSV or Parquet file of runs, or a data set"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns, and how their times are written.

    ``zone`` is that of times without an offset ("UTC", "America/Denver"); "" refuses such times. ``unit`` is
    that of times that are numbers (since 1970). ``duration`` names a column of seconds in place of ``end``.
    ``run_host``, ``run_unit`` and ``run_zone`` are the runs' where they differ; a data set has its own of the
    first two: ``host`` and seconds.
    """

    time: str = "time"
    power: str = "power_w"
    host: str = "host"
    start: str = "start"
    end: str = "end"
    duration: str = ""
    zone: str = ""
    run_zone: str = ""
    run_host: str = ""
    run_unit: str = ""
    unit: str = "s"
    separator: str = ","
    """Between the hosts of a run of several nodes."""


@dataclass(frozen=True, slots=True)
class Log:
    """Samples of one host in order: seconds since 1970 and watts, and when readings were left out.

    Readings of zero watts or less are ``zeros_at_s``, those that are no number (``ERR``) ``unread_at_s``; of
    ``untimed`` more the time could not be read.
    """

    t_s: Floats
    power_w: Floats
    zeros_at_s: Floats
    unread_at_s: Floats
    untimed: int = 0

    @property
    def period_s(self) -> float:
        """The median stretch between samples; NaN for fewer than two."""
        return float(np.median(np.diff(self.t_s))) if len(self.t_s) > 1 else math.nan


@dataclass(frozen=True, slots=True)
class Joined:
    """Figures of each run on one host, all of shape (runs,). ``energy_j`` is NaN where too little was seen.

    ``low_j``/``high_j`` bound what any power between neighbouring samples would give. ``gap_s`` is the part
    of the run that was not seen, filled at the mean power of the rest; ``short`` says that the run is
    shorter than the sampling.
    """

    energy_j: Floats
    low_j: Floats
    high_j: Floats
    gap_s: Floats
    samples: NDArray[np.int64]
    zeros: NDArray[np.int64]
    unread: NDArray[np.int64]
    short: NDArray[np.bool_]


def integrate(
    log: Log, start_s: Floats, end_s: Floats, method: Method = "hold", gap_s: float | None = None
) -> Joined:
    """The energy between each ``start_s`` and ``end_s``.

    Cumulative sums over the samples and a search for the edges: O((samples + runs)·log samples).
    """
    count = len(start_s)
    if len(log.t_s) < 2:
        nan, none = np.full(count, np.nan), np.zeros(count, dtype=np.int64)
        return Joined(nan, nan, nan, end_s - start_s, none, none, none, np.zeros(count, dtype=bool))
    period = log.period_s
    most = GAP_PERIODS * period if gap_s is None else gap_s
    width = np.diff(log.t_s)
    seen = width <= most
    first, second = log.power_w[:-1], log.power_w[1:]
    lower, upper = np.minimum(first, second), np.maximum(first, second)
    short = end_s - start_s < period
    edges = _Edges(log.t_s, width, seen, start_s, end_s)
    covered = edges.total(np.ones_like(first))
    energy = edges.total(first) if method == "hold" else edges.linear(first, second)
    low, high = edges.total(lower), edges.total(upper)
    low[short], high[short] = edges.around(log.power_w, short, covered)
    # What was not seen is taken at the mean power of what was, and at the log's extremes in the interval.
    missed = np.maximum(end_s - start_s - covered, 0.0)
    enough = covered >= LEAST_SEEN * (end_s - start_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        filled = energy + missed * (energy / covered)
    nan = np.full(count, np.nan)
    high = high + missed * float(log.power_w.max())
    low = low + missed * float(log.power_w.min())
    usable = enough & (covered > 0)
    return Joined(
        np.where(usable, filled, nan),
        np.where(usable, np.minimum(low, filled), nan),
        np.where(usable, np.maximum(high, filled), nan),
        missed,
        _within(log.t_s, start_s, end_s),
        _within(log.zeros_at_s, start_s, end_s),
        _within(log.unread_at_s, start_s, end_s),
        short,
    )


def _within(at_s: Floats, start_s: Floats, end_s: Floats) -> NDArray[np.int64]:
    """How many of the moments lie in each run."""
    return np.searchsorted(at_s, end_s, "right") - np.searchsorted(at_s, start_s, "left")


class _Edges:
    """Sums over the stretches between samples, cut at the starts and ends of runs."""

    def __init__(
        self, t_s: Floats, width: Floats, seen: NDArray[np.bool_], start_s: Floats, end_s: Floats
    ) -> None:
        self.t_s, self.width, self.seen = t_s, width, seen
        self.start_s, self.end_s = (np.clip(each, t_s[0], t_s[-1]) for each in (start_s, end_s))
        self.a, self.b = (self._stretch(each) for each in (self.start_s, self.end_s))

    def _stretch(self, t_s: Floats) -> NDArray[np.int64]:
        found = np.searchsorted(self.t_s, t_s, "right") - 1
        return np.clip(found, 0, len(self.width) - 1).astype(np.int64)

    def total(self, power_w: Floats) -> Floats:
        """∫ of a power that is constant in each stretch, over the stretches that were seen."""
        power_w = np.where(self.seen, power_w, 0.0)
        summed = np.concatenate([[0.0], np.cumsum(power_w * self.width)])
        until_b = summed[self.b] + power_w[self.b] * (self.end_s - self.t_s[self.b])
        until_a = summed[self.a] + power_w[self.a] * (self.start_s - self.t_s[self.a])
        return np.asarray(until_b - until_a)

    def linear(self, first: Floats, second: Floats) -> Floats:
        """∫ of a power that runs straight from sample to sample: its value at x of w is p + (q − p) x/w."""
        first, slope = (
            np.where(self.seen, first, 0.0),
            np.where(self.seen, (second - first) / self.width, 0.0),
        )
        whole = first * self.width + slope * self.width**2 / 2
        summed = np.concatenate([[0.0], np.cumsum(whole)])

        def until(k: NDArray[np.int64], t_s: Floats) -> Floats:
            """Joules up to ``t_s``, which lies in piece ``k``."""
            x = t_s - self.t_s[k]
            return np.asarray(summed[k] + first[k] * x + slope[k] * x**2 / 2)

        return until(self.b, self.end_s) - until(self.a, self.start_s)

    def around(self, power_w: Floats, short: NDArray[np.bool_], covered: Floats) -> tuple[Floats, Floats]:
        """Bounds of short runs: the least and greatest of the four samples around them."""
        near = np.clip(self.a[short, None] + np.arange(-1, 3), 0, len(power_w) - 1)
        near = np.concatenate([near, np.clip(self.b[short, None] + 1, 0, len(power_w) - 1)], axis=1)
        values = power_w[near]
        return values.min(axis=1) * covered[short], values.max(axis=1) * covered[short]


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────


def read_logs(where: Path, columns: Columns) -> dict[str, Log]:
    """The logs in a CSV, or in all CSVs of a folder, by host; streamed by Polars.

    Where a file has no host column, its name (without .csv) is the host. Raises DatasetError where there is
    no file or a column lacks, UsageError where a time says no zone.
    """
    import polars

    files = sorted(where.rglob("*.csv")) if where.is_dir() else [where]
    if not files or not files[0].exists():
        raise DatasetError(f"{where}: there is no CSV", "the path of a meter's CSV, or of a folder of them")
    try:
        # Watts are read as text: a log may begin with whole numbers and go on with others, or with ``ERR``.
        texts: dict[str, Any] = {columns.power: polars.String}
        frame = polars.scan_csv(
            files, include_file_paths="_file", infer_schema_length=1000, schema_overrides=texts
        )
        names = frame.collect_schema().names()
        _need(names, (columns.time, columns.power), where)
        host = polars.col(columns.host).cast(polars.String)
        if columns.host not in names:
            host = polars.col("_file").str.extract(r"([^/\\]+)\.csv$")
        time = _seconds(frame.collect_schema()[columns.time], columns.time, columns.zone, columns.unit)
        power = polars.col(columns.power).str.strip_chars().cast(polars.Float64, strict=False)
        table = frame.select(
            host.cast(polars.Categorical).alias("host"), time.alias("t_s"), power.alias("w")
        ).collect(engine="streaming")
    except polars.exceptions.PolarsError as error:
        raise DatasetError(
            f"{where}: cannot be read ({str(error).splitlines()[0]})", "CSV with a heading, in UTF-8"
        ) from error
    _check_times(table["t_s"], columns.time, columns.zone, where)
    return dict(_logs(table.drop_nulls("host")))


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        raise UsageError(f"there is no time zone '{zone}'", "UTC, Europe/Berlin, America/Denver, …") from None


def _check_times(t_s: polars.Series, name: str, zone: str, where: Where) -> None:
    unread = t_s.null_count()
    if unread and not zone:
        raise UsageError(
            f"{where}: {unread} of {len(t_s)} times in '{name}' say no zone",
            "--zone UTC, or the zone that they were written in",
        )
    if unread == len(t_s):
        raise DatasetError(
            f"{where}: no time in '{name}' can be read",
            "times such as 2026-05-01 12:00:00, or seconds since 1970",
        )


def _logs(table: polars.DataFrame) -> Iterator[tuple[str, Log]]:
    for (host,), part in table.partition_by("host", as_dict=True).items():
        timed = part.drop_nulls("t_s")
        t_s, power_w = timed["t_s"].to_numpy(), timed["w"].fill_null(math.nan).to_numpy()
        t_s, index = np.unique(t_s, return_index=True)  # sorts, and a sample logged twice counts once
        power_w = power_w[index]
        read, unread = power_w > 0, ~np.isfinite(power_w)
        kept = read & ~unread
        yield (
            str(host),
            Log(t_s[kept], power_w[kept], t_s[~read & ~unread], t_s[unread], len(part) - len(timed)),
        )


def _need(names: list[str], wanted: tuple[str, ...], where: Where) -> None:
    lacking = [name for name in wanted if name not in names]
    if lacking:
        has = ", ".join(name for name in names if not name.startswith("_"))
        raise DatasetError(
            f"{where}: lacks the column {', '.join(lacking)}", f"an option (--time, --power, …); it has {has}"
        )


def _seconds(kind: Any, name: str, zone: str, unit: str) -> polars.Expr:
    """A column of times as seconds since 1970."""
    import polars

    column = polars.col(name)
    if kind.is_numeric():
        return column.cast(polars.Float64) * UNITS[unit]
    if kind == polars.String:
        offset = column.str.contains(r"(?:Z|[+-]\d\d:?\d\d)$")
        plain = column.str.replace("T", " ")
        with_offset = (
            polars.when(offset).then(column).str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        )
        if not zone:
            return with_offset.dt.epoch("us") / 1e6
        naive = polars.when(~offset).then(plain).str.to_datetime(time_unit="us", strict=False)
        local = naive.dt.replace_time_zone(zone, ambiguous="null", non_existent="null").dt.convert_time_zone(
            "UTC"
        )
        return polars.coalesce(with_offset, local).dt.epoch("us") / 1e6
    if kind.is_temporal():
        if getattr(kind, "time_zone", None) is None:
            if not zone:
                raise UsageError(f"the times in '{name}' say no zone", "--zone UTC, or the zone they are in")
            column = column.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
        return column.dt.epoch("us") / 1e6
    raise DatasetError(
        f"the column '{name}' holds no times ({kind})", "--time, --start or --end with one that does"
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """What a join came to, a line for each run and host."""

    runs: int
    lines: int
    joined: int
    no_log: int
    too_little_seen: int
    short: int
    gaps: int
    zero_readings: int
    unread_readings: int
    """Readings within runs that are no number."""
    unread_times: int
    """Runs, and samples of the meters, whose time cannot be read."""


def join(
    meters: Path,
    runs: Where,
    output: Where,
    columns: Columns,
    *,
    method: Method = "hold",
    gap_s: float | None = None,
) -> Tally:
    """Writes a data set of ``runs`` with the energy that ``meters`` saw, one record for each run and node.

    Raises DatasetError where ``output`` is there already or a file cannot be read.
    """
    import polars

    from joulemeter import dataset

    for zone in (columns.zone, columns.run_zone):
        _check_zone(zone)
    if storage.place(output).exists():
        raise DatasetError(f"{output}: is there already", "another folder")
    table = _runs(runs, columns)
    logs = read_logs(meters, columns)
    whole = table.height
    table = table.drop_nulls(["_start", "_end"])
    table = table.with_columns(polars.int_range(polars.len()).alias("_row"))
    figures, no_log = _figures(table, logs, method, gap_s)
    dataset.append(output, [], part="0-start")
    _write(output, table, figures, method, meters)
    known = ~np.isnan(figures["energy_j"])
    filled = figures["gap_s"] > 1e-6
    return Tally(
        table["_run"].n_unique(), table.height, int(known.sum()), int(no_log.sum()),
        int((~known & ~no_log).sum()), int(figures["short"].sum()), int((filled & known).sum()),
        int(figures["zero_readings"].sum()), int(figures["unread_readings"].sum()),
        whole - table.height + sum(log.untimed for log in logs.values()),
    )  # fmt: skip


def _figures(
    table: polars.DataFrame, logs: dict[str, Log], method: Method, gap_s: float | None
) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """Columns of the join in the order of ``table``, and which rows have no log."""
    count = table.height
    start_s, end_s = table["_start"].to_numpy(), table["_end"].to_numpy()
    found: dict[str, NDArray[Any]] = {
        **{name: np.full(count, np.nan) for name in ("energy_j", "low_j", "high_j", "gap_s", "period_s")},
        **{name: np.zeros(count, dtype=np.int64) for name in READINGS},
        "short": np.zeros(count, dtype=bool),
    }
    no_log = np.ones(count, dtype=bool)
    for (host,), part in table.select("_host", "_row").partition_by("_host", as_dict=True).items():
        log = logs.get(str(host))
        if log is None:
            continue
        rows = part["_row"].to_numpy()
        no_log[rows] = False
        each = integrate(log, start_s[rows], end_s[rows], method, gap_s)
        found["energy_j"][rows], found["low_j"][rows], found["high_j"][rows] = (
            each.energy_j,
            each.low_j,
            each.high_j,
        )
        found["gap_s"][rows], found["samples"][rows] = each.gap_s, each.samples
        found["zero_readings"][rows], found["unread_readings"][rows] = each.zeros, each.unread
        found["short"][rows] = each.short
        found["period_s"][rows] = log.period_s
    return found, no_log


def _runs(path: Where, columns: Columns) -> polars.DataFrame:
    """A row for each run and host, with ``_run``, ``_host``, ``_nodes``, ``_start`` and ``_end``."""
    import polars

    table = _run_table(path)
    finish = columns.duration or columns.end
    ours = _is_dataset(path)
    host = columns.run_host or ("host" if ours else columns.host)
    unit = columns.run_unit or ("s" if ours else columns.unit)
    _need(table.columns, (host, columns.start, finish), path)
    zone = columns.run_zone or columns.zone
    start = _seconds(table.schema[columns.start], columns.start, zone, unit)
    end = (
        start + polars.col(columns.duration).cast(polars.Float64)
        if columns.duration
        else _seconds(table.schema[columns.end], columns.end, zone, unit)
    )
    hosts = polars.col(host).cast(polars.String).str.split(columns.separator)
    table = table.with_columns(
        polars.int_range(polars.len()).alias("_run"), hosts.alias("_host"), hosts.list.len().alias("_nodes"),
        start.alias("_start"), end.alias("_end"),
    )  # fmt: skip
    _check_times(table["_start"], columns.start, zone, path)
    table = table.explode("_host").with_columns(polars.col("_host").str.strip_chars())
    backwards = table.filter(polars.col("_end") < polars.col("_start")).height
    if backwards:
        raise DatasetError(
            f"{path}: {backwards} runs end before they start", "mend those rows, or another --start or --end"
        )
    return table.drop_nulls("_host")


def _is_dataset(where: Where) -> bool:
    from joulemeter import dataset

    return storage.is_url(where) or dataset.is_dataset(where)


def _run_table(where: Where) -> polars.DataFrame:
    import polars

    from joulemeter import dataset

    try:
        if _is_dataset(where):
            rows = [{"name": r.name, "device": r.device, **r.facts} for r in dataset.read(where).records]
            return polars.from_dicts(rows, infer_schema_length=None)
        path = Path(where)
        if path.suffix == ".parquet" or path.is_dir():
            return polars.read_parquet(path)
        return polars.read_csv(path, infer_schema_length=None)
    except FileNotFoundError:
        raise DatasetError(f"{where}: is not there", _RUNS) from None
    except (OSError, polars.exceptions.PolarsError) as error:
        raise DatasetError(f"{where}: cannot be read ({str(error).splitlines()[0]})", _RUNS) from error


def _write(
    output: Where, table: polars.DataFrame, figures: dict[str, NDArray[Any]], method: Method, meters: Path
) -> None:
    """One part in the columns of ``record.Record``; whatever else the runs say goes into ``facts``."""
    import polars

    own = [name for name in table.columns if not name.startswith("_")]
    taken = {"energy_j", "low_j", "high_j", "time_s", "origin"}
    facts = [polars.col(name).alias(f"given_{name}" if name in taken else name) for name in own]
    facts = [
        each.cast(polars.String) if table.schema[own[k]].is_temporal() else each
        for k, each in enumerate(facts)
    ]
    joined = table.with_columns(**{f"_{name}": polars.Series(values) for name, values in figures.items()})
    energy, time = polars.col("_energy_j"), polars.col("_end") - polars.col("_start")
    told = [polars.col(f"_{name}").fill_nan(None).alias(name) for name in ("gap_s", "period_s")]
    told += [polars.col(f"_{name}").alias(name) for name in (*READINGS, "short", "nodes")]
    told += [polars.col("_host").alias("node"), polars.lit(method).alias("integration")]
    given = [each for each in facts if each.meta.output_name() not in _names(told)]
    name = polars.col("name" if "name" in own else "_run").cast(polars.String)
    frame = joined.select(
        level=polars.lit("run"), family=polars.lit("mlp"), origin=polars.lit("measured"), name=name,
        device=polars.col("device") if "device" in own else polars.lit(""),
        time_s=time, power_w=energy / time, energy_j=energy,
        energy_low_j=polars.col("_low_j"), energy_high_j=polars.col("_high_j"),
        source=polars.lit(f"join:{meters.name}"),
        facts=polars.struct(*given, *told).struct.json_encode(),
    )  # fmt: skip
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd")
    storage.place(output).put("part-1-joined.parquet", content.getvalue())


def _names(expressions: list[polars.Expr]) -> set[str]:
    return {each.meta.output_name() for each in expressions}
