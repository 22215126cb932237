"""Gates for a data set: what is wrong in published sets would have been caught by one of these.

Each gate looks at the records alone, or at the files they came from, and says in words what it found, in
how many rows, and which. A finding is a fact about the data, not a verdict: whoever fits on it knows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.record import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENERGY_TOLERANCE = 0.05
"""Energy and power × time may differ by this share, plus what rounding explains."""
_TIMER_S = 1e-6
"""Times are not known better than this where nothing says so."""
MAX_W = 20_000.0
"""No single device draws more: the limit where none is told."""
MONOTONE = 0.8
SCATTER = 0.05
WANDERING = 1.2
"""A reference kernel that takes this many times longer in one bench than before is a machine that wanders."""
_NEAR = 0.3
"""Decades within which a ratio counts as a power of a thousand."""
_FEW = 8
_HARDLY = 1.2
"""A fit must be nearer than a constant by more than this factor: chance gives less."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a gate found: the gate's name, the fact, the rows concerned (by number) and how many there are."""

    gate: str
    fact: str
    rows: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {"gate": self.gate, "fact": self.fact, "count": len(self.rows), "rows": list(self.rows)}


Gate = Callable[[Sequence[Record]], list[Finding]]


def check(records: Sequence[Record], fit: bool = True, limit_w: float = MAX_W) -> list[Finding]:
    """What all the gates find in ``records`` of devices that draw no more than ``limit_w``; the constant
    predictor's only where ``fit``, since it fits.
    """
    gates: list[Gate] = [
        unknown_energy, zero_time, energy_is_power_times_time, partial(power_is_possible, limit_w=limit_w),
        power_outliers, monotone, steady,
        repeats_scatter, duplicates, units, one_device,
    ]  # fmt: skip
    found = [finding for gate in gates for finding in gate(records)]
    return found + (constant_beats_fit(records) if fit else [])


def unknown_energy(records: Sequence[Record]) -> list[Finding]:
    """Rows that say no energy above zero."""
    rows = [i for i, r in enumerate(records) if not r.energy_j > 0]
    return _found("energy", "no energy above zero", rows, records)


def zero_time(records: Sequence[Record]) -> list[Finding]:
    """Rows that took no time."""
    rows = [i for i, r in enumerate(records) if r.time_s <= 0]
    return _found("time", "a time of zero or less", rows, records)


def energy_is_power_times_time(records: Sequence[Record]) -> list[Finding]:
    """Energy must be power × time, to 5 % and what rounding explains."""
    rows: list[int] = []
    rounded: list[int] = []
    for i, r in enumerate(records):
        if not (r.energy_j > 0 and r.time_s > 0 and r.power_w > 0):
            continue
        off = abs(r.energy_j - r.power_w * r.time_s)
        if off <= ENERGY_TOLERANCE * r.energy_j:
            continue
        # Half a step of the energy's last digit, half a step of the clock.
        excuse = float(r.facts.get("resolution_j", 0.0)) / 2 + r.power_w * _TIMER_S / 2
        (rounded if off <= ENERGY_TOLERANCE * r.energy_j + excuse else rows).append(i)
    return _found(
        "power × time", "energy differs from power × time by more than 5 %", rows, records
    ) + _found(
        "power × time",
        "energy differs from power × time by more than 5 %, as rounding explains",
        rounded,
        records,
    )


def power_is_possible(records: Sequence[Record], limit_w: float = MAX_W) -> list[Finding]:
    """Power must not be below idle, nor above what the device may draw."""
    low = [i for i, r in enumerate(records) if r.power_w < r.idle_power_w]
    high = [i for i, r in enumerate(records) if r.power_w > limit_w]
    return _found("power", "power below the idle power", low, records) + _found(
        "power", f"power above {limit_w:g} W", high, records
    )


def power_outliers(records: Sequence[Record]) -> list[Finding]:
    """A power far above all others of the device is a wrong time or a wrong unit."""
    from joulemeter.models.plausibility import FAR, implausible_power

    fact = f"power more than {FAR:g} times from the median"
    return _found("power", fact, implausible_power(records), records)


def monotone(records: Sequence[Record]) -> list[Finding]:
    """Within a family more work costs more: rank correlation with FLOPs (bytes, where there are none)."""
    from scipy.stats import spearmanr

    found = []
    for name, rows in _by_family(records).items():
        energy = np.array([records[i].energy_j for i in rows])
        work = np.array([_work(records[i]) for i in rows])
        keep = np.isfinite(energy) & np.isfinite(work)
        if keep.sum() < _FEW or len(set(work[keep])) < 2 or len(set(energy[keep])) < 2:
            continue
        rho = float(spearmanr(work[keep], energy[keep]).statistic)
        if rho < MONOTONE:
            fact = f"{name}: energy hardly follows work (rank correlation {rho:.2f}, wanted {MONOTONE})"
            found.append(Finding("monotone", fact, tuple(rows)))
    return found


def _work(record: Record) -> float:
    return record.work.flops if record.work.flops > 0 else record.work.bytes


def repeats_scatter(records: Sequence[Record]) -> list[Finding]:
    """Repeats of one configuration must agree: median relative standard deviation within 5 %."""
    found = []
    for name, rows in _by_family(records).items():
        groups = _groups(records, rows)
        scatter = [_scatter([records[i].energy_j for i in group]) for group in groups if len(group) > 1]
        scatter = [each for each in scatter if math.isfinite(each)]
        if scatter and float(np.median(scatter)) > SCATTER:
            repeated = tuple(i for group in groups if len(group) > 1 for i in group)
            fact = f"{name}: repeats of a configuration scatter by {100 * float(np.median(scatter)):.1f} %"
            found.append(Finding("repeats", fact, repeated))
    return found


