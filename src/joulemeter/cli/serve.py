"""`joulemeter serve`."""

from __future__ import annotations

import signal

import click

ENDS = {signal.SIGINT, signal.SIGTERM}


@click.command()
@click.option(
    "--prometheus",
    "place",
    default=":9464",
    show_default=True,
    metavar="[ADDRESS]:PORT",
    help="Where to serve /metrics. Without an address: this machine only.",
)
@click.option(
    "--source", metavar="NAME,…", help="Meters to read. Default: all that answer, else the estimate."
)
@click.option("--period", default="1s", show_default=True, metavar="TIME", help="Read the meters this often.")
def command(place: str, source: str | None, period: str) -> None:
    """Export the energy of this machine to Prometheus, until Ctrl-C.

    \b
      joulemeter serve --prometheus :9464
      curl localhost:9464/metrics
    """
    from joulemeter import prometheus, sources, units
    from joulemeter.errors import UsageError
    from joulemeter.live import Watch

    # Before any thread starts, so that all inherit it: sigwait alone takes the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    address, _, port = place.rpartition(":")
    if not port.isdigit():
        raise UsageError(f"--prometheus: '{place}' has no port", "--prometheus :9464")
    with Watch(sources.split_specs(source) if source else None, units.parse_seconds(period)) as watch:
        server = prometheus.serve(watch, address or "127.0.0.1", int(port))
        rails = ", ".join(f"{state.rail.name} ({state.rail.origin})" for state in watch.states())
        click.echo(
            f"Serving {rails} on http://{address or '127.0.0.1'}:{server.server_port}/metrics", err=True
        )
        signal.sigwait(ENDS)
        server.shutdown()
