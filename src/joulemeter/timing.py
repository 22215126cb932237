"""How long a call takes, on a machine that is not quite quiet.

Two ways. ``repeat`` takes one call again and again: right for whole networks, and for meters that must see
one thing for a while. ``in_turn`` takes many calls in rounds, because a kernel in a loop of its own is not a
kernel in a network: there its code, its weights and its result's memory were last used one pass ago, and its
input has just been written by another kernel. In rounds all of this holds. On a server's CPU small kernels
take twice as long in a network as in a loop; in rounds they take what they take in the network.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Clock = Callable[[], float]
Call = Callable[[], Any]

WINDOW_S = 0.15
"""How long one call is repeated where its energy is not read off a slow meter."""
DISTURBED = 0.06
"""The share of the machine's time that others may take before a round is repeated: a process's own kernel
threads alone make three per cent."""
CROWDED = 0.2
"""The share from which on a time says more about the others than about the call."""
_BATCH_S = 0.004
_FEWEST_BATCHES = 9
_FEWEST_QUIET = 5
_FEWEST_ROUNDS = 9
_MOST_ROUNDS = 80


@dataclass(frozen=True, slots=True)
class Timed:
    """A call's time with its 95 % interval, and the stretch of ``monotonic_ns`` in which it was repeated.

    ``taken`` is the share of the machine's time that others took meanwhile (NaN: the system does not say).
    """

    time_s: float
    low_s: float
    high_s: float
    start_ns: int
    end_ns: int
    calls: int
    taken: float = math.nan


@dataclass(frozen=True, slots=True)
class Staged:
    """A call, and ``produce``, which writes its inputs anew as the kernel before it would."""

    call: Call
    produce: Call


# ── many calls in turn ───────────────────────────────────────────────────────────────────────────────


def in_turn(staged: Sequence[Staged], window_s: float, clock: Clock = time.perf_counter) -> list[Timed]:
    """The median time of each call over rounds of all of them, until ``window_s`` are over.

    At least nine rounds are taken and at most eighty; the first two warm up and do not count.
    """
    for _ in range(2):
        _round(staged, clock)
    rows: list[list[float]] = []
    busy, start_ns, end = Busy.now(), time.monotonic_ns(), clock() + window_s
    gc.disable()
    try:
        while len(rows) < _FEWEST_ROUNDS or (clock() < end and len(rows) < _MOST_ROUNDS):
            rows.append(_round(staged, clock))
    finally:
        gc.enable()
    taken, end_ns = busy.taken(), time.monotonic_ns()
    return [
        Timed(middle, low, high, start_ns, end_ns, len(rows), taken)
        for low, middle, high in (median(column) for column in np.array(rows).T)
    ]


def mean(several: Sequence[Timed]) -> Timed:
    """One time of the same call from several: the mean, and the interval as wide as they are on average; the
    stretch from the first to the last."""
    n = len(several)
    time_s, low_s, high_s = (
        math.fsum(getattr(each, name) for each in several) / n for name in ("time_s", "low_s", "high_s")
    )
    return Timed(
        time_s, low_s, high_s, min(each.start_ns for each in several), max(each.end_ns for each in several),
        sum(each.calls for each in several), float(np.mean([each.taken for each in several])),
    )  # fmt: skip


def _round(staged: Sequence[Staged], clock: Clock) -> list[float]:
    taken = []
    for each in staged:
        each.produce()
        start = clock()
        each.call()
        taken.append(clock() - start)
    return taken


@dataclass(frozen=True, slots=True)
class Busy:
    """What all CPUs and this process have worked until now, in seconds; NaN where the system does not say."""

    machine_s: float
    all_s: float
    own_s: float

    @staticmethod
    def now(stat: Path = Path("/proc/stat")) -> Busy:
        """The counters as they stand; stolen time (the hypervisor's) counts as others' work."""
        try:
            numbers = [int(each) for each in stat.read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return Busy(math.nan, math.nan, time.process_time())
        tick = os.sysconf("SC_CLK_TCK")
        idle = sum(numbers[3:5])
        return Busy((sum(numbers) - idle) / tick, sum(numbers) / tick, time.process_time())

    def taken(self, now: Busy | None = None) -> float:
        """The share of the machine's time since then that others took, 0 to 1."""
        now = now or Busy.now()
        passed = now.all_s - self.all_s
        others = (now.machine_s - self.machine_s) - (now.own_s - self.own_s)
        return max(0.0, others / passed) if passed > 0 else math.nan


# ── one call by itself ───────────────────────────────────────────────────────────────────────────────


def repeat(
    call: Call, window_s: float = WINDOW_S, limit_s: float = 2.0, clock: Clock = time.perf_counter
) -> Timed:
    """``call`` warmed up and repeated in batches for ``window_s``; the median batch, and its interval.

    The interval is that of the median by its order statistics, which needs no shape of the scatter
    (David and Nagaraja, Order Statistics, 7.1). Batches in which the system took a CPU away from this process
    are left out where enough others remain: what is timed is the call, not its neighbours. A call longer than
    ``limit_s`` is taken twice.
    """
    first = _seconds(call, 1, clock)
    once = min(first, _seconds(call, 1, clock))
    while once * 50 < _BATCH_S and first > 3 * once:  # still warming up
        first, once = once, _seconds(call, 3, clock) / 3
    times = max(1, round(_BATCH_S / max(once, 1e-7)))
    _seconds(call, times, clock)
    batches: list[float] = []
    disturbed: list[bool] = []
    calls = 0
    busy, start_ns = Busy.now(), time.monotonic_ns()
    end = clock() + window_s
    most = clock() + max(limit_s, window_s)
    while True:
        before = _preempted()
        batches.append(_seconds(call, times, clock) / times)
        disturbed.append(_preempted() > before)
        calls += times
        now = clock()
        if (now > end and len(batches) >= _FEWEST_BATCHES) or (now > most and len(batches) >= 2):
            break
    quiet = [each for each, pushed in zip(batches, disturbed, strict=True) if not pushed]
    low, middle, high = median(quiet if len(quiet) >= _FEWEST_QUIET else batches)
    return Timed(middle, low, high, start_ns, time.monotonic_ns(), calls, busy.taken())


def _seconds(call: Call, times: int, clock: Clock) -> float:
    start = clock()
    for _ in range(times):
        call()
    _synchronize()
    return clock() - start


def _preempted() -> int:
    """How often a thread of this process has lost its CPU against its will."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _synchronize() -> None:
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """The median with its 95 % interval, low, middle, high: the order statistics n/2 ∓ 0.98 √n."""
    ordered = np.sort(values)
    n = len(ordered)
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return float(ordered[low]), float(np.median(ordered)), float(ordered[high])
