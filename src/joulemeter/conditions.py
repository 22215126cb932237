"""The conditions a measurement is made under: temperature, other processes' load, throttling."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Conditions:
    """One look at the machine. NaN and None where it does not tell."""

    t_ns: int
    temperature_c: float
    """The hottest thermal zone."""
    busy_s: float
    """CPU seconds used by the whole system since it started."""
    own_s: float
    """CPU seconds used by this process and the children it has waited for."""
    throttled: int | None
    """How often cores were slowed for heat since the system started."""


def look(root: Path = Path("/")) -> Conditions:
    """The conditions now. ``root`` is where ``proc`` and ``sys`` are found. Costs a millisecond or less."""
    usage = os.times()
    return Conditions(
        t_ns=time.monotonic_ns(),
        temperature_c=_temperature_c(root),
        busy_s=_busy_s(root),
        own_s=usage.user + usage.system + usage.children_user + usage.children_system,
        throttled=_throttled(root),
    )


def _temperature_c(root: Path) -> float:
    # Millidegrees Celsius: https://docs.kernel.org/driver-api/thermal/sysfs-api.html
    found = (_number(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp"))
    return max((value / 1000 for value in found if value is not None and value > 0), default=math.nan)


def _throttled(root: Path) -> int | None:
    counts = [
        _number(p) for p in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    ]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _busy_s(root: Path) -> float:
    """user + nice + system + irq + softirq + steal of /proc/stat's first line, in seconds (proc(5))."""
    try:
        words = (root / "proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]
    except (OSError, ValueError):
        return math.nan
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def others_share(before: Conditions, after: Conditions, cpus: int) -> float:
    """The share of the machine's processors that other processes took between two looks, 0 to 1; 0 where the
    machine does not tell."""
    elapsed_s = (after.t_ns - before.t_ns) / 1e9
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, others_s / (elapsed_s * cpus))) if elapsed_s > 0 and others_s > 0 else 0.0


def remarks(before: Conditions, after: Conditions, cpus: int) -> list[str]:
    """What of the conditions between two looks may have disturbed a measurement, in words."""
    elapsed_s = (after.t_ns - before.t_ns) / 1e9
    notes = []
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    # A twentieth of one core is what a desktop at rest does by itself.
    if elapsed_s > 0 and others / elapsed_s > 0.05 + 0.02 * cpus:
        notes.append(
            f"other processes used {100 * others / elapsed_s:.0f} % of one core meanwhile, and what they "
            "drew cannot be told from the rest: measure on a machine at rest"
        )
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        notes.append(f"the processor was slowed for heat {after.throttled - before.throttled} times")
    warmed = after.temperature_c - before.temperature_c
    if abs(warmed) > 5:
        notes.append(f"the temperature moved by {warmed:+.0f} °C, to {after.temperature_c:.0f} °C")
    return notes
