"""Simulated machines of known truth: programs whose calls have powers, and meters that look at them.

The energy of a machine is a straight line between events, so a meter's view of it is exact arithmetic;
whatever a real meter does to it (ticks, quanta, late stamps, lag, averaging, part-time sampling) is done
on purpose and drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from joulemeter import timeline
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans
from joulemeter.timeline import Timeline

MS = 1_000_000
S = 1_000_000_000


@dataclass(frozen=True)
class Machine:
    """What ran, and what it truly drew. ``call_w`` (n,) is each span's own dynamic power, exclusive."""

    sites: tuple[Site, ...]
    spans: Spans
    call_w: np.ndarray
    knots_ns: np.ndarray
    """Event times (k,), from the first reading's reach to the last's."""
    energy_j: np.ndarray
    """Gross cumulative joules at the knots (k,)."""
    dynamic_j: np.ndarray
    """Each site's true exclusive energy (s,), net of idle."""
    idle_j: float
    hole_ns: tuple[int, int] | None = None

    def energy(self, t_ns: np.ndarray) -> np.ndarray:
        """Gross joules since the first knot at any time; before it the machine idles."""
        since = t_ns - self.knots_ns[0]
        rest_w = (self.energy_j[1] - self.energy_j[0]) / (self.knots_ns[1] - self.knots_ns[0])
        return np.interp(since, self.knots_ns - self.knots_ns[0], self.energy_j) + rest_w * np.minimum(
            since, 0
        )


def scattered(rng: np.random.Generator, count: int) -> np.ndarray:
    """What calls draw in units of their site's power (n,)."""
    return np.maximum(0.05, 1 + 0.06 * rng.standard_normal(count))


def drifting(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Idle's watts (k,) at parts ``x`` of the run: a trend and a slow wave."""
    idle_w = rng.uniform(10, 50)
    change, wave = rng.uniform(-0.05, 0.05), rng.uniform(0, 0.01)
    turn = 2 * np.pi * (x * rng.uniform(0.3, 1.0) + rng.random())
    return idle_w * (1 + change * x + wave * np.sin(turn))


@dataclass(frozen=True)
class Habits:
    """How calls of one site differ from each other, and how idle goes."""

    calls: Callable[[np.random.Generator, int], np.ndarray] = scattered
    idle: Callable[[np.random.Generator, np.ndarray], np.ndarray] = drifting


@dataclass(frozen=True)
class Read:
    """What a meter showed, and the same with what no meter tells: a counter's stamps are the moments whose energy it
    showed, a gauge's rail states lag and window."""

    timeline: Timeline
    known: Timeline


def machine(
    rng: np.random.Generator,
    rows: list[tuple[int, int, int, int, int]],
    names: list[str],
    powers: np.ndarray,
    end_ns: int,
    habits: Habits | None = None,
) -> Machine:
    """A machine that runs ``rows`` of (site, lane, start, end, parent) with site powers and a drifting idle."""
    habits = habits or Habits()
    site, lane, start, end, parent = (np.array(column) for column in zip(*rows, strict=True))
    call_w = powers[site] * habits.calls(rng, len(site))
    times = np.concatenate([start, end])
    step = np.concatenate([call_w, -call_w])
    nested = parent >= 0
    # While a child runs on its parent's lane, the parent rests.
    times = np.concatenate([times, start[nested], end[nested]])
    step = np.concatenate([step, -call_w[parent[nested]], call_w[parent[nested]]])
    order = np.argsort(times, kind="stable")
    drift = np.arange(0, end_ns + 20 * MS, 20 * MS)
    knots = np.unique(np.concatenate([times, drift]))
    level = np.concatenate([[0.0], np.cumsum(step[order])])
    dynamic_w = level[np.searchsorted(times[order], knots[:-1], side="right")]
    power = habits.idle(rng, knots / end_ns)
    idle_steps = (power[1:] + power[:-1]) / 2 * np.diff(knots) / S
    energy = np.concatenate([[0.0], np.cumsum(idle_steps + dynamic_w * np.diff(knots) / S)])
    own = (end - start).astype(float)
    np.subtract.at(own, parent[nested], (end - start)[nested])
    dynamic = np.bincount(site, weights=own / S * call_w, minlength=len(names))
    sites = tuple(Site(i, name, "call", "train.py", 10 + i) for i, name in enumerate(names))
    spans = Spans(
        site.astype(np.int32),
        lane.astype(np.int32),
        start.astype(np.int64),
        end.astype(np.int64),
        parent.astype(np.int64),
    )
    return Machine(sites, spans, call_w, knots, energy, dynamic, float(idle_steps.sum()))


# Programs -------------------------------------------------------------------------------------------


def _powers(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.permutation(np.linspace(15, 120, count)) * rng.uniform(0.9, 1.1, count)


def _durations(
    rng: np.random.Generator, count: int, low_s: float = 0.3e-3, high_s: float = 20e-3
) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low_s), np.log(high_s), count)) * S


