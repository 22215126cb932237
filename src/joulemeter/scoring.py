"""PCS, IECS and labels from tables of power and energy per inference.

A *cell* is one application: a network on one processor of a device. Tables are (devices, cells), NaN where
nobody measured. Missing cells are treated alike for every device and in both scores: a device is compared on
the cells it has, each against what that cell costs in general, by the fit

    log x[d, c] = device[d] + cell[c] + residual

so that leaving out a cheap or a dear application neither helps nor harms. On a full table the fit is
the plain geometric mean. docs/scores.md gives the reasons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import UNKNOWN, Energy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Table = NDArray[np.float64]

Z95 = 1.959963984540054
"""Half width of a 95 % interval in standard deviations of a normal error."""

NO_TASK = "not given"
"""The task of networks for which the table names none."""

LABELS = "ABCDEFG"
LABEL_LIMITS = (1 / 4, 1 / 2, math.sqrt(1 / 2), math.sqrt(2), 2.0, 4.0)
"""Energy over the task's geometric mean up to which labels A to F reach; above the last stands G."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Power and energy per inference of devices (rows) by cells (columns); NaN where not measured.

    ``power_w``, ``energy_j`` and ``time_s`` are float64 (devices, cells); ``power_error`` and
    ``energy_error`` are half widths of the cells' 95 % intervals as fractions of the values; ``tdp_w``
    float64 (devices,), NaN where no thermal design power is known.
    """

    devices: tuple[str, ...]
    cells: tuple[tuple[str, str], ...]
    """(network, processor) of each column."""
    power_w: Table
    energy_j: Table
    time_s: Table
    power_error: Table
    energy_error: Table
    tdp_w: Table
    tasks: dict[str, str] = field(default_factory=dict)
    """The task of each network; those without one are labelled among themselves."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """The accuracy of each network for which the table gives one, higher being better."""
    origin: str = "replayed"
    """How the cells came about, as one says it; a table that someone else wrote is replayed."""
    errors_assumed: bool = False
    """Whether some cell came without an interval, so that one was assumed."""


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its 95 % interval; NaN where it cannot be said."""

    value: float
    low: float
    high: float


