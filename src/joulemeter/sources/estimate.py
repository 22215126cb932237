"""CPU time against a power curve: the fallback where no meter answers. An estimate, never a measurement.

The curve is a straight line from idle to full load, in watts per hardware thread, by microarchitecture:

    power = threads × idle + (full − idle) × threads at work

with the threads at work from the CPU time that Linux counts (``/proc/stat``: user, nice, system, irq,
softirq; waiting for I/O is idle). The figures are those of the Cloud Carbon Footprint project
(https://github.com/cloud-carbon-footprint/ccf-coefficients, Apache-2.0, ``output/coefficients-aws-use.csv``
of March 2026), which averages the servers of SPECpower_ssj2008 (https://www.spec.org/power_ssj2008/results/):
the *whole server at the wall*, shared out evenly among its hardware threads.

Why the interval is wide (`KNOWN_ERROR`, half width at 95 %): servers of one row differ (at full load Xeon
8176M to 8280L draw 3.2 to 3.7 W a thread where Skylake's and Cascade Lake's rows say 4.1, EPYC 9754 and 9654
1.3 and 2.1 W where their row says 2.3); the true curve bends off the line at middle load; ssj2008 runs Java,
while matrix products keep the vector units busy; a virtual CPU is a thread on one cloud and a core on
another; and a desktop or laptop is no server. `STAND_IN_ERROR`
is for a processor that borrows the figures of another one, `UNKNOWN_ERROR` for one that nobody knows: the
median of the table, whose rows lie from 0.45 to 2.4 times it.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

from joulemeter.reading import Rail, Reading

PUBLIC_SOURCE = (
    "SPECpower_ssj2008 results averaged by Cloud Carbon Footprint (ccf-coefficients, March 2026, Apache-2.0)"
)
KNOWN_ERROR, STAND_IN_ERROR, UNKNOWN_ERROR = 0.5, 0.7, 0.9
_WIDEST = 0.95
"""The interval of an estimate never reaches zero: some power is drawn."""
_TICK_NS = 10_000_000
_SHARE_OF_A_CORE = 0.02
"""On hosts of many CPUs /proc/stat is slow: it is read no more often than costs this much of a core."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Watts per hardware thread at idle and at full load, and how far to trust them."""

    name: str
    idle_w: float
    full_w: float
    relative_error: float
    note: str = ""


_TABLE: dict[str, tuple[float, float]] = {
    "Sandy Bridge": (2.2122, 8.6309),
    "Ivy Bridge": (1.7074, 5.5569),
    "Haswell": (1.8574, 5.5954),
    "Broadwell": (0.7128, 3.6853),
    "Skylake": (0.6130, 4.1042),
    "Cascade Lake": (0.6903, 4.0632),
    "Coffee Lake": (1.1384, 5.4218),
    "Ice Lake": (0.7668, 3.7582),
    "Sapphire Rapids": (1.0363, 4.1605),
    "Emerald Rapids": (0.8140, 4.4820),
    "Granite Rapids": (0.5816, 2.5275),
    "EPYC 1st Gen": (0.8468, 2.6042),
    "EPYC 2nd Gen": (0.4743, 1.6930),
    "EPYC 3rd Gen": (0.4556, 1.9573),
    "EPYC 4th Gen": (0.7391, 2.2822),
}
"""Idle and full watts per hardware thread by microarchitecture, as published. The fifth EPYC generation
(3.7 and 9.0 W) is left out: its row averages small EPYC 4005 machines with servers of 384 threads."""

_INTEL = {
    42: "Sandy Bridge", 45: "Sandy Bridge", 58: "Ivy Bridge", 62: "Ivy Bridge",
    60: "Haswell", 63: "Haswell", 69: "Haswell", 70: "Haswell",
    61: "Broadwell", 71: "Broadwell", 79: "Broadwell", 86: "Broadwell",
    78: "Skylake", 85: "Skylake", 94: "Skylake", 142: "Coffee Lake", 158: "Coffee Lake",
    106: "Ice Lake", 108: "Ice Lake", 143: "Sapphire Rapids", 207: "Emerald Rapids",
    173: "Granite Rapids", 174: "Granite Rapids",
}  # fmt: skip
"""Models of Intel's family 6 (Linux: arch/x86/include/asm/intel-family.h)."""

_AMD = {
    23: (*range(0x30, 0x100),),
    24: (),
    25: (*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0)),
    26: (),
}
"""The models of AMD's families that are of the newer core, Zen 2 of family 23 and Zen 4 of family 25 (Linux:
arch/x86/kernel/cpu/amd.c); family 24 is Hygon's Zen."""

_CASCADE_LAKE_STEPPING = 5
"""Model 85 is Skylake up to stepping 4, Cascade Lake from 5 (Cooper Lake, 10 and up, has no row)."""


def curve_of(cpuinfo: str) -> Curve:
    """The power curve of the processor that ``cpuinfo`` (the text of ``/proc/cpuinfo``) tells of."""
    name, reason = _microarchitecture(_first_processor(cpuinfo))
    if name is None:
        idle_w, full_w = (statistics.median(column) for column in zip(*_TABLE.values(), strict=True))
        return Curve("the median of all microarchitectures", idle_w, full_w, UNKNOWN_ERROR, reason)
    return Curve(name, *_TABLE[name], STAND_IN_ERROR if reason else KNOWN_ERROR, reason)


