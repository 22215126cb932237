"""OpenTelemetry's real SDK, and a receiver that reads OTLP with the protocol's own messages."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import joulemeter
import sample_run

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from joulemeter import otel, run
from joulemeter.errors import JoulemeterError
from joulemeter.live import Watch

WATTS = "simulated:load=constant,idle=50,busy=50,period=1ms"


class Receiver(BaseHTTPRequestHandler):
    """Takes what OTLP/HTTP posts."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.taken = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_energy_is_a_monotonic_cumulative_sum_in_joules_and_power_a_gauge_in_watts() -> None:
    reader = InMemoryMetricReader()
    with Watch(["simulated:load=constant,busy=100"], period_s=0.05) as watch:
        provider = otel.provider(watch, [reader])
        time.sleep(0.4)
        metrics = {
            metric.name: metric
            for resource in reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        provider.shutdown()
    energy, power = metrics["joulemeter.energy"], metrics["joulemeter.power"]
    assert (energy.unit, power.unit, metrics["joulemeter.unseen"].unit) == ("J", "W", "s")
    assert isinstance(energy.data, Sum)
    assert energy.data.is_monotonic
    assert energy.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert type(power.data).__name__ == "Gauge"
    (point,) = energy.data.data_points
    assert 10 < point.value < 100
    assert dict(point.attributes) == {
        "rail": "package-0", "source": "simulated", "origin": "simulated", "inside": "",
    }  # fmt: skip
    assert power.data.data_points[0].value == pytest.approx(100, rel=0.2)


def test_a_power_that_nobody_knows_is_left_out() -> None:
    reader = InMemoryMetricReader()
    with Watch(["simulated:load=constant"], period_s=60) as watch:
        provider = otel.provider(watch, [reader])
        data = reader.get_metrics_data()
        provider.shutdown()
    points = {
        metric.name: len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert points["joulemeter.energy"] == 1
    assert points.get("joulemeter.power", 0) == 0


def test_a_live_span_ends_with_its_energy_and_when_its_block_did() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with (
        joulemeter.Meter(sources=[WATTS]) as meter,
        otel.span(meter, tracer, "epoch"),
        otel.span(meter, tracer, "step"),
    ):
        time.sleep(0.1)
    step, epoch = exporter.get_finished_spans()
    assert step.parent.span_id == epoch.context.span_id
    seconds = (step.end_time - step.start_time) / 1e9
    assert seconds < 0.2
    assert step.attributes["joulemeter.energy_low_j"] <= 50 * seconds * 1.02
    assert step.attributes["joulemeter.energy_high_j"] >= 50 * seconds * 0.98
    assert step.attributes["joulemeter.origin"] == "simulated"
    assert {site.name for site in meter.run.sites} >= {"epoch", "step"}


def test_a_live_span_whose_block_fails_has_the_exception_and_its_energy() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def fails() -> None:
        time.sleep(0.05)
        raise ZeroDivisionError

    with (
        joulemeter.Meter(sources=[WATTS]) as meter,
        pytest.raises(ZeroDivisionError),
        otel.span(meter, tracer, "epoch"),
    ):
        fails()
    (span,) = exporter.get_finished_spans()
    assert span.events[0].name == "exception"
    assert span.attributes["joulemeter.energy_j"] > 1


def test_a_recorded_run_is_one_trace_whose_unseen_spans_carry_no_energy(tmp_path: Path) -> None:
    """The GPU of this run did not answer from its fourth to its fifth second."""
    recorded = sample_run.run(tmp_path)
    exporter = InMemorySpanExporter()
    sent, left_out = otel.export(recorded, exporter)
    spans = exporter.get_finished_spans()
    assert (sent, left_out) == (len(spans), len(recorded.spans) + 1 - len(spans))
    assert len({span.context.trace_id for span in spans}) == 1
    ids = {span.context.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent is None]
    assert all(span is root or ids[span.parent.span_id] for span in spans)
    modules = [span for span in spans if span.name == "encoder.layer"]
    assert len(modules) == 40
    known = [span for span in modules if "joulemeter.energy_j" in span.attributes]
    assert 30 <= len(known) < 40, "what no meter saw is not written as zero"
    assert all(span.attributes["joulemeter.energy_low_j"] > 0 for span in known)
    assert modules[0].attributes["thread.name"] == "MainThread"
    at_ns = modules[0].start_time - recorded.header["start"]["wall_ns"]
    assert at_ns == 1_000_000_000


def test_report_sends_a_run_to_a_collector(tmp_path: Path, collector: HTTPServer) -> None:
    recorded = sample_run.run(tmp_path)
    run.save(recorded)
    command = [sys.executable, "-m", "joulemeter", "report", str(tmp_path), "--otlp", address(collector)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "spans sent" in done.stderr
    requests = []
    for path, body in collector.taken:  # type: ignore[attr-defined]
        assert path == "/v1/traces"
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        requests.append(request)
    spans = [
        s for r in requests for res in r.resource_spans for scope in res.scope_spans for s in scope.spans
    ]
    energies = [a.value.double_value for s in spans for a in s.attributes if a.key == "joulemeter.energy_j"]
    assert len(spans) > 40
    assert min(energies) > 0


def test_serve_pushes_metrics_to_a_collector(collector: HTTPServer) -> None:
    command = [sys.executable, "-m", "joulemeter", "serve", "--otlp", address(collector), "--period", "100ms"]
    process = subprocess.Popen([*command, "--source", WATTS], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "OTLP" in process.stderr.readline()
    until = time.monotonic() + 20
    while len(collector.taken) < 5 and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    process.stderr.close()
    values = []
    for path, body in collector.taken:  # type: ignore[attr-defined]
        assert path == "/v1/metrics"
        request = ExportMetricsServiceRequest()
        request.ParseFromString(body)
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "joulemeter.energy":
                assert (metric.unit, metric.sum.is_monotonic) == ("J", True)
                values += [(p.time_unix_nano, p.as_double) for p in metric.sum.data_points]
    (first_ns, first_j), (last_ns, last_j) = values[0], values[-1]
    assert (last_j - first_j) / ((last_ns - first_ns) / 1e9) == pytest.approx(50, rel=0.25)


@pytest.mark.parametrize("url", ["localhost", "ftp://x", "http://"])
def test_an_address_of_no_collector_is_one_line(url: str) -> None:
    with pytest.raises(JoulemeterError, match="no address of a collector"):
        otel.endpoint(url, "metrics")
    assert otel.endpoint("http://h:4318/", "traces") == "http://h:4318/v1/traces"
    assert otel.endpoint("http://h/their/path", "traces") == "http://h/their/path"


def test_a_collector_that_takes_nothing_is_said(tmp_path: Path) -> None:
    class Refuses(InMemorySpanExporter):
        def export(self, spans):  # type: ignore[no-untyped-def]
            from opentelemetry.sdk.trace.export import SpanExportResult

            return SpanExportResult.FAILURE

    with pytest.raises(otel._NotTakenError):
        otel.export(sample_run.run(tmp_path), Refuses())
    assert OTLPSpanExporter is not None
    assert json.dumps(otel.energy_attributes(joulemeter.ledger.UNKNOWN, "measured")) == "{}"
