"""The rails of a watch as Prometheus metrics (needs the extra ``prometheus``)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from joulemeter.errors import UsageError
from joulemeter.live import Watch

LABELS = ("rail", "source", "origin", "inside")


class Rails(Collector):
    """Collects the states of a watch. Base units and the suffixes of the Prometheus naming rules
    (https://prometheus.io/docs/practices/naming/): joules, watts, seconds; counters end in ``_total``."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Any]:
        """One family a quantity, one sample a rail; a power nobody knows is left out, not zero."""
        states = self._watch.states()
        names = {(state.rail.source, state.rail.id): state.rail.name for state in states}
        energy = CounterMetricFamily(
            "joulemeter_energy_joules", "Energy seen since the start, gaps left out.", labels=LABELS
        )
        unseen = CounterMetricFamily(
            "joulemeter_unseen_seconds", "Time whose energy no reading covers.", labels=LABELS
        )
        failed = CounterMetricFamily(
            "joulemeter_failed_reads", "Readings that did not answer.", labels=LABELS
        )
        power = GaugeMetricFamily(
            "joulemeter_power_watts", "Mean power between the last two readings.", labels=LABELS
        )
        for state in states:
            rail = state.rail
            inside = "" if rail.inside is None else names[rail.source, rail.inside]
            labels = (rail.name, rail.source, rail.origin, inside)
            energy.add_metric(labels, state.energy_j)
            unseen.add_metric(labels, state.unseen_s)
            failed.add_metric(labels, state.failed)
            if not math.isnan(state.power_w):
                power.add_metric(labels, state.power_w)
        yield from (energy, unseen, failed, power)


def serve(watch: Watch, address: str, port: int) -> Any:
    """Serves ``/metrics`` on a thread; returns the server (``shutdown`` ends it).

    Raises UsageError where the port is taken or may not be had.
    """
    registry = CollectorRegistry()
    registry.register(Rails(watch))
    try:
        server, _ = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise UsageError(
            f"{address}:{port}: cannot be served on ({error.strerror})", "another --port"
        ) from None
    return server