def _first_processor(cpuinfo: str) -> dict[str, str]:
    pairs = re.findall(r"^([^:\n]+?)\s*:\s*(.*?)\s*$", cpuinfo.partition("\n\n")[0], re.MULTILINE)
    return dict(pairs)


def _microarchitecture(processor: dict[str, str]) -> tuple[str | None, str]:
    """The row of the table for a processor and, where it only borrows that row, why; None for no row."""
    family, model, stepping = (_number(processor.get(key, "")) for key in ("cpu family", "model", "stepping"))
    vendor = processor.get("vendor_id", "")
    if vendor == "GenuineIntel" and family == 6 and model in _INTEL:
        late = model == 85 and stepping >= _CASCADE_LAKE_STEPPING
        return "Cascade Lake" if late else _INTEL[model], ""
    if vendor in ("AuthenticAMD", "HygonGenuine") and family in _AMD:
        return _amd(family, model)
    if processor.get("CPU implementer") == "0x41":
        return "EPYC 2nd Gen", "borrowed, as Cloud Carbon Footprint does for Arm: it has no row"
    return None, f"'{processor.get('model name', 'this processor')}' has no row in the table"


def _amd(family: int, model: int) -> tuple[str, str]:
    if family == 26:
        return "EPYC 4th Gen", "borrowed: no public row holds servers of the fifth generation alone"
    older, later = ("3rd", "4th") if family == 25 else ("1st", "2nd")
    return f"EPYC {later if model in _AMD[family] else older} Gen", ""


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def open(argument: str = "") -> Estimate:
    """The estimate for this machine; ``argument``: another ``/proc`` (empty: the real one). Never refuses."""
    return Estimate(Path(argument or "/proc"))


class Estimate:
    """One rail, ``cpu``: a counter of estimated joules that starts at zero when the source is opened.

    Where CPU time is not counted (no ``/proc/stat``, or one of zeros as in some sandboxes) it takes half
    load throughout, with an interval from idle to full load.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._threads = os.cpu_count() or 1
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._fd = _opened(proc / "stat")
        self.curve = curve_of(_text(proc / "cpuinfo"))
        self._opened_ns = time.monotonic_ns()
        self._busy_at_open_s = self._busy_s()
        if not self._busy_at_open_s > 0:
            self.close()
            self.curve = _half_load(self.curve)
        cost_ns = time.monotonic_ns() - self._opened_ns
        self.rails = (
            Rail(
                id=0,
                name="cpu",
                kind="counter",
                origin="estimated",
                period_ns=_TICK_NS * max(1, round(cost_ns / _SHARE_OF_A_CORE / _TICK_NS)),
                source="estimate",
                relative_error=self.curve.relative_error,
                note=self.explained,
            ),
        )

    @property
    def spec(self) -> str:
        """``estimate``, with the folder where it is not the machine's own."""
        return "estimate" if self._proc == Path("/proc") else f"estimate:{self._proc}"

    @property
    def explained(self) -> str:
        """Which curve is used, and where it is from, in one sentence."""
        curve = self.curve
        note = f" ({curve.note})" if curve.note else ""
        return (
            f"{curve.idle_w:.2f} W idle to {curve.full_w:.2f} W busy for each of {self._threads} hardware "
            f"threads, from whole servers with {curve.name}{note}: {PUBLIC_SOURCE}"
        )

    def read(self) -> list[Reading]:
        """Joules since the source was opened: the idle part by the clock, the rest by CPU time."""
        now = time.monotonic_ns()
        elapsed_s = (now - self._opened_ns) / 1e9
        blind = self._fd is None
        busy_s = 0.5 * self._threads * elapsed_s if blind else self._busy_s() - self._busy_at_open_s
        idle_j = self.curve.idle_w * self._threads * elapsed_s
        return [Reading(0, now, idle_j + (self.curve.full_w - self.curve.idle_w) * busy_s)]

    def _busy_s(self) -> float:
        """CPU seconds that all processors together have worked since boot; NaN where nobody counts them."""
        if self._fd is None:
            return math.nan
        try:
            first_line = os.pread(self._fd, 512, 0).partition(b"\n")[0]
            user, nice, system, _idle, _wait, irq, softirq = map(int, first_line.split()[1:8])
        except (OSError, ValueError):
            return math.nan
        return (user + nice + system + irq + softirq) / self._ticks_per_s

    def close(self) -> None:
        """Closes ``/proc/stat``."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _half_load(curve: Curve) -> Curve:
    """``curve`` with an error that also reaches from idle to full load: half load is a guess."""
    reach = (curve.full_w - curve.idle_w) / (curve.full_w + curve.idle_w)
    error = min(_WIDEST, math.hypot(curve.relative_error, reach))
    note = "; ".join(filter(None, (curve.note, "CPU time is not counted here: half load is assumed")))
    return replace(curve, relative_error=error, note=note)


def _opened(file: Path) -> int | None:
    try:
        return os.open(file, os.O_RDONLY)
    except OSError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
