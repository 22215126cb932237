"""From kernels to a whole network: what it spends beyond the sum of its kernels.

    E(network) = a Σ Ê(kernels) + b · (its bytes beyond its kernels') + c · (number of kernels) + d

with a, b, c, d ≥ 0: operators that are no kernel move bytes, each launch has a cost in the framework, and a
pass has one of its own. Fitted by least squares of relative errors (Lawson and Hanson's non-negative
solution), the networks weighing alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from joulemeter.models import conformal

if TYPE_CHECKING:
    from numpy.typing import NDArray

TERMS = ("kernels", "bytes beyond", "launches", "pass")


@dataclass(frozen=True, slots=True)
class Overhead:
    """``costs`` (4,) by TERMS, and the factor that bounds 90 % of networks either way (exp of it)."""

    costs: NDArray[np.float64]
    spread: float

    def predict(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joules (n,) of networks with ``amounts`` (n, 4)."""
        return np.asarray(amounts @ self.costs, np.float64)


NONE = Overhead(np.array([1.0, 0.0, 0.0, 0.0]), float("nan"))
"""No network was seen: a network is the sum of its kernels, and nobody knows how well."""


def fit(
    amounts: NDArray[np.float64], energy_j: NDArray[np.float64], network: NDArray[np.int64]
) -> tuple[Overhead, NDArray[np.float64]]:
    """The overhead of networks with ``amounts`` (n, 4) and ``energy_j`` (n,), ``network`` (n,) by number; and
    what each row is predicted when its network is left out (n,), NaN with fewer than two networks."""
    held_out = np.full(len(energy_j), np.nan)
    numbers = np.unique(network)
    for number in numbers if len(numbers) > 1 else []:
        held = network == number
        held_out[held] = amounts[held] @ _costs(amounts[~held], energy_j[~held], network[~held])
    score = np.abs(np.log(np.maximum(held_out, 1e-300) / energy_j))
    spread = conformal.quantile(score) if np.isfinite(score).any() else float("nan")
    return Overhead(_costs(amounts, energy_j, network), spread), held_out


def _costs(
    amounts: NDArray[np.float64], energy_j: NDArray[np.float64], network: NDArray[np.int64]
) -> NDArray[np.float64]:
    counts = np.bincount(network)[network]
    weight = 1 / (energy_j * np.sqrt(counts))
    table = amounts * weight[:, None]
    scale = np.linalg.norm(table, axis=0)
    scale[scale == 0] = 1.0
    return np.asarray(nnls(table / scale, energy_j * weight)[0] / scale, np.float64)
