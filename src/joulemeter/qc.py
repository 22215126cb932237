"""Which runs to keep, and why not the others; idle as columns beside the raw energy, never in its place."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.record_columns import Column, column_of, combinations, flat, numbers

if TYPE_CHECKING:
    import pyarrow

Array = np.ndarray[Any, Any]

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


@dataclass(frozen=True, slots=True)
class Filtered:
    """A run that was not kept, and why."""

    name: str
    device: str
    energy_j: float
    reason: str


@dataclass(frozen=True)
class Report:
    """The runs that were kept, as rows with their new facts, and for each of the others why it was not."""

    kept: pyarrow.Table
    filtered: tuple[Filtered, ...]
    no_idle: int
    """Kept runs whose idle power nobody knows: they have no columns of it."""

    @property
    def reasons(self) -> Counter[str]:
        """How many runs were filtered for each reason."""
        return Counter(each.reason.partition(":")[0] for each in self.filtered)

    def to_json(self) -> dict[str, Any]:
        """A plain object, the filtered runs by name."""
        return {
            "kept": len(self.kept),
            "filtered": len(self.filtered),
            "reasons": dict(self.reasons),
            "no_idle": self.no_idle,
            "runs": [{**asdict(each), "energy_j": _known(each.energy_j)} for each in self.filtered],
        }


def check(rows: pyarrow.Table, rules: Rules) -> Report:
    """Filters ``rows`` (records, as ``dataset.table`` has them) by ``rules``; the first reason counts."""
    runs = _Runs(rows, rules)
    reasons = _reasons(runs, rules)
    kept = reasons == ""
    columns = rows.select(["name", "device", "energy_j"]).filter(~kept).to_pylist()
    filtered = tuple(
        Filtered(**each, reason=reason) for each, reason in zip(columns, reasons[~kept], strict=True)
    )
    idle_j = _idle_w(runs, rules) * runs.time_s
    new = {"idle_j": idle_j, "above_idle_j": runs.energy_j - idle_j}
    if rules.reference_w is not None:
        new["standardized_j"] = new["above_idle_j"] + rules.reference_w * runs.time_s
    known = {column: values[kept] for column, values in new.items()}
    no_idle = int(np.isnan(known["above_idle_j"]).sum())
    return Report(_with_columns(rows.filter(kept), known), filtered, no_idle)


class _Runs:
    """The figures and facts of records that the rules ask for, each of shape (rows,)."""

    def __init__(self, rows: pyarrow.Table, rules: Rules) -> None:
        self.flat = flat(rows, list(dict.fromkeys(("status", "error", "host", *rules.group))))
        self.energy_j, self.time_s = (numbers(rows, name) for name in ("energy_j", "time_s"))
        self.idle_w = numbers(rows, "idle_power_w")
        known = [name for name in rules.group if name in self.flat.column_names]
        self.group = combinations([column_of(self.flat, name) for name in known], len(rows))[1]

    def words(self, name: str) -> Column:
        """A column of words; all "" where there is none."""
        if name not in self.flat.column_names:
            return Column(np.array([""]), np.zeros(len(self.flat), dtype=np.int64))
        found = column_of(self.flat, name)
        return Column(found.distinct.astype(str), found.codes)


def _reasons(runs: _Runs, rules: Rules) -> Array:
    """Why each run is filtered, as text; "" for those that are kept."""
    energy_j, time_s = runs.energy_j, runs.time_s
    status, errors = runs.words("status"), runs.words("error")
    failed = ~np.isin(status.distinct, ("done", ""))[status.codes]
    found = np.full(len(energy_j), "", dtype=object)

    def tell(rows: Array, say: Callable[[int], str]) -> None:
        """Gives ``rows`` that have no reason yet the one that ``say`` finds."""
        for k in np.flatnonzero(rows & (found == "")):
            found[k] = say(int(k))

    tell(failed, lambda k: f"did not finish: {errors.at(k)}")
    tell(np.isnan(energy_j), lambda k: "energy unknown")
    tell(energy_j <= 0, lambda k: f"zero energy: {energy_j[k]:g} J")
    tell(~(time_s > 0), lambda k: "run time unknown or zero")
    short, long = rules.shortest_s, rules.longest_s
    tell(time_s < short, lambda k: f"run time too short: {time_s[k]:.3g} s, the limit is {short:g} s")
    tell(time_s > long, lambda k: f"run time too long: {time_s[k]:.3g} s, the limit is {long:g} s")
    left = np.flatnonzero(found == "")
    for name in ("energy_j", "time_s"):
        score, ratio = _scores(runs.group[left], np.log(getattr(runs, name)[left]))
        for k in np.flatnonzero(np.abs(score) > rules.outlier):
            off = f"{ratio[k]:.3g} times above" if score[k] > 0 else f"{1 / ratio[k]:.3g} times below"
            found[left[k]] = found[left[k]] or f"outlier in {name}: {off} its group's median"
    return found


def _scores(group: Array, logs: Array) -> tuple[Array, Array]:
    """Robust z-score of each value in its group, 0 in small groups, and its ratio to the group's median."""
    _, group, count = np.unique(group, return_inverse=True, return_counts=True)
    off = logs - _medians(group, logs)[group]
    scatter = np.maximum(_LEAST_SCATTER, _NORMAL * _medians(group, np.abs(off)))
    scatter[count < FEWEST] = np.inf
    return off / scatter[group], np.exp(off)