def loop(rng: np.random.Generator, duration_s: float, shuffled: bool = False) -> Machine:
    """A training loop: the same calls every step, in fixed or random order, back to back with small gaps."""
    count = int(rng.integers(3, 16))
    powers, mean_ns = _powers(rng, count), _durations(rng, count)
    before = int(rng.uniform(1.0, 2.0) * S)
    t, rows, stop = before, [], before + int(duration_s * S)
    while t < stop:
        for site in rng.permutation(count) if shuffled else range(count):
            t += int(rng.exponential(10_000))
            end = t + max(1_000, int(mean_ns[site] * (1 + 0.05 * rng.standard_normal())))
            rows.append((int(site), 0, t, end, -1))
            t = end
    return machine(rng, rows, [f"call{i}" for i in range(count)], powers, t + int(rng.uniform(1, 2) * S))


def nested(rng: np.random.Generator, duration_s: float) -> Machine:
    """Modules that call operators, three deep; each draws its own power between the calls that it makes."""
    outer, inner = 4, 6
    powers, part_ns = _powers(rng, outer + inner), _durations(rng, outer + inner, 0.3e-3, 5e-3)
    before = int(rng.uniform(1.0, 2.0) * S)
    t, rows, stop = before, [], before + int(duration_s * S)
    while t < stop:
        for module in range(outer):
            own, start = len(rows), t
            rows.append((module, 0, start, 0, -1))
            for _ in range(int(rng.integers(1, 4))):
                t += int(part_ns[module] * rng.uniform(0.7, 1.3))
                operator = outer + int(rng.integers(0, inner))
                end = t + int(part_ns[operator] * rng.uniform(0.8, 1.2))
                rows.append((operator, 0, t, end, own))
                t = end
            t += int(part_ns[module] * rng.uniform(0.7, 1.3))
            rows[own] = (module, 0, start, t, -1)
            t += int(rng.exponential(10_000))
    names = [f"module{i}" for i in range(outer)] + [f"op{i}" for i in range(inner)]
    return machine(rng, rows, names, powers, t + int(rng.uniform(1, 2) * S))


def phases(rng: np.random.Generator, duration_s: float) -> Machine:
    """Phases of seconds: load, train, evaluate, save; each a few times."""
    count = int(rng.integers(3, 6))
    powers = _powers(rng, count)
    mean_ns = rng.uniform(3.2, 6.0, count) * S
    before = int(rng.uniform(3.0, 4.0) * S)
    t, rows, stop = before, [], before + int(2 * duration_s * S)
    while t < stop:
        for site in range(count):
            end = t + int(mean_ns[site] * rng.uniform(0.95, 1.2))
            rows.append((site, 0, t, end, -1))
            t = end + int(rng.exponential(1e5))
    return machine(rng, rows, [f"phase{i}" for i in range(count)], powers, t + int(rng.uniform(3, 4) * S))


def threads(rng: np.random.Generator, duration_s: float) -> Machine:
    """Two threads, each with calls of its own, now and then waiting for each other."""
    count = 8
    powers, mean_ns = _powers(rng, count), _durations(rng, count, 0.5e-3, 15e-3)
    before = int(rng.uniform(1.0, 2.0) * S)
    rows, stop = [], before + int(duration_s * S)
    for lane in (0, 1):
        t = before
        while t < stop:
            site = lane * count // 2 + int(rng.integers(0, count // 2))
            end = t + max(1_000, int(mean_ns[site] * (1 + 0.1 * rng.standard_normal())))
            rows.append((site, lane, t, end, -1))
            t = end + int(rng.exponential(2e6 if rng.random() < 0.1 else 2e4))
    return machine(rng, rows, [f"call{i}" for i in range(count)], powers, stop + int(rng.uniform(1, 2) * S))


