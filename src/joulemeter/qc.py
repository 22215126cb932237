"""Which runs to keep, and why not the others; idle as columns beside the raw energy, never in its place."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from joulemeter.record import Record

OUTLIER = 6.0
"""Robust z-score in log space beyond which a run is an outlier of its group."""
FEWEST = 5
"""Smaller groups have no outliers: their median is not known well enough."""
_NORMAL = 1.4826
"""The median absolute deviation of a normal times this is its standard deviation."""
_LEAST_SCATTER = 0.02
"""Groups scatter by at least this, in log space: a meter's rounding makes no outlier."""
GROUP = (
    "device",
    "dtype",
    "threads",
    "dataset",
    "shape",
    "size",
    "depth",
    "batch_size",
    "epochs",
    "optimizer",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is filtered. ``group`` are the facts within which runs should agree; ``idle_w`` the idle power of
    a device (or ``host``), where it is known better than the run's own; ``reference_w`` that of the node
    type that energies are standardised to.
    """

    shortest_s: float = 0.0
    longest_s: float = math.inf
    outlier: float = OUTLIER
    group: tuple[str, ...] = GROUP
    idle_w: dict[str, float] = field(default_factory=dict)
    reference_w: float | None = None


@dataclass(frozen=True)
class Report:
    """The runs that were kept, with their columns, and for each of the others why it was not."""

    kept: tuple[Record, ...]
    filtered: tuple[tuple[Record, str], ...]
    no_idle: int
    """Kept runs whose idle power nobody knows: their columns are NaN."""

    @property
    def reasons(self) -> Counter[str]:
        """How many runs were filtered for each reason."""
        return Counter(reason.partition(":")[0] for _, reason in self.filtered)

    def to_json(self) -> dict[str, Any]:
        """A plain object, the filtered runs by name."""
        return {
            "kept": len(self.kept),
            "filtered": len(self.filtered),
            "reasons": dict(self.reasons),
            "no_idle": self.no_idle,
            "runs": [
                {"name": r.name, "device": r.device, "energy_j": _known(r.energy_j), "reason": reason}
                for r, reason in self.filtered
            ],
        }


def check(records: Sequence[Record], rules: Rules) -> Report:
    """Filters ``records`` by ``rules``; the first reason counts."""
    reasons = [_reason(record, rules) for record in records]
    left = [k for k, reason in enumerate(reasons) if not reason]
    for k, reason in _outliers(records, left, rules).items():
        reasons[k] = reason
    kept = tuple(
        with_idle(record, rules) for record, reason in zip(records, reasons, strict=True) if not reason
    )
    filtered = tuple((r, reason) for r, reason in zip(records, reasons, strict=True) if reason)
    return Report(kept, filtered, sum(math.isnan(_fact(r, "above_idle_j")) for r in kept))


def _reason(record: Record, rules: Rules) -> str:
    if str(record.facts.get("status", "done")) != "done":
        return f"did not finish: {record.facts.get('error', '')}"
    if math.isnan(record.energy_j):
        return "energy unknown"
    if record.energy_j <= 0:
        return f"zero energy: {record.energy_j:g} J"
    return _wrong_time(record, rules)


def _wrong_time(record: Record, rules: Rules) -> str:
    if not record.time_s > 0:
        return "run time unknown or zero"
    if record.time_s < rules.shortest_s:
        return f"run time too short: {record.time_s:.3g} s, the limit is {rules.shortest_s:g} s"
    if record.time_s > rules.longest_s:
        return f"run time too long: {record.time_s:.3g} s, the limit is {rules.longest_s:g} s"
    return ""


def _outliers(records: Sequence[Record], rows: Sequence[int], rules: Rules) -> dict[int, str]:
    """Rows whose energy or time lies off their group's median, in log space, by more than the rule."""
    groups: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for k in rows:
        groups[tuple(str(value_of(records[k], name)) for name in rules.group)].append(k)
    found: dict[int, str] = {}
    for members in groups.values():
        if len(members) < FEWEST:
            continue
        for name in ("energy_j", "time_s"):
            logs = np.log([getattr(records[k], name) for k in members])
            middle = float(np.median(logs))
            scatter = max(_LEAST_SCATTER, _NORMAL * float(np.median(np.abs(logs - middle))))
            for k, score in zip(members, (logs - middle) / scatter, strict=True):
                if abs(score) > rules.outlier:
                    off = math.exp(abs(score) * scatter)
                    way = "above" if score > 0 else "below"
                    found.setdefault(k, f"outlier in {name}: {off:.3g} times {way} its group's median")
    return found


def value_of(record: Record, name: str) -> Any:
    """A fact of the record, or its column of that name."""
    return record.facts[name] if name in record.facts else getattr(record, name, "")


def with_idle(record: Record, rules: Rules) -> Record:
    """The record with facts ``idle_j``, ``above_idle_j`` and, with a reference, ``standardized_j``.

    Idle energy is idle power × run time. Standardised is the raw energy less the node's own idle, plus the
    reference's, as in the BUTTER-E study. Where idle is not known they are left out.
    """
    host = str(record.facts.get("host", ""))
    idle_w = rules.idle_w.get(host, rules.idle_w.get(record.device, record.idle_power_w))
    idle_j = idle_w * record.time_s
    if math.isnan(idle_j):
        return record
    facts = {**record.facts, "idle_j": idle_j, "above_idle_j": record.energy_j - idle_j}
    if rules.reference_w is not None:
        facts["standardized_j"] = record.energy_j - idle_j + rules.reference_w * record.time_s
    return replace(record, facts=facts)


def _fact(record: Record, name: str) -> float:
    return float(record.facts.get(name, math.nan))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def rules_to_json(rules: Rules) -> dict[str, Any]:
    """The rules as a plain object: no limit is null."""
    return {k: None if v == math.inf else v for k, v in asdict(rules).items()}