def _scatter(energies: list[float]) -> float:
    return float(np.std(energies, ddof=1) / np.mean(energies))


def duplicates(records: Sequence[Record]) -> list[Finding]:
    """The same configuration with the very same figures is one measurement written twice."""
    seen: dict[tuple[Any, ...], int] = {}
    rows = []
    for i, r in enumerate(records):
        mark = (r.level, r.key, r.network, r.path, r.energy_j, r.time_s, r.power_w)
        if mark in seen and not math.isnan(r.energy_j):
            rows.append(i)
        seen.setdefault(mark, i)
    copied = _copies(records)
    return _found(
        "duplicates", "the same configuration with the very same figures again", rows, records
    ) + _found("duplicates", "one measurement given for several places of a network", copied, records)


def _copies(records: Sequence[Record]) -> list[int]:
    """Rows that differ from an earlier one only in their place in a network."""
    seen: set[tuple[Any, ...]] = set()
    rows = []
    for i, r in enumerate(records):
        mark = (r.network, r.family, r.kernel.key if r.level == "kernel" else r.batch, r.energy_j, r.time_s)
        if r.path and mark in seen:
            rows.append(i)
        seen.add(mark)
    return rows


def steady(records: Sequence[Record]) -> list[Finding]:
    """A bench times one reference kernel with each group: what that takes says how fast the machine was."""
    each = {
        float(r.facts["reference_s"]) for r in records if r.level == "kernel" and r.facts.get("reference_s")
    }
    if len(each) < _FEW:
        return []
    low, middle, high = np.percentile(list(each), (5, 50, 95))
    if high <= WANDERING * low:
        return []
    fact = (
        f"the machine's speed wandered: the reference kernel took {1e3 * low:.3g} to {1e3 * high:.3g} ms "
        f"(5th to 95th percentile of {len(each)} groups, median {1e3 * middle:.3g} ms)"
    )
    return [Finding("steady", fact)]


def units(records: Sequence[Record]) -> list[Finding]:
    """Energy off power × time by a power of a thousand all along is a unit written wrongly; by another
    factor, the total of many executions."""
    ratio = np.array([r.power_w * r.time_s / r.energy_j if r.energy_j > 0 else math.nan for r in records])
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if len(ratio) < _FEW:
        return []
    off = -float(np.median(np.log10(ratio)))
    step = round(off / 3)
    everywhere = tuple(range(len(records)))
    if step != 0 and abs(off - 3 * step) < _NEAR:
        fact = f"energy is 10^{3 * step} of power × time throughout: a unit is wrong by a power of a thousand"
        return [Finding("units", fact, everywhere)]
    if off > math.log10(2):
        fact = f"energy is {10**off:.0f} × power × time throughout: totals of a run, called one execution's?"
        return [Finding("units", fact, everywhere)]
    return []


def one_device(records: Sequence[Record]) -> list[Finding]:
    """A predictor is of one device."""
    counts = Counter(r.device for r in records)
    if len(counts) < 2:
        return []
    said = ", ".join(f"{name or 'unnamed'} {count}" for name, count in sorted(counts.items()))
    return [Finding("devices", f"records of {len(counts)} devices: {said}", tuple(range(len(records))))]


def constant_beats_fit(records: Sequence[Record]) -> list[Finding]:
    """A family whose fitted model errs more than always saying its median was not measured, or not varied."""
    from joulemeter.accuracy import measure
    from joulemeter.models import learning

    kernels = [r for r in records if r.level == "kernel" and r.energy_j > 0]
    if len({r.device for r in kernels}) != 1 or len(kernels) < _FEW:
        return []
    card = learning.fit(kernels).card
    found = []
    for name, rows in _by_family(records).items():
        energy: NDArray[np.float64] = np.array(
            [r.energy_j for r in (records[i] for i in rows) if r.energy_j > 0]
        )
        if name not in card or len(energy) < _FEW:
            continue
        constant = measure(energy, np.full(len(energy), np.median(energy)))
        if constant.median_ape <= _HARDLY * card[name].median_ape:
            fact = (
                f"{name}: a constant is as near as the fit ({100 * constant.median_ape:.1f} % in the median)"
            )
            found.append(Finding("constant", fact, tuple(rows)))
    return found


def _by_family(records: Sequence[Record]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        if record.level == "kernel" and record.energy_j > 0:
            rows[record.family].append(i)
    return dict(sorted(rows.items()))


def _groups(records: Sequence[Record], rows: Sequence[int]) -> list[list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in rows:
        groups[records[i].key].append(i)
    return list(groups.values())


def _found(gate: str, fact: str, rows: Sequence[int], records: Sequence[Record]) -> list[Finding]:
    """One finding with the first few rows named, or none where there are no rows."""
    if not rows:
        return []
    named = ", ".join(_named(records[i], i) for i in rows[:_NAMED])
    more = ", …" if len(rows) > _NAMED else ""
    return [Finding(gate, f"{fact}: {len(rows)} row(s) ({named}{more})", tuple(rows))]


def _named(record: Record, row: int) -> str:
    return f"{record.name or record.family} {record.facts.get('id', f'row {row}')}"
