"""Samples of a gauge that nothing that ran explains: a sensor that errs by a factor once in a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, sparse

from joulemeter.design import Design

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

WILD = 8.0
"""Standard deviations that such a sample lies from what powers say."""

BEYOND = 1.5
"""Times the highest of all other samples such a sample is, or their lowest such a sample: what a program
draws once in a while lies in between."""

FEW = 0.03
"""The most such samples, as a part of all: of more, it is the powers that are wrong."""

ROUNDS = 4
"""How often rows are weighed by how far they lie from what the others say (Huber 1964, Ann. Math. Stat. 35,
73)."""

LEAN = 1e-3
"""A power of which rows say less than this part of what they say of the clearest is drawn to the usual
one."""


def glitches(designs: Iterable[Design]) -> Flags:
    """Which rows (n,) lie far off under each of some ``designs``: the same samples under several
    responses."""
    far: Flags | None = None
    watts = np.zeros(0)
    for made in designs:
        watts = made.windows.energy_j / made.windows.length_s
        far = _far(made, watts) if far is None else far & _far(made, watts)
        if not far.any():
            break
    if far is None or not far.any() or far.mean() > FEW:
        return np.zeros(len(watts), bool)
    usual = watts[~far]
    return np.asarray(far & ((watts > BEYOND * usual.max()) | (BEYOND * watts < usual.min())))


def near_the_middle(watts: Floats) -> Flags:
    """Which of the samples (n,) of a supply at rest are no glitches: within BEYOND times their median, or not
    far from it by their own scatter."""
    middle = float(np.median(watts))
    sigma = 1.4826 * float(np.median(np.abs(watts - middle)))
    far = (watts > BEYOND * middle) | (BEYOND * watts < middle)
    return np.asarray(~far | (np.abs(watts - middle) <= WILD * sigma))


def _far(made: Design, watts: Floats) -> Flags:
    """The rows that lie far from what the likeliest powers say, each told the less the farther it lies."""
    per_s = sparse.diags(1 / made.windows.length_s)
    ran, rest = sparse.csr_matrix(per_s @ made.seconds), np.asarray(per_s @ made.idle)
    busy = np.asarray(ran.sum(axis=1)).ravel()
    columns = sparse.hstack([sparse.csr_matrix(busy[:, None]), ran, sparse.csr_matrix(rest)]).tocsr()
    weight, off, sigma = np.ones(len(watts)), watts, 0.0
    for _ in range(ROUNDS):
        weighed = sparse.diags(weight) @ columns
        total = (columns.T @ weighed).toarray()
        least = np.full(len(total), 1e-9)
        least[1 : 1 + ran.shape[1]] = LEAN
        total[np.diag_indices_from(total)] += least * float(np.diag(total).max()) + 1e-30
        off = watts - columns @ linalg.solve(total, weighed.T @ watts, assume_a="pos")
        sigma = 1.4826 * float(np.median(np.abs(off[busy > 0]))) if busy.any() else 0.0
        weight = np.minimum(1.0, 1.5 * sigma / np.maximum(np.abs(off), 1e-12))
    return np.asarray(np.abs(off) > WILD * sigma)
