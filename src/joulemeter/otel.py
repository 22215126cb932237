"""Rails as OpenTelemetry metrics, spans with their energies as traces (needs the extra ``otel``).

Names and units follow https://opentelemetry.io/docs/specs/semconv/general/metrics/: UCUM units in the unit
field, none in the name. A collector's Prometheus exporter makes ``joulemeter_energy_joules_total`` of
``joulemeter.energy``, the same as ``joulemeter serve --prometheus``.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from opentelemetry import trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from joulemeter.errors import UsageError
from joulemeter.ledger import Energy
from joulemeter.live import RailState, Watch
from joulemeter.log_entries import longest_period_ns
from joulemeter.phases import settled
from joulemeter.run import Run
from joulemeter.series import program_energy
from joulemeter.window import energy_between

if TYPE_CHECKING:
    from joulemeter.meter import Meter

SCOPE = "joulemeter"
BATCH = 512
"""Spans sent at once: what the SDK's own batches hold."""
_TIMEOUT_S = 5.0

Value = Callable[[RailState], float]


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────


def provider(watch: Watch, readers: Sequence[MetricReader]) -> MeterProvider:
    """A provider whose instruments look at ``watch`` whenever a reader collects.

    Observable counters ``joulemeter.energy`` (J), ``joulemeter.unseen`` (s) and ``joulemeter.failed_reads``
    ({read}), and the observable gauge ``joulemeter.power`` (W), each with the attributes rail, source,
    origin and inside. A power that nobody knows is left out, not zero.
    """
    made = MeterProvider(readers, Resource.create({"service.name": "joulemeter"}))
    meter = made.get_meter(SCOPE)

    def of(value: Value) -> list[Callable[[Any], Iterable[Observation]]]:
        """What is asked for ``value`` at each export."""
        return [lambda _: _observations(watch, value)]

    meter.create_observable_counter(
        "joulemeter.energy", of(lambda s: s.energy_j), "J", "Energy seen since the start, gaps left out."
    )
    meter.create_observable_counter(
        "joulemeter.unseen", of(lambda s: s.unseen_s), "s", "Time whose energy no reading covers."
    )
    meter.create_observable_counter(
        "joulemeter.failed_reads", of(lambda s: s.failed), "{read}", "Readings that did not answer."
    )
    meter.create_observable_gauge(
        "joulemeter.power", of(lambda s: s.power_w), "W", "Mean power between the last two readings."
    )
    return made


def _observations(watch: Watch, value: Value) -> list[Observation]:
    states = watch.states()
    names = {(state.rail.source, state.rail.id): state.rail.name for state in states}
    return [
        Observation(known, _rail_attributes(state, names))
        for state in states
        if not math.isnan(known := value(state))
    ]


def _rail_attributes(state: RailState, names: dict[tuple[str, int], str]) -> dict[str, str]:
    rail = state.rail
    inside = "" if rail.inside is None else names[rail.source, rail.inside]
    return {"rail": rail.name, "source": rail.source, "origin": rail.origin, "inside": inside}


def push(watch: Watch, url: str, period_s: float) -> MeterProvider:
    """Sends the metrics of ``watch`` to an OTLP/HTTP collector every ``period_s``, until shut down."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=endpoint(url, "metrics"), timeout=_TIMEOUT_S)
    return provider(watch, [PeriodicExportingMetricReader(exporter, period_s * 1e3)])


def endpoint(url: str, signal: str) -> str:
    """``url`` with the path that OTLP/HTTP gives a signal, where it names none. Raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"--otlp: '{url}' is no address of a collector", "--otlp http://localhost:4318")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1/{signal}"


# ── spans of a recorded run ──────────────────────────────────────────────────────────────────────────