def twins(rng: np.random.Generator, duration_s: float) -> Machine:
    """Random calls, two of which always run back to back, too short for any meter to part them."""
    count = 6
    powers, mean_ns = _powers(rng, count), _durations(rng, count, 1e-3, 15e-3)
    mean_ns[:2] = rng.uniform(0.03e-3, 0.08e-3) * S
    before = int(rng.uniform(1.0, 2.0) * S)
    t, rows, stop = before, [], before + int(duration_s * S)
    while t < stop:
        site = int(rng.integers(1, count))
        for each in [0, 1] * 40 if site == 1 else [site]:
            end = t + max(1_000, int(mean_ns[each] * (1 + 0.02 * rng.standard_normal())))
            rows.append((each, 0, t, end, -1))
            t = end
        t += int(rng.exponential(10_000))
    return machine(
        rng,
        rows,
        ["twin0", "twin1"] + [f"call{i}" for i in range(2, count)],
        powers,
        t + int(rng.uniform(1, 2) * S),
    )


def holed(rng: np.random.Generator, duration_s: float) -> Machine:
    """A shuffled loop during which the meter says nothing for a while."""
    made = loop(rng, duration_s, shuffled=True)
    middle = made.knots_ns[-1] * rng.uniform(0.35, 0.6)
    return replace(made, hole_ns=(int(middle), int(middle + rng.uniform(0.5, 2.0) * S)))


PROGRAMS: dict[str, Callable[[np.random.Generator, float], Machine]] = {
    "loop, fixed order": loop,
    "loop, random order": lambda rng, duration_s: loop(rng, duration_s, shuffled=True),
    "nested calls": nested,
    "phases of seconds": phases,
    "two threads": threads,
    "twins back to back": twins,
    "hole in the readings": holed,
    "counter wrap": lambda rng, duration_s: loop(rng, duration_s, shuffled=True),
}


# Meters ---------------------------------------------------------------------------------------------


def _reads(rng: np.random.Generator, made: Machine, period_ns: float) -> np.ndarray:
    """When a reader wakes up: its period, late by a little always and by much now and then."""
    count = int(made.knots_ns[-1] / period_ns)
    late = rng.exponential(60_000, count) + np.where(
        rng.random(count) < 0.005, rng.exponential(2e6, count), 0
    )
    t = np.maximum.accumulate((np.arange(count) + rng.random()) * period_ns + late).astype(np.int64)
    t = t[np.append(True, np.diff(t) > 1_000)]
    t = t[t < made.knots_ns[-1]]
    if made.hole_ns is not None:
        t = t[(t < made.hole_ns[0]) | (t > made.hole_ns[1])]
    return t


def counter(
    rng: np.random.Generator,
    made: Machine,
    *,
    period_ns: float,
    tick_ns: float,
    lag_ns: float,
    quantum_j: float,
    range_j: float | None,
    told: bool = True,
    tick_jitter: float = 0.02,
    reads: Callable[[np.random.Generator, Machine, float], np.ndarray] | None = None,
) -> Read:
    """A counter that advances at its own ticks and is read at another pace."""
    ticks = (
        np.zeros(1)
        if tick_ns <= 0
        else np.cumsum(
            tick_ns * (1 + tick_jitter * rng.standard_normal(int(made.knots_ns[-1] / tick_ns) + 2))
        )
        - tick_ns * rng.random()
    )
    read = (reads or _reads)(rng, made, period_ns)
    tick = ticks[np.maximum(np.searchsorted(ticks, read, side="right") - 1, 0)] if tick_ns > 0 else read
    value = np.floor(made.energy(tick - lag_ns) / quantum_j) * quantum_j
    # It has counted since long before.
    value -= min(float(value.min(initial=0.0)), 0.0)
    if range_j is not None:
        value = (value + range_j * rng.random()) % range_j
    stamp = read + rng.integers(1_000, 8_000, len(read))
    rail = Rail(
        id=0,
        name="rail",
        kind="counter",
        origin="simulated",
        period_ns=int(period_ns),
        lag_ns=int(lag_ns) if told else None,
        range_j=range_j,
    )
    shown = timeline.from_readings(rail, stamp, value)
    return Read(shown, _at_moments(shown, (tick - lag_ns).astype(np.int64)))


