"""A machine of known power, for tests and for trying things where no meter is.

``simulated:load=cpu,idle=20,busy=100`` draws 20 W at rest and 100 W when every core works, by the CPU time
of the process tree it is opened from: its counters move with what really ran. Other loads need no work:

    load=constant   ``busy`` watts throughout
    load=step       ``idle`` watts, then ``busy`` from ``at`` (1s) after opening
    load=burst      ``busy`` and ``idle`` by turns of ``each`` (100ms)

Further keys: ``packages=1`` (the load is shared evenly), ``dram=0`` (watts of a further rail, constant),
``period=1ms`` (the counter moves in steps), ``range=262144`` (joules at which it wraps; 0: never),
``start=0`` (joules it shows at first), ``kind=counter`` or ``gauge`` (watts, mean of each period).

Faults, to see how they are dealt with: ``fail=11`` (each eleventh read does not answer), and, so long after
opening, ``freeze=2s`` (the counter stands still), ``vanish=2s`` (no read answers), ``back=2s`` (the counter
starts again at zero).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from joulemeter.errors import JoulemeterError, UsageError
from joulemeter.reading import Kind, Rail, Reading
from joulemeter.units import parse_seconds

_WORDS = ("load", "kind")
_COUNTS = ("packages", "fail")
_SECONDS = ("at", "each", "period", "freeze", "vanish", "back")

Clock = Callable[[], int]
"""Nanoseconds, as ``time.monotonic_ns``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The figures of a simulated machine: watts, seconds and joules; faults are off at infinity or zero."""

    load: str = "cpu"
    kind: Kind = "counter"
    idle: float = 20.0
    busy: float = 100.0
    dram: float = 0.0
    packages: int = 1
    at: float = 1.0
    each: float = 0.1
    period: float = 0.001
    range: float = 262_144.0
    start: float = 0.0
    fail: int = 0
    freeze: float = math.inf
    vanish: float = math.inf
    back: float = math.inf

    def energy_j(self, elapsed_s: float, cpu_s: float = 0.0) -> float:
        """Joules of all packages together since opening: the truth, before any meter has seen it."""
        rise_w = self.busy - self.idle
        return self.idle * elapsed_s + rise_w * self._busy_time_s(elapsed_s, cpu_s)

    def _busy_time_s(self, elapsed_s: float, cpu_s: float) -> float:
        if self.load == "constant":
            return elapsed_s
        if self.load == "step":
            return max(0.0, elapsed_s - self.at)
        if self.load == "burst":
            turns, rest_s = divmod(elapsed_s, 2 * self.each)
            return turns * self.each + min(rest_s, self.each)
        return cpu_s / (os.cpu_count() or 1)


def open(argument: str = "") -> Simulated:
    """A simulated machine with the figures of ``argument``; raises UsageError for one it does not know."""
    return Simulated(_machine(argument), argument)


def _machine(argument: str) -> Machine:
    known = sorted(field.name for field in fields(Machine))
    words = [word.partition("=") for word in argument.split(",") if word]
    for key, _, _ in words:
        if key not in known:
            raise UsageError(f"simulated: there is no figure '{key}'", f"one of {', '.join(known)}")
    machine = Machine(**{key: _value(key, text) for key, _, text in words})  # type: ignore[arg-type]
    if machine.load not in ("cpu", "constant", "step", "burst") or machine.kind not in ("counter", "gauge"):
        raise UsageError(
            f"simulated: load '{machine.load}' of kind '{machine.kind}' is none it knows",
            "load=cpu, constant, step or burst; kind=counter or gauge",
        )
    if min(machine.period, machine.each, machine.packages) <= 0:
        raise UsageError(
            "simulated: period, each or packages is not above zero", "period=1ms, each=1s or packages=1"
        )
    return machine


def _value(key: str, text: str) -> str | int | float:
    if key in _WORDS:
        return text
    try:
        if key in _COUNTS:
            return int(text)
        return parse_seconds(text) if key in _SECONDS else float(text)
    except (ValueError, JoulemeterError) as error:
        raise UsageError(f"simulated: '{key}={text}' is not a figure", f"{key}=<number>") from error


class Simulated:
    """A rail for each package, and one for memory where it draws anything. ``clock`` is told the time."""

    def __init__(self, machine: Machine, argument: str = "", clock: Clock = time.monotonic_ns) -> None:
        self.machine = machine
        self._argument = argument
        self._clock = clock
        self._root_pid = os.getppid()
        self._opened_ns = clock()
        self._cpu_at_open_s = self._cpu_s()
        self._reads = 0
        self._shown: list[float] = []
        self._lost: list[float] = []
        self._before = (0.0, self._joules(0.0))
        self.rails = tuple(self._rail(number, name) for number, name in enumerate(self._names()))

    def _names(self) -> list[str]:
        packages = [f"package-{number}" for number in range(self.machine.packages)]
        return [*packages, "dram"] if self.machine.dram else packages

    def _rail(self, number: int, name: str) -> Rail:
        counter = self.machine.kind == "counter"
        period_ns = round(self.machine.period * 1e9)
        return Rail(
            id=number,
            name=name,
            kind=self.machine.kind,
            origin="simulated",
            period_ns=max(period_ns, 10_000_000) if self.machine.load == "cpu" else period_ns,
            range_j=self.machine.range if counter and self.machine.range else None,
            source="simulated",
            window_ns=None if counter else period_ns,
            note="no machine draws this: a simulation",
        )

    @property
    def spec(self) -> str:
        """``simulated:`` and the argument it was opened with."""
        return f"simulated:{self._argument}" if self._argument else "simulated"

    def read(self) -> list[Reading]:
        """What a meter of this machine would show now."""
        now = self._clock()
        self._reads += 1
        elapsed_s = (now - self._opened_ns) / 1e9
        failed = self.machine.fail and self._reads % self.machine.fail == 0
        if failed or elapsed_s >= self.machine.vanish:
            return [Reading(rail.id, now, math.nan) for rail in self.rails]
        show = self._watts if self.machine.kind == "gauge" else self._counters
        return [Reading(number, now, value) for number, value in enumerate(show(elapsed_s))]

    def _counters(self, elapsed_s: float) -> list[float]:
        machine = self.machine
        if elapsed_s >= machine.freeze and self._shown:
            return self._shown
        joules = self._joules(math.floor(elapsed_s / machine.period + 1e-9) * machine.period)
        if elapsed_s >= machine.back and not self._lost:
            self._lost = joules
        start = 0.0 if self._lost else machine.start
        lost = self._lost or [0.0] * len(joules)
        values = [start + value - gone for value, gone in zip(joules, lost, strict=True)]
        self._shown = [value % machine.range if machine.range else value for value in values]
        return self._shown

    def _watts(self, elapsed_s: float) -> list[float]:
        """Mean power since the read before; nothing at the first read, which has none before it."""
        joules = self._joules(elapsed_s)
        (before_s, before), self._before = self._before, (elapsed_s, joules)
        if elapsed_s <= before_s:
            return []
        return [(value - first) / (elapsed_s - before_s) for value, first in zip(joules, before, strict=True)]

    def _joules(self, elapsed_s: float) -> list[float]:
        """The true joules of every rail since opening."""
        machine = self.machine
        worked_s = self._cpu_s() - self._cpu_at_open_s if machine.load == "cpu" else 0.0
        package_j = machine.energy_j(elapsed_s, worked_s) / machine.packages
        return [package_j] * machine.packages + ([machine.dram * elapsed_s] if machine.dram else [])

    def _cpu_s(self) -> float:
        return tree_cpu_s(self._root_pid) if self.machine.load == "cpu" else 0.0

    def close(self) -> None:
        """Holds nothing."""


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, its living descendants and those it has waited for; of a process that
    has gone, zero. Linux counts them in ticks of 10 ms."""
    total_s, waiting = 0.0, [pid]
    while waiting:
        process = waiting.pop()
        try:
            # Fields 14 to 17 of proc(5); the second, the name in brackets, may itself hold spaces.
            times = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[11:15]
            tasks = list(Path(f"/proc/{process}/task").iterdir())
            waiting += [int(child) for task in tasks for child in (task / "children").read_bytes().split()]
        except OSError:
            continue  # it ended while we looked
        total_s += sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return total_s