def send(run: Run, url: str) -> tuple[int, int]:
    """Sends the spans of a run to an OTLP/HTTP collector; see ``export``."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint(url, "traces"), timeout=_TIMEOUT_S)
    try:
        return export(run, exporter)
    except _NotTakenError:
        raise UsageError(f"{url}: no collector took the spans", "an OTLP/HTTP collector's address") from None
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


class _NotTakenError(Exception):
    """An exporter failed."""


def export(run: Run, exporter: SpanExporter) -> tuple[int, int]:
    """Gives an exporter the spans of a run as one trace; returns how many, and how many were left out.

    A root span stands for the program. A span that lasted no period of the meters is left out: a meter knows
    nothing of it alone (its site's share stands in the reports). The others carry ``joulemeter.energy_j``,
    gross, with ``joulemeter.energy_low_j``, ``joulemeter.energy_high_j`` and ``joulemeter.origin``, unless a
    meter saw not all of them.
    """
    found = [_root(run)]
    contexts: dict[int, trace.SpanContext] = {}
    rows = _long_rows(run)
    for row in rows:
        found.append(_span(run, row, contexts, found[0]))
        contexts[row] = found[-1].context
    _fill_energies(run, found, rows)
    for first in range(0, len(found), BATCH):
        if exporter.export(found[first : first + BATCH]) is not SpanExportResult.SUCCESS:
            raise _NotTakenError
    return len(found), len(run.spans) - len(rows)


def _long_rows(run: Run) -> list[int]:
    """Rows of the spans a meter can see, parents before children."""
    lasted_ns = run.spans.end_ns - run.spans.start_ns
    rows = np.flatnonzero(lasted_ns >= longest_period_ns(run.timelines()))
    return [int(row) for row in rows[np.lexsort((-run.spans.end_ns[rows], run.spans.start_ns[rows]))]]


def _root(run: Run) -> ReadableSpan:
    program = run.header.get("program", {})
    stamps = [run.spans.start_ns, run.spans.end_ns, run.reading_t_ns]
    known = np.concatenate(stamps) if any(len(each) for each in stamps) else np.zeros(1, np.int64)
    start_ns, end_ns = program.get("start_ns", known.min()), program.get("end_ns", known.max())
    title = " ".join(map(str, run.header.get("argv", ()))) or run.folder.name
    return _readable(run, title, int(start_ns), int(end_ns), _context(random.getrandbits(128)), None, {})


def _span(run: Run, row: int, contexts: dict[int, trace.SpanContext], root: ReadableSpan) -> ReadableSpan:
    spans = run.spans
    site = next(each for each in run.sites if each.id == int(spans.site[row]))
    parent = int(spans.parent[row])
    while parent >= 0 and parent not in contexts:
        parent = int(spans.parent[parent])
    above = contexts[parent] if parent >= 0 else root.context
    assert above is not None
    attributes: dict[str, Any] = {"joulemeter.kind": site.kind}
    attributes["thread.name"] = run.lane_name(int(spans.lane[row]))
    if site.file:
        attributes |= {"code.file.path": site.file, "code.line.number": site.line}
    context = _context(above.trace_id)
    return _readable(
        run, site.name, int(spans.start_ns[row]), int(spans.end_ns[row]), context, above, attributes
    )


def _context(trace_id: int) -> trace.SpanContext:
    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.SpanContext(trace_id, random.getrandbits(64), is_remote=False, trace_flags=sampled)


def _readable(
    run: Run,
    name: str,
    start_ns: int,
    end_ns: int,
    context: trace.SpanContext,
    parent: trace.SpanContext | None,
    attributes: dict[str, Any],
) -> ReadableSpan:
    start = run.header.get("start", {})
    to_wall_ns = int(start.get("wall_ns", 0)) - int(start.get("monotonic_ns", 0))
    host = str(run.header.get("host", {}).get("name", ""))
    return ReadableSpan(
        name,
        context,
        parent,
        Resource({"service.name": "joulemeter", "host.name": host}),
        attributes,
        start_time=start_ns + to_wall_ns,
        end_time=end_ns + to_wall_ns,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )


def _fill_energies(run: Run, found: Sequence[ReadableSpan], rows: Sequence[int]) -> None:
    """Adds what the meters saw to the root and to the spans of ``rows``, which follow it."""
    lines = run.timelines()
    origin = ", ".join(sorted({rail.origin for rail in run.rails}))
    energies = [program_energy(run)] + [
        energy_between(lines, int(run.spans.start_ns[row]), int(run.spans.end_ns[row])) for row in rows
    ]
    for span, energy in zip(found, energies, strict=True):
        span._attributes = {**(span.attributes or {}), **energy_attributes(energy, origin)}


def energy_attributes(energy: Energy, origin: str) -> dict[str, str | float]:
    """The attributes of a span; none where its energy is not known."""
    if math.isnan(energy.energy_j):
        return {}
    figures = {f"joulemeter.{key}": value for key, value in _figures(energy)}
    return {**figures, "joulemeter.origin": origin}


def _figures(energy: Energy) -> list[tuple[str, float]]:
    return [
        ("energy_j", energy.energy_j),
        ("energy_low_j", energy.low_j),
        ("energy_high_j", energy.high_j),
    ]


# ── spans as they happen ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def span(meter: Meter, tracer: trace.Tracer, name: str) -> Iterator[trace.Span]:
    """A span of the Meter that is a span of ``tracer`` too, and ends with its energy among its attributes.

    It ends when the block does; it is handed in when the meter has seen its end, a tenth of a second later
    at most with the usual meters.
    """
    made = tracer.start_span(name)
    start_ns = time.monotonic_ns()
    try:
        with trace.use_span(made, end_on_exit=False), meter.span(name):
            yield made
    finally:
        end_ns, end_wall_ns = time.monotonic_ns(), time.time_ns()
        energy = settled(meter, start_ns, end_ns)
        made.set_attributes(energy_attributes(energy, meter.origin))
        made.end(end_wall_ns)