def _at_moments(shown: Timeline, moment_ns: np.ndarray) -> Timeline:
    """A counter's readings with the moments that they showed for stamps; of the same moment's the first."""
    kept = np.flatnonzero(np.append(True, np.diff(moment_ns) > 0))
    broken = np.concatenate([[0], np.cumsum(shown.unknown)])
    rail = replace(shown.rail, lag_ns=0)
    unknown = np.diff(broken[kept]) > 0
    return replace(shown, rail=rail, t_ns=moment_ns[kept], energy_j=shown.energy_j[kept], unknown=unknown)


def gauge(
    rng: np.random.Generator,
    made: Machine,
    *,
    period_ns: float,
    window_ns: float,
    lag_ns: float,
    quantum_w: float,
    noise: float,
    told: bool = True,
    reads: Callable[[np.random.Generator, Machine, float], np.ndarray] | None = None,
) -> Read:
    """A gauge that averages over a window of its own before each sample."""
    read = (reads or _reads)(rng, made, period_ns)
    upto = read - lag_ns
    watts = (made.energy(upto) - made.energy(upto - window_ns)) / (window_ns / S)
    watts = np.round(watts * (1 + noise * rng.standard_normal(len(read))) / quantum_w) * quantum_w
    rail = Rail(
        id=0,
        name="rail",
        kind="gauge",
        origin="simulated",
        period_ns=int(period_ns),
        lag_ns=int(lag_ns) if told else None,
    )
    shown = timeline.from_readings(rail, read, watts)
    return Read(shown, replace(shown, rail=replace(rail, lag_ns=int(lag_ns), window_ns=int(window_ns))))


def _rapl(period_ms: float) -> Callable[[np.random.Generator, Machine], Read]:
    def read(rng: np.random.Generator, made: Machine) -> Read:
        wrap = made.energy_j[-1] * rng.uniform(0.2, 0.6)
        return counter(
            rng,
            made,
            period_ns=period_ms * MS,
            tick_ns=rng.uniform(0.97, 1.01) * MS,
            lag_ns=0.0,
            quantum_j=float(rng.choice([15.3e-6, 61e-6])),
            range_j=float(max(wrap, 50.0)),
        )

    return read


GPU_TICKS = (0.5, 0.25, 0.25)


def _gpu_counter(rng: np.random.Generator, made: Machine) -> Read:
    # Some ticks are when the counter is asked, some every 5 ms, some at the pace of the reads.
    tick_ns = float(rng.choice([0, 5, 20 * rng.uniform(0.99, 1.01)], p=GPU_TICKS)) * MS
    return counter(
        rng,
        made,
        period_ns=20 * MS,
        tick_ns=tick_ns,
        lag_ns=rng.uniform(0, 300) * MS,
        quantum_j=1e-3,
        range_j=None,
        told=bool(rng.random() < 0.5),
    )


def _averaged(rng: np.random.Generator, made: Machine) -> Read:
    return gauge(
        rng,
        made,
        period_ns=100 * MS,
        window_ns=100 * MS,
        lag_ns=rng.uniform(0, 100) * MS,
        quantum_w=0.001,
        noise=0.003,
        told=bool(rng.random() < 0.5),
    )


def _part_time(rng: np.random.Generator, made: Machine) -> Read:
    return gauge(
        rng,
        made,
        period_ns=100 * MS,
        window_ns=25 * MS,
        lag_ns=rng.uniform(0, 50) * MS,
        quantum_w=0.001,
        noise=0.003,
        told=bool(rng.random() < 0.5),
    )


def _wall(rng: np.random.Generator, made: Machine) -> Read:
    return gauge(
        rng,
        made,
        period_ns=1_000 * MS,
        window_ns=1_000 * MS,
        lag_ns=rng.uniform(0, 300) * MS,
        quantum_w=0.1,
        noise=0.003,
        told=bool(rng.random() < 0.5),
    )


METERS: dict[str, Callable[[np.random.Generator, Machine], Read]] = {
    "RAPL at 10 ms": _rapl(10),
    "RAPL at 1 ms": _rapl(1),
    "GPU counter 20 ms": _gpu_counter,
    "GPU gauge 100 ms": _averaged,
    "GPU gauge 25 %": _part_time,
    "wall meter 1 s": _wall,
}