def _medians(group: Array, values: Array) -> Array:
    """The median of each group; ``group`` numbers them 0, 1, … without a gap."""
    count = np.bincount(group)
    first = np.cumsum(count) - count
    ordered = values[np.lexsort((values, group))]
    return np.asarray(ordered[first + (count - 1) // 2] / 2 + ordered[first + count // 2] / 2)


def _idle_w(runs: _Runs, rules: Rules) -> Array:
    """The idle power of each run: its host's, else its device's, else its own."""
    watts = runs.idle_w
    for name in ("device", "host"):
        words = runs.words(name)
        given = np.array([rules.idle_w.get(str(each), math.nan) for each in words.distinct])[words.codes]
        watts = np.where(np.isnan(given), watts, given)
    return watts


def _with_columns(rows: pyarrow.Table, new: dict[str, Array]) -> pyarrow.Table:
    """The rows with new facts: ``idle_j``, ``above_idle_j`` and, with a reference, ``standardized_j``.

    Idle energy is idle power × run time. Standardised is the raw energy less the node's own idle, plus the
    reference's, as in the BUTTER-E study. Where idle is not known they are left out.
    """
    import pyarrow

    told, first = [], 0
    for chunk in rows["facts"].chunks:
        last = first + len(chunk)
        told.append(_longer(chunk, {name: values[first:last] for name, values in new.items()}))
        first = last
    column = pyarrow.chunked_array(told, pyarrow.string())
    return rows.set_column(rows.column_names.index("facts"), "facts", column)


def _longer(texts: pyarrow.Array, new: dict[str, Array]) -> pyarrow.Array:
    """JSON objects with more numbers in them, none where one of the numbers is unknown.

    Written behind the last fact by Arrow; the few objects where that is no JSON, by Python.
    """
    import pyarrow
    from pyarrow import compute

    texts = compute.fill_null(texts.cast("string"), "{}")
    pieces: list[Any] = [compute.binary_slice(texts.cast("binary"), 0, -1).cast("string")]
    for name, values in new.items():
        pieces += [f', "{name}": ', pyarrow.array(values).cast("string")]
    joined = compute.binary_join_element_wise(*pieces, "}", "")
    known = np.logical_and.reduce([np.isfinite(values) for values in new.values()])
    odd = compute.or_(compute.equal(texts, "{}"), compute.invert(compute.ends_with(texts, "}")))
    for name in new:
        odd = compute.or_(odd, compute.match_substring(texts, f'"{name}"'))
    found = compute.if_else(pyarrow.array(known), joined, texts)
    rows = np.flatnonzero(odd.to_numpy(zero_copy_only=False) & known).tolist()
    again = [
        json.dumps(
            {**json.loads(texts[k].as_py()), **{name: float(values[k]) for name, values in new.items()}}
        )
        for k in rows
    ]
    return compute.replace_with_mask(found, _mask(rows, len(texts)), pyarrow.array(again, pyarrow.string()))


def _mask(rows: Sequence[int], length: int) -> pyarrow.Array:
    import pyarrow

    mask = np.zeros(length, dtype=bool)
    mask[rows] = True
    return pyarrow.array(mask)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def rules_to_json(rules: Rules) -> dict[str, Any]:
    """The rules as a plain object: no limit is null."""
    return {k: None if v == math.inf else v for k, v in asdict(rules).items()}
