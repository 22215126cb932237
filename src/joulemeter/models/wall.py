"""Energy at the wall of a run that only software watched: its time, its GPU's counter, its processors' load.

    E(wall) = p · t + q · u · t + k · E(gpu)

with p in watts what the machine draws besides, q in watts what its processors add at full load u = 1, and k
what a joule by the GPU's own counter is at the wall (regulators and the supply lose some); none negative.
These are readings that IrEne (Cao, Lal, Trivedi and Balasubramanian, ACL 2021, section 4) gives its model of
a network that no wall meter saw. Fitted by least squares of relative errors (Lawson and Hanson's
non-negative solution).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from joulemeter.models import conformal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

FEWEST = 3
"""Networks needed, to see how far one lies from what the others say of it, and how sure they are of that."""

EXACT = 1e-6
"""Relative errors below this are rounding's."""


@dataclass(frozen=True, slots=True)
class Wall:
    """``costs`` (3,): p, q, k. ``without`` (networks, 3): the same with each network left out in turn.

    ``scatter``: the usual relative error of a row that was learnt from. ``reach``: how many predicted
    deviations hold 90 % of the networks that were left out.
    """

    costs: Floats
    without: Floats
    scatter: float
    reach: float = float("nan")

    def predict(self, seen: Floats) -> tuple[Floats, Floats, Floats]:
        """Joules (n,) of runs of which amounts (n, 3) were seen, and the ends of their 90 % intervals."""
        value, factor = seen @ self.costs, np.exp(self.reach * self.deviation(seen))
        return value, value / factor, value * factor

    def deviation(self, seen: Floats) -> Floats:
        """Relative standard deviations (n,): the scatter, and how far networks disagree (the jackknife's).

        A load that none of them had is one on which they disagree.
        """
        each = seen @ self.without.T
        count = len(self.without)
        apart = (count - 1) / count * ((each - each.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        value = np.maximum(seen @ self.costs, 1e-300)
        return np.asarray(np.sqrt(self.scatter**2 + apart / value**2), np.float64)


def amounts(time_s: Floats, load: Floats, gpu_j: Floats) -> Floats:
    """What the costs are of (n, 3): seconds, seconds of full load, joules of the GPU; ``load`` is 0 to 1."""
    return np.stack([time_s, load * time_s, gpu_j], axis=1)


def fit(seen: Floats, energy_j: Floats, network: Ints, whole: NDArray[np.bool_]) -> Wall:
    """The costs of runs of which was ``seen`` (n, 3), with ``energy_j`` (n,) at the wall.

    ``network`` (n,) by number: one weighs as much as another. ``whole`` (n,) marks whole networks, by which
    intervals are calibrated: each is predicted by all networks but itself. Raises ValueError with fewer
    than three networks.
    """
    numbers = np.unique(network)
    if len(numbers) < FEWEST:
        raise ValueError(f"{len(numbers)} network(s) with readings: {FEWEST} are needed")
    scores = []
    for number in numbers:
        others, mine = network != number, (network == number) & whole
        found = _fit(seen[others], energy_j[others], network[others])
        error = np.abs(np.log(np.maximum(seen[mine] @ found.costs, 1e-300) / energy_j[mine]))
        scores.append(error / found.deviation(seen[mine]))
    made = _fit(seen, energy_j, network)
    return Wall(made.costs, made.without, made.scatter, conformal.quantile(np.concatenate(scores)))


def _fit(seen: Floats, energy_j: Floats, network: Ints) -> Wall:
    costs = _costs(seen, energy_j, network)
    numbers = np.unique(network)
    without = [_costs(*(each[network != n] for each in (seen, energy_j, network))) for n in numbers]
    scatter = float(np.sqrt(np.mean((seen @ costs / energy_j - 1) ** 2)))
    return Wall(costs, np.array(without), max(scatter, EXACT))


def _costs(seen: Floats, energy_j: Floats, network: Ints) -> Floats:
    rows = np.bincount(network)[network]
    weight = 1 / (energy_j * np.sqrt(rows))
    return np.asarray(nnls(seen * weight[:, None], energy_j * weight)[0], np.float64)
