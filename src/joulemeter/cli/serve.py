"""`joulemeter serve`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.live import Watch

ENDS = {signal.SIGINT, signal.SIGTERM}


@click.command()
@click.option(
    "--prometheus",
    "place",
    metavar="[ADDRESS]:PORT",
    help="Where to serve /metrics. Without an address: this machine only. Default: :9464, without --otlp.",
)
@click.option("--otlp", metavar="URL", help="Push to this OpenTelemetry collector (OTLP over HTTP).")
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option("--period", default="1s", show_default=True, metavar="TIME", help="Read the meters this often.")
def command(place: str | None, otlp: str | None, source: str | None, period: str) -> None:
    """Export the energy of this machine to Prometheus or OpenTelemetry, until Ctrl-C.

    \b
      joulemeter serve --prometheus :9464
      curl localhost:9464/metrics
      joulemeter serve --otlp http://localhost:4318
    """
    from joulemeter import sources, units
    from joulemeter.live import Watch

    # Before any thread starts, so that all inherit it: sigwait alone takes the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    step_s = units.parse_seconds(period)
    ends: list[Callable[[], object]] = []
    with Watch(sources.split_specs(source) if source else None, step_s) as watch:
        rails = ", ".join(f"{state.rail.name} ({state.rail.origin})" for state in watch.states())
        if otlp is not None:
            ends.append(_push(watch, otlp, step_s, rails))
        if place is not None or otlp is None:
            ends.append(_serve(watch, place or ":9464", rails))
        signal.sigwait(ENDS)
        for end in ends:
            end()


def _push(watch: Watch, url: str, step_s: float, rails: str) -> Callable[[], object]:
    from joulemeter import otel

    provider = otel.push(watch, url, step_s)
    click.echo(f"Pushing {rails} to {url} by OTLP", err=True)
    return provider.shutdown


def _serve(watch: Watch, place: str, rails: str) -> Callable[[], object]:
    from joulemeter import prometheus
    from joulemeter.errors import UsageError

    address, _, port = place.rpartition(":")
    if not (port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"--prometheus: '{place}' has no port below 65536", "--prometheus :9464")
    server = prometheus.serve(watch, address or "127.0.0.1", int(port))
    click.echo(f"Serving {rails} on http://{address or '127.0.0.1'}:{server.server_port}/metrics", err=True)
    end: Callable[[], object] = server.shutdown
    return end
