"""A second house of simulated machines, with other habits than ``machines.py``: the estimator was not made on these.

Powers scatter by a factor of ten and more, calls by a third in length and a tenth in power with heavy tails, work comes
in bursts, idle walks at random and steps once; readers lose readings; meters round coarsely and say little of
themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import machines
from machines import MS, Habits, Machine, Read, S


def _calls(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.maximum(0.2, 1 + 0.06 * rng.standard_t(4, count))


def _idle(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """A random walk of about 1 % over the run, and one step of up to 2 %."""
    steps = np.diff(x, prepend=x[0])
    walk = np.cumsum(0.01 * np.sqrt(np.maximum(steps, 0)) * rng.standard_normal(len(x)))
    return rng.uniform(5, 90) * (1 + walk + rng.uniform(-0.02, 0.02) * (x > rng.uniform(0.3, 0.7)))


HABITS = Habits(_calls, _idle)


def _powers(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.clip(40 * np.exp(0.8 * rng.standard_normal(count)), 5, 250)


def _lengths(rng: np.random.Generator, count: int, median_ms: float) -> np.ndarray:
    return np.clip(median_ms * np.exp(0.8 * rng.standard_normal(count)), 0.3, 30) * MS


def _length(rng: np.random.Generator, mean_ns: float) -> int:
    return max(20_000, int(mean_ns * np.exp(0.3 * rng.standard_normal())))


def _ends(rng: np.random.Generator, t: int) -> int:
    return t + int(rng.uniform(1.5, 3) * S)


def fixed(rng: np.random.Generator, duration_s: float) -> Machine:
    """A fixed sequence over and over, some of its sites twice a round, a pause after each."""
    count = int(rng.integers(4, 9))
    mean_ns, order = _lengths(rng, count, 4), np.append(np.arange(count), rng.integers(0, count, 2))
    t, rows = int(rng.uniform(1.5, 3) * S), []
    stop = t + int(duration_s * S)
    while t < stop:
        for site in order:
            end = t + _length(rng, mean_ns[site])
            rows.append((int(site), 0, t, end, -1))
            t = end + int(rng.exponential(30_000))
        t += int(rng.exponential(500_000))
    names = [f"call{i}" for i in range(count)]
    return machines.machine(rng, rows, names, _powers(rng, count), _ends(rng, t), HABITS)


def bursts(rng: np.random.Generator, duration_s: float) -> Machine:
    """Requests that come at random: each a few calls of a kind, with pauses between."""
    count = int(rng.integers(5, 11))
    mean_ns = _lengths(rng, count, 5)
    t, rows = int(rng.uniform(1.5, 3) * S), []
    stop = t + int(duration_s * S)
    while t < stop:
        for site in rng.choice(count, int(rng.integers(2, 30))):
            end = t + _length(rng, mean_ns[site])
            rows.append((int(site), 0, t, end, -1))
            t = end + int(rng.exponential(15_000))
        t += int(rng.exponential(40e6))
    names = [f"call{i}" for i in range(count)]
    return machines.machine(rng, rows, names, _powers(rng, count), _ends(rng, t), HABITS)


def trees(rng: np.random.Generator, duration_s: float) -> Machine:
    """A recursive descent: a call does some work, calls one or two others, and does some more."""
    count = 7
    mean_ns = _lengths(rng, count, 2)
    t, rows = int(rng.uniform(1.5, 3) * S), []
    stop = t + int(duration_s * S)

    def call(site: int, above: int, t: int) -> int:
        own, start = len(rows), t
        rows.append((site, 0, start, 0, above))
        t += _length(rng, mean_ns[site] / 2)
        for below in rng.choice(np.arange(site + 1, count), min(2, count - 1 - site), replace=False):
            if rng.random() < 0.7:
                t = call(int(below), own, t)
        t += _length(rng, mean_ns[site] / 2)
        rows[own] = (site, 0, start, t, above)
        return t

    while t < stop:
        t = call(int(rng.integers(0, 3)), -1, t) + int(rng.exponential(20_000))
    names = [f"node{i}" for i in range(count)]
    return machines.machine(rng, rows, names, _powers(rng, count), _ends(rng, t), HABITS)


def pipeline(rng: np.random.Generator, duration_s: float) -> Machine:
    """A loader on one lane and a trainer on another, each waiting for the other at times."""
    mean_ns = _lengths(rng, 6, 6)
    rows, begin = [], int(rng.uniform(1.5, 3) * S)
    stop = begin + int(duration_s * S)
    for lane in (0, 1):
        t = begin
        while t < stop:
            site = 3 * lane + int(rng.choice(3, p=[0.5, 0.3, 0.2]))
            end = t + _length(rng, mean_ns[site])
            rows.append((site, lane, t, end, -1))
            t = end + int(rng.exponential(6e6 if rng.random() < 0.2 else 3e4))
    names = [f"call{i}" for i in range(6)]
    return machines.machine(rng, rows, names, _powers(rng, 6), _ends(rng, stop), HABITS)


def stages(rng: np.random.Generator, duration_s: float) -> Machine:
    """Stages of four to nine seconds, in random order, with pauses of a second now and then."""
    count = int(rng.integers(3, 6))
    t, rows = int(rng.uniform(3, 5) * S), []
    stop = t + int(2 * duration_s * S)
    while t < stop or len({row[0] for row in rows}) < count:
        site = int(rng.integers(0, count))
        end = t + int(rng.uniform(4, 9) * S)
        rows.append((site, 0, t, end, -1))
        t = end + (int(rng.uniform(2.5, 4) * S) if rng.random() < 0.3 else 50_000)
    names = [f"stage{i}" for i in range(count)]
    return machines.machine(rng, rows, names, _powers(rng, count), t + 4 * S, HABITS)


PROGRAMS: dict[str, Callable[[np.random.Generator, float], Machine]] = {
    "fixed sequence": fixed,
    "bursts of requests": bursts,
    "recursive calls": trees,
    "loader and trainer": pipeline,
    "stages of seconds": stages,
}


def _reads(rng: np.random.Generator, made: Machine, period_ns: float) -> np.ndarray:
    """Sleeps of a period after each read: late by a tenth of a millisecond, and one in a hundred is lost."""
    count = int(made.knots_ns[-1] / period_ns)
    t = np.cumsum(period_ns + rng.gamma(2.0, 50_000, count)).astype(np.int64)
    return t[(t < made.knots_ns[-1]) & (rng.random(count) > 0.01)]


def _rapl(period_ms: float) -> Callable[[np.random.Generator, Machine], Read]:
    def read(rng: np.random.Generator, made: Machine) -> Read:
        tick_ns = rng.choice([0.976, 1.0, 1.024]) * MS
        return machines.counter(
            rng,
            made,
            period_ns=period_ms * MS,
            tick_ns=tick_ns,
            lag_ns=0.0,
            quantum_j=6.1e-5,
            range_j=None,
            tick_jitter=0.003,
            reads=_reads,
        )

    return read


def _counter(rng: np.random.Generator, made: Machine) -> Read:
    return machines.counter(
        rng,
        made,
        period_ns=20 * MS,
        tick_ns=float(rng.choice([0, 10])) * MS,
        lag_ns=rng.uniform(0, 150) * MS,
        quantum_j=1e-3,
        range_j=None,
        told=False,
        tick_jitter=0.005,
        reads=_reads,
    )


def _slow_counter(rng: np.random.Generator, made: Machine) -> Read:
    # Some energy counters of GPUs are refreshed every 20 to 100 ms, and are read more often than that.
    return machines.counter(
        rng,
        made,
        period_ns=20 * MS,
        tick_ns=rng.uniform(25, 110) * MS,
        lag_ns=rng.uniform(0, 150) * MS,
        quantum_j=1e-3,
        range_j=None,
        told=bool(rng.random() < 0.5),
        tick_jitter=0.01,
        reads=_reads,
    )


def _counted(rng: np.random.Generator, made: Machine) -> Read:
    # Some boards and nodes count whole joules, or more at a time.
    return machines.counter(
        rng,
        made,
        period_ns=20 * MS,
        tick_ns=0,
        lag_ns=rng.uniform(0, 50) * MS,
        quantum_j=float(rng.choice([0.25, 1.0, 3.6])),
        range_j=None,
        told=bool(rng.random() < 0.5),
        reads=_reads,
    )


def _gauge(
    period_ms: float, window_ms: float, quantum_w: float
) -> Callable[[np.random.Generator, Machine], Read]:
    def read(rng: np.random.Generator, made: Machine) -> Read:
        return machines.gauge(
            rng,
            made,
            period_ns=period_ms * MS,
            window_ns=window_ms * MS,
            lag_ns=rng.uniform(0, 0.5) * period_ms * MS,
            quantum_w=quantum_w,
            noise=0.005,
            told=bool(rng.random() < 0.5),
            reads=_reads,
        )

    return read


METERS: dict[str, Callable[[np.random.Generator, Machine], Read]] = {
    "RAPL at 10 ms": _rapl(10),
    "RAPL at 2 ms": _rapl(2),
    "GPU counter 20 ms": _counter,
    "slow counter, 20 ms": _slow_counter,
    "counts joules, 20 ms": _counted,
    "gauge 100 ms, 0.1 W": _gauge(100, 100, 0.1),
    "gauge 50 of 100 ms": _gauge(100, 50, 0.1),
    "plug 1 s, 0.1 W": _gauge(1000, 1000, 0.1),
}
