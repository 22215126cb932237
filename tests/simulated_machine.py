"""A machine of known powers for tests: calls on lanes, a counter or a gauge that looks at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from joulemeter import timeline
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans

MS = 1_000_000
S = 1_000_000_000
IDLE_W = 20.0


@dataclass(frozen=True)
class Machine:
    """Spans without nesting, the dynamic watts of each, and the seconds from 0 to ``end_ns``."""

    sites: tuple[Site, ...]
    spans: Spans
    call_w: np.ndarray
    end_ns: int
    idle_w: float = IDLE_W

    @property
    def true_j(self) -> np.ndarray:
        """Joules above idle by site."""
        seconds = (self.spans.end_ns - self.spans.start_ns) / S
        return np.bincount(self.spans.site, weights=seconds * self.call_w, minlength=len(self.sites))

    def energy(self, t_ns: np.ndarray) -> np.ndarray:
        """Gross joules since time 0."""
        times = np.concatenate([self.spans.start_ns, self.spans.end_ns])
        order = np.argsort(times, kind="stable")
        step = np.concatenate([self.call_w, -self.call_w])[order]
        knots = np.concatenate([[-10 * S], times[order], [self.end_ns + 10 * S]])
        watts = self.idle_w + np.concatenate([[0.0], np.cumsum(step)])
        total = np.concatenate([[0.0], np.cumsum(watts * np.diff(knots) / S)])
        return np.interp(t_ns, knots, total) - np.interp(0, knots, total)


def program(
    seed: int,
    watts: list[float],
    mean_ms: list[float],
    *,
    seconds: float = 6.0,
    shuffled: bool = True,
    lanes: int = 1,
    idle_s: float = 1.0,
    variation: float = 0.05,
    rest_ms: float = 0.005,
) -> Machine:
    """Calls of each site one after the other, in order or shuffled, with idle before and after."""
    rng = np.random.default_rng(seed)
    rows = []
    for lane in range(lanes):
        t, mine = int(idle_s * S), np.arange(lane, len(watts), lanes)
        while t < (idle_s + seconds) * S:
            for site in rng.permutation(mine) if shuffled else mine:
                end = t + int(mean_ms[site] * MS * max(0.2, 1 + 0.1 * rng.standard_normal()))
                rows.append((site, lane, t, end, -1))
                t = end + int(rng.exponential(rest_ms * MS))
    table = np.array(rows, np.int64).T
    spans = Spans(table[0].astype(np.int32), table[1].astype(np.int32), table[2], table[3], table[4])
    call_w = np.array(watts)[table[0]] * np.maximum(0.1, 1 + variation * rng.standard_normal(len(rows)))
    sites = tuple(Site(i, f"call{i}") for i in range(len(watts)))
    return Machine(sites, spans, call_w, int(table[3].max() + idle_s * S))


def _reads(end_ns: int, period_ms: float, rng: np.random.Generator) -> np.ndarray:
    on_time = np.arange(0, end_ns, int(period_ms * MS))
    return (on_time + rng.exponential(50_000, len(on_time))).astype(np.int64)


def counter(
    made: Machine,
    seed: int,
    *,
    period_ms: float = 10,
    tick_ms: float = 1.0,
    lag_ms: float = 0.0,
    told: bool = True,
    range_j: float | None = None,
    quantum_j: float = 61e-6,
    **rail: object,
) -> timeline.Timeline:
    """A counter that ticks on its own and is read at another pace, a little late."""
    rng = np.random.default_rng(seed)
    reads = _reads(made.end_ns, period_ms, rng)
    ticked = np.floor(reads / (tick_ms * MS)) * tick_ms * MS if tick_ms else reads
    value = np.floor(made.energy(ticked - lag_ms * MS) / quantum_j) * quantum_j + 3.0
    if range_j is not None:
        value = value % range_j
    keys = {
        "id": 0,
        "name": "package-0",
        "kind": "counter",
        "origin": "simulated",
        "period_ns": int(period_ms * MS),
        "lag_ns": int(lag_ms * MS) if told else None,
        "range_j": range_j,
        **rail,
    }
    return timeline.from_readings(Rail(**keys), reads, value)  # type: ignore[arg-type]


def gauge(
    made: Machine, seed: int, *, period_ms: float = 100, window_ms: float = 100, lag_ms: float = 0.0
) -> timeline.Timeline:
    """A gauge that averages over a window before each sample, known only by its period."""
    rng = np.random.default_rng(seed)
    reads = _reads(made.end_ns, period_ms, rng)
    upto = reads - lag_ms * MS
    watts = (made.energy(upto) - made.energy(upto - window_ms * MS)) / (window_ms / 1e3)
    rail = Rail(
        id=0,
        name="gpu-0",
        kind="gauge",
        origin="simulated",
        period_ns=int(period_ms * MS),
        lag_ns=int(lag_ms * MS),
    )
    return timeline.from_readings(
        rail, reads, np.round(watts * (1 + 0.002 * rng.standard_normal(len(reads))), 3)
    )
