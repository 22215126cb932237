"""What this machine can be metered with: every source watched for a second, or refused with its remedy."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulemeter import sources, timeline
from joulemeter.errors import SourceUnavailable
from joulemeter.ledger import number
from joulemeter.reading import Rail, Reading, Source

WATCH_S = 1.0
_WINDOW_S = 0.1
"""The noise floor is the spread of mean power among windows of this length."""


@dataclass(frozen=True, slots=True)
class RailCheck:
    """One rail as it was seen here. NaN where the watch saw too little."""

    rail: Rail
    period_s: float
    """Median time between two readings that differ."""
    power_w: float
    noise_w: float
    """Standard deviation of mean power among windows of 100 ms: what a short window may be off by."""

    def to_json(self) -> dict[str, Any]:
        """A plain object; null where not known."""
        seen = {key: number(getattr(self, key)) for key in ("period_s", "power_w", "noise_w")}
        return {**self.rail.to_json(), **seen}


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """One source: its rails and what a read of it costs, or why it cannot be used."""

    spec: str
    used: bool
    """Whether a run that names no source would use it."""
    rails: tuple[RailCheck, ...] = ()
    read_cpu_s: float = math.nan
    """CPU time of one read."""
    core_share: float = math.nan
    """CPU time of reading at the source's own period, as a fraction of one core."""
    fact: str = ""
    remedy: str = ""

    @property
    def found(self) -> bool:
        """Whether it answers."""
        return not self.fact

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        head = {"spec": self.spec, "found": self.found}
        if not self.found:
            return {**head, "used": False, "fact": self.fact, "remedy": self.remedy}
        return {
            **head,
            "used": self.used,
            "read_cpu_s": number(self.read_cpu_s),
            "core_share": number(self.core_share),
            "rails": [check.to_json() for check in self.rails],
        }


def check_all(extra: Iterable[str] = (), watch_s: float = WATCH_S) -> Iterator[SourceCheck]:
    """Every meter of this machine, then the estimate, then the specs of ``extra``; one check at a time."""
    extra = list(extra)
    checks = [check(spec, True, watch_s) for spec in sources.meters()]
    yield from checks
    metered = any(each.found for each in checks)
    yield check(sources.FALLBACK, not metered, watch_s)
    for spec in extra:
        yield check(spec, False, watch_s)


def check(spec: str, used: bool = False, watch_s: float = WATCH_S) -> SourceCheck:
    """Opens ``spec``, reads it for ``watch_s`` seconds, and tells what was seen."""
    try:
        source = sources.open_spec(spec)
    except SourceUnavailable as refusal:
        return SourceCheck(spec, False, fact=refusal.fact, remedy=refusal.remedy)
    try:
        return _watched(spec, used, source, watch_s)
    finally:
        source.close()


def _watched(spec: str, used: bool, source: Source, watch_s: float) -> SourceCheck:
    period_s = max(0.0005, min(rail.period_ns for rail in source.rails) / 1e9)
    readings: list[Reading] = []
    cpu_s, reads = 0.0, 0
    end_s = time.monotonic() + watch_s
    while time.monotonic() < end_s:
        start_s = time.thread_time()
        readings += source.read()
        cpu_s, reads = cpu_s + time.thread_time() - start_s, reads + 1
        time.sleep(min(0.1, period_s))
    rails = tuple(_rail_check(rail, [r for r in readings if r.rail == rail.id]) for rail in source.rails)
    return SourceCheck(spec, used, rails, cpu_s / reads, cpu_s / reads / max(period_s, 0.001))


def _rail_check(rail: Rail, readings: list[Reading]) -> RailCheck:
    value = np.array([reading.value for reading in readings])
    line = timeline.from_readings(rail, np.array([reading.t_ns for reading in readings], np.int64), value)
    moved_ns = line.t_ns[1:][np.diff(line.energy_j) > 0]
    if len(moved_ns) == 0:
        return RailCheck(rail, math.nan, math.nan, math.nan)
    period_s = float(np.median(np.diff(moved_ns))) / 1e9 if len(moved_ns) > 1 else math.nan
    power_w = line.total_j / (float(line.t_ns[-1] - line.t_ns[0]) / 1e9)
    return RailCheck(rail, period_s, power_w, _noise_w(line))


def _noise_w(line: timeline.Timeline) -> float:
    window_ns = round(_WINDOW_S * 1e9)
    starts = range(int(line.t_ns[0]), int(line.t_ns[-1]) - window_ns, window_ns)
    power_w = np.array([line.between(start, start + window_ns) / _WINDOW_S for start in starts])
    seen = power_w[~np.isnan(power_w)]
    return float(np.std(seen, ddof=1)) if len(seen) > 1 else math.nan