UNSCORED = Score(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Flag:
    """A cell (or, with empty names, a device) that a reader should look at before trusting a score."""

    kind: str
    network: str
    processor: str
    detail: str


@dataclass(frozen=True, slots=True)
class TwoWay:
    """``log x = device + cell + residual`` by least squares over the cells present.

    ``device`` (devices,) and ``cell`` (cells,) are NaN where they have no value; ``group`` int (devices,)
    numbers sets of devices that share cells, however indirectly: only within one can they be compared.
    ``spread`` is the standard deviation of the residuals, NaN without degrees of freedom.
    """

    device: Table
    cell: Table
    group: NDArray[np.int64]
    spread: float


def two_way(values: Table) -> TwoWay:
    """The two-way fit of the logarithms of ``values`` (devices, cells), NaN where missing.

    Eliminating the cell effects from the normal equations leaves one small system for the devices:
    (diag(n_d) − W diag(1/n_c) Wᵀ) a = Σ_c w (x − mean_c), W being the 0/1 table of cells present.
    """
    logs = np.log(values)
    here = ~np.isnan(logs)
    weight = here.astype(float)
    x = np.where(here, logs, 0.0)
    per_cell = weight.sum(0)
    share = np.divide(1.0, per_cell, out=np.zeros_like(per_cell), where=per_cell > 0)
    system = np.diag(weight.sum(1)) - (weight * share) @ weight.T
    target = (weight * (x - (x * weight).sum(0) * share)).sum(1)
    device = np.where(weight.any(1), np.linalg.lstsq(system, target, rcond=None)[0], np.nan)
    left = np.where(here, x - np.nan_to_num(device)[:, None], 0.0)
    cell = np.where(per_cell > 0, left.sum(0) * share, np.nan)
    residual = (x - np.nan_to_num(device)[:, None] - np.nan_to_num(cell))[here]
    group = _groups(here)
    parameters = int(weight.any(1).sum() + (per_cell > 0).sum() - len(set(group[weight.any(1)])))
    freedom = int(here.sum()) - parameters
    spread = math.sqrt(float((residual**2).sum()) / freedom) if freedom > 0 else math.nan
    return TwoWay(device, cell, group, spread)


def _groups(here: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Which devices hang together by shared cells: a label for each row of ``here``."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    shared = csr_array(here.astype(np.int64) @ here.T.astype(np.int64))
    return np.asarray(connected_components(shared, directed=False)[1], np.int64)


def pcs(table: ScoreTable) -> list[Score]:
    """Power consumption scores: 100 · mean over the device's cells of (1 − average power / TDP).

    ``value`` is rounded to an integer as the score is published (Tu et al., "Unveiling Energy Efficiency in
    Deep Learning", SEC 2023). The interval holds the error of the cells, taken as dependent within a device
    (one meter, one thermal state), and what the missing cells might have changed; it is not rounded.
    """
    fit = two_way(table.power_w)
    return [_pcs_of(table, fit, row) for row in range(len(table.devices))]


def _pcs_of(table: ScoreTable, fit: TwoWay, row: int) -> Score:
    power, tdp_w = table.power_w[row], float(table.tdp_w[row])
    here = ~np.isnan(power)
    if not here.any() or math.isnan(tdp_w):
        return UNSCORED
    exact = pcs_exact(table, row, 1.0)
    filled = np.where(here, power, np.exp(fit.device[row] + fit.cell))
    whole = 100 * (1 - float(np.nanmean(filled)) / tdp_w)
    mean_w = float(power[here].mean())
    measured_w = float((power * table.power_error[row])[here].mean())
    half = 100 / tdp_w * math.hypot(measured_w, mean_w * _missing_error(fit, here))
    # No device takes less than nothing: 100 is the end, however wide a cell's interval.
    return Score(float(round(exact)), min(exact, whole) - half, min(100.0, max(exact, whole) + half))


def pcs_exact(table: ScoreTable, row: int, tdp_factor: float) -> float:
    """The device's PCS before rounding, had its TDP been ``tdp_factor`` times what it is."""
    mean_w = float(np.nanmean(table.power_w[row]))
    return 100 * (1 - mean_w / (float(table.tdp_w[row]) * tdp_factor))


def _missing_error(fit: TwoWay, here: NDArray[np.bool_]) -> float:
    """95 % half width, in logarithms, of a full-table mean known from the cells ``here`` alone.

    A mean over n of C cells, each off the fit by ``spread``, misses the mean over all C by
    spread · √((C − n) / (n C)): sampling without replacement.
    """
    used = ~np.isnan(fit.cell)
    cells, present = int(used.sum()), int((here & used).sum())
    if present == cells:
        return 0.0
    return Z95 * fit.spread * math.sqrt((cells - present) / (present * cells))


def iecs(table: ScoreTable, reference: int) -> list[Score]:
    """Inference energy consumption scores: inferences per joule over those of the reference device, × 100.

    The geometric mean over cells, so that no application dominates: twice the score is half the joules.
    The reference is the unit and scores 100; its own error is its own interval, so that any two devices'
    intervals may be compared. NaN for a device that shares no cell, however indirectly, with the reference.
    """
    fit = two_way(table.energy_j)
    return [_iecs_of(table, fit, row, reference) for row in range(len(table.devices))]


def _iecs_of(table: ScoreTable, fit: TwoWay, row: int, reference: int) -> Score:
    here = ~np.isnan(table.energy_j[row])
    if not here.any() or fit.group[row] != fit.group[reference]:
        return UNSCORED
    value = 100 * math.exp(fit.device[reference] - fit.device[row])
    half = math.hypot(float(table.energy_error[row][here].mean()), _missing_error(fit, here))
    return Score(value, value * math.exp(-half), value * math.exp(half))


def leave_one_out(table: ScoreTable, reference: int) -> list[tuple[float, float]]:
    """The lowest and highest IECS of each device when any one network is left out: how much one decides."""
    networks = np.array([network for network, _ in table.cells])
    ranges = []
    for network in dict.fromkeys(networks):
        fit = two_way(np.where(networks == network, np.nan, table.energy_j))
        ratio = 100 * np.exp(fit.device[reference] - fit.device)
        ranges.append(np.where(fit.group == fit.group[reference], ratio, np.nan))
    return [_ends(column) for column in np.array(ranges).T]


def _ends(values: Table) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


def coverage(table: ScoreTable) -> list[float]:
    """The fraction of the table's cells for which each device has both power and energy."""
    both = ~np.isnan(table.power_w) & ~np.isnan(table.energy_j)
    return [float(row.mean()) if len(row) else 0.0 for row in both]


def ranks(scores: list[Score]) -> list[tuple[int, int]]:
    """The best and worst rank each score may have under the intervals; (0, 0) for one not known.

    Two scores cannot be told apart when their difference is less than the root of the sum of squares of the
    half widths that face each other.
    """
    known = [score for score in scores if not math.isnan(score.value)]
    return [
        (0, 0) if math.isnan(score.value) else (1 + _above(score, known), len(known) - _below(score, known))
        for score in scores
    ]


def _above(score: Score, others: list[Score]) -> int:
    return sum(surely_higher(other, score) for other in others)


def _below(score: Score, others: list[Score]) -> int:
    return sum(surely_higher(score, other) for other in others)


def surely_higher(one: Score, other: Score) -> bool:
    """Whether the 95 % interval of ``one`` − ``other`` lies above zero; False where one is unknown."""
    middle_one, middle_other = max(one.value, one.low), min(other.value, other.high)
    reach = math.hypot(middle_one - one.low, other.high - middle_other)
    return middle_one - middle_other > reach


def tied(names: tuple[str, ...], scores: list[Score]) -> list[tuple[str, str]]:
    """The pairs of devices that the intervals cannot tell apart."""
    known = [(name, score) for name, score in zip(names, scores, strict=True) if not math.isnan(score.value)]
    return [
        (one, other)
        for place, (one, first) in enumerate(known)
        for other, second in known[place + 1 :]
        if not surely_higher(first, second) and not surely_higher(second, first)
    ]


def pareto(*goods: Table) -> NDArray[np.bool_]:
    """Which of n things no other beats: bool (n,) from quantities float64 (n,), more of each being better.

    One thing beats another by being as good in all and better in one. NaN in any quantity: not on the front.
    """
    points = np.stack(goods, axis=1)
    known = ~np.asarray(np.isnan(points).any(axis=1), bool)
    front = np.array(known)
    for place in np.flatnonzero(known):
        as_good = (points[known] >= points[place]).all(1)
        better = (points[known] > points[place]).any(1)
        front[place] = not (as_good & better).any()
    return front


def pearson(one: Table, other: Table) -> float:
    """Pearson's correlation over the pairs where both are known; NaN below three or none varying."""
    known = ~np.isnan(one) & ~np.isnan(other)
    a, b = one[known], other[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


@dataclass(frozen=True, slots=True)
class Network:
    """A network's energy per inference over the table's devices and processors, and its label.

    ``best`` and ``worst`` are the labels at the ends of the interval; equal where the label is certain.
    ``ratio`` is the energy over the geometric mean of the networks of its task.
    """

    name: str
    task: str
    energy: Energy
    ratio: float
    label: str
    best: str
    worst: str


def networks(table: ScoreTable) -> list[Network]:
    """Every network with its label among the networks of its task; ``?`` where its task has no other."""
    names = tuple(dict.fromkeys(network for network, _ in table.cells))
    energies = {name: _network_energy(table, name) for name in names}
    tasks = {name: table.tasks.get(name, NO_TASK) for name in names}
    made = []
    for name in names:
        peers = [energies[other].energy_j for other in names if tasks[other] == tasks[name]]
        known = [peer for peer in peers if not math.isnan(peer)]
        made.append(_labelled(name, tasks[name], energies[name], known))
    return made


def _network_energy(table: ScoreTable, name: str) -> Energy:
    """Geometric mean over the network's cells, each as the two-way fit says it costs on the usual device."""
    fit = two_way(table.energy_j)
    mine = np.array([network == name for network, _ in table.cells]) & ~np.isnan(fit.cell)
    if not mine.any():
        return UNKNOWN
    value = math.exp(float(fit.cell[mine].mean()) + float(np.nanmean(fit.device)))
    here = ~np.isnan(table.energy_j[:, mine])
    half = float(table.energy_error[:, mine][here].mean())
    return Energy(value, value * math.exp(-half), value * math.exp(half))


def _labelled(name: str, task: str, energy: Energy, peers: list[float]) -> Network:
    if len(peers) < 2 or math.isnan(energy.energy_j):
        return Network(name, task, energy, math.nan, "?", "?", "?")
    usual = math.exp(math.fsum(math.log(peer) for peer in peers) / len(peers))
    ends = [label(value / usual) for value in (energy.energy_j, energy.low_j, energy.high_j)]
    return Network(name, task, energy, energy.energy_j / usual, *ends)


def label(ratio: float) -> str:
    """A to G for an energy over the usual energy of its task; see LABEL_LIMITS."""
    return next(
        (name for name, limit in zip(LABELS, LABEL_LIMITS, strict=False) if ratio <= limit), LABELS[-1]
    )
