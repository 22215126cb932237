"""How far a row may lie from its expectation: calls that vary, stamps that jitter, meters that round.

The covariance V of a rail's rows is banded, so everything here is linear in the number of rows:

- a call's own deviation in power adds κ p² Σ(seconds in the row)² to the row's variance (p: its site's
power);
- an error of a counter's stamp, of variance (τ P)² joules² at power P, moves energy from one row to the next:
  it adds to both variances and takes away from their covariance (a moving average with a unit root);
- a gauge's sample is off by a fraction σ of itself.

κ, τ and σ are those that make the rows most probable (type II maximum likelihood; MacKay 1992,
Neural Computation 4, 415), given priors that only matter when rows are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, optimize

from joulemeter.design import Design

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BLOCK = 2048
"""Rows that are solved together; what one block's edge knows of the next is left out."""

SINGLE_THREADED = 200_000
"""Multiplications in a matrix product that OpenBLAS does without threads (its own limit is 262,144)."""

MAX_BAND = 64
"""Overlapping windows further apart than this many rows are taken as independent."""


WILD = 6.0
"""Standard deviations from which on a row tells of what no span tells, and not of a response."""


@dataclass(frozen=True, slots=True)
class Noise:
    """``variation`` is κ, ``jitter`` τ in seconds (a counter) or σ as a fraction (a gauge)."""

    variation: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of the powers before any row is seen: Gaussian, ``mean`` (c,) and ``precision`` (c,
    c)."""

    mean: Floats
    precision: Floats

    def first(self, count: int) -> Prior:
        """What is believed of the first ``count``, of which the precision ties none to the others."""
        return Prior(self.mean[:count], self.precision[:count, :count])


@dataclass(frozen=True, slots=True)
class Variances:
    """Variances that make up V: of each row's own work (m,) or cell's (f,), and of each row's two readings
    or sample."""

    work: Floats
    start: Floats
    end: Floats


@dataclass(frozen=True, slots=True)
class Extra:
    """Factors ≥ 1 by which single rows' variances are raised, for what no bell curve explains: both (m,)."""

    work: Floats
    stamp: Floats


def no_extra(count: int) -> Extra:
    """Nothing raised."""
    return Extra(np.ones(count), np.ones(count))


def variances(design: Design, powers: Floats, noise: Noise, extra: Extra) -> Variances:
    """The parts of V at given powers (c,)."""
    rows = design.windows
    of_call = noise.variation * powers**2
    work = np.asarray((design.spread if design.cell_spread is None else design.cell_spread) @ of_call).ravel()
    if design.cells is None:
        work = work * extra.work
    # Variances follow the power expected, not the power read: rows that err low would weigh more than those
    # that err high.
    watts = np.asarray(design.seconds @ powers) / np.maximum(rows.length_s, 1e-9) + design.resting_w
    floor = rows.quantum_j**2 / 12 + 1e-18
    if not rows.linked.any():
        sample = ((noise.jitter * watts * rows.length_s) ** 2 + floor) * extra.stamp
        return Variances(work, np.zeros(len(rows)), sample)
    before = np.where(rows.linked, np.append(watts[:1], watts[:-1]), watts)
    after = np.where(np.append(rows.linked[1:], False), np.append(watts[1:], watts[-1:]), watts)
    # A stamp is off by a time; what that is worth is the power around it, not below a tenth of the usual.
    usual = 0.1 * float(np.median(watts))
    end = (noise.jitter * np.maximum((watts + after) / 2, usual)) ** 2 * extra.stamp + floor
    start = (noise.jitter * np.maximum((watts + before) / 2, usual)) ** 2 + floor
    start = np.where(rows.linked, np.append(end[:1], end[:-1]), start)
    return Variances(work, start, end)


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK rows."""
    for low in range(0, count, BLOCK):
        yield slice(low, min(low + BLOCK, count))


def band(design: Design, parts: Variances, block: slice) -> Floats:
    """V of a block in the lower banded form of ``scipy.linalg.cholesky_banded``: (width + 1, rows)."""
    count = block.stop - block.start
    if design.cells is not None:
        cells = design.cells[block]
        product = (cells.multiply(parts.work[None, :])).tocsr() @ cells.T
        reach = np.abs(np.subtract(*product.nonzero())).max(initial=0)
        lower = np.zeros((min(int(reach), MAX_BAND, count - 1) + 1, count))
        for k in range(len(lower)):
            lower[k, : count - k] = product.diagonal(-k)
        lower[0] += parts.end[block]
        return lower
    lower = np.zeros((2, count))
    lower[0] = parts.work[block] + parts.start[block] + parts.end[block]
    linked = design.windows.linked[block][1:]
    lower[1, :-1] = np.where(linked, -parts.end[block][:-1], 0.0)
    return lower


def whitener(design: Design, parts: Variances, block: slice) -> Floats:
    """The banded Cholesky factor L of a block's V; windows that all but coincide get a little more noise of
    their own."""
    lower = band(design, parts, block)
    scale = float(lower[0].mean()) + 1e-30
    for grain in (1e-9, 1e-6, 1e-3):
        try:
            lower[0] += grain * scale
            return np.asarray(linalg.cholesky_banded(lower, lower=True, check_finite=False))
        except linalg.LinAlgError:
            continue
    # Nothing but rounding is left of the coupling: the rows are taken as independent.
    lower[1:] = 0.0
    return np.asarray(linalg.cholesky_banded(lower, lower=True, check_finite=False))


def solved(lower: Floats, right: Floats) -> Floats:
    """V⁻¹ times ``right`` (rows,) or (rows, c), given the banded Cholesky factor of V.

    A factor of one subdiagonal goes to LAPACK's tridiagonal solver, which takes a third of the time of its
    banded one.
    """
    if len(lower) != 2 or lower.shape[1] < 2:
        return np.asarray(linalg.cho_solve_banded((lower, True), right, check_finite=False))
    return np.asarray(linalg.lapack.dpttrs(lower[0] ** 2, lower[1, :-1] / lower[0, :-1], right)[0])


def _inner(left: Floats, right: Floats) -> Floats:
    """leftᵀ right, both (rows, c), a few rows at a time.

    Where c is small that keeps each product too small for BLAS to wake its threads: they cost many times
    what they gain here, most of all on a machine that is busy, where one waits for the other.
    """
    wide = left.shape[1]
    tile = max(SINGLE_THREADED // wide**2, 1)
    if tile < 16:
        return np.asarray(left.T @ right)
    whole = len(left) // tile * tile
    tiles = (-1, tile, wide)
    made = left[:whole].reshape(tiles).transpose(0, 2, 1) @ right[:whole].reshape(tiles)
    return np.asarray(made.sum(axis=0) + left[whole:].T @ right[whole:])


@dataclass(frozen=True, slots=True)
class Gram:
    """X'V⁻¹X for X = [seconds | idle | work | joules], and log |V|. ``work`` (m, c) is each column's
    variance in a row."""

    matrix: Floats
    log_det: float
    columns: int
    knots: int
    rows: int

    def part(self, left: str, right: str) -> Floats:
        """A block of the matrix, by the names ``power``, ``work`` and ``joules``; power is sites, then
        knots."""
        wide = self.columns + self.knots
        at = {
            "power": slice(0, wide),
            "work": slice(wide, wide + self.columns),
            "joules": slice(self.matrix.shape[0] - 1, None),
        }
        return self.matrix[at[left], at[right]]


def gram(
    design: Design,
    powers: Floats,
    noise: Noise,
    extra: Extra,
    work: bool = True,
    columns_of: Sequence[Floats] | None = None,
) -> Gram:
    """The normal equations of a design under V, block by block; memory does not grow with the rows.

    ``columns_of`` are the blocks' columns where they are at hand: without work, noise leaves them alone.
    """
    parts = variances(design, powers, noise, extra)
    columns, knots = design.seconds.shape[1], design.idle.shape[1]
    size = columns * (2 if work else 1) + knots + 1
    total, log_det = np.zeros((size, size)), 0.0
    for number, block in enumerate(blocks(len(design))):
        lower = whitener(design, parts, block)
        stacked = columns_of[number] if columns_of else _stacked(design, powers, noise, extra, block, work)
        total += _inner(stacked, solved(lower, stacked))
        log_det += 2 * float(np.log(lower[0]).sum())
    return Gram((total + total.T) / 2, log_det, columns, knots, len(design))


def _stacked(design: Design, powers: Floats, noise: Noise, extra: Extra, block: slice, work: bool) -> Floats:
    parts = [design.seconds[block].toarray(), design.idle[block]]
    if work:
        raised = extra.work[block, None] if design.cells is None else 1.0
        parts.append(design.spread[block].toarray() * (noise.variation * powers**2)[None, :] * raised)
    parts.append(design.windows.energy_j[block, None])
    return np.concatenate(parts, axis=1)


def factored(matrix: Floats) -> tuple[Floats, bool]:
    """The Cholesky factor of a symmetric matrix, for ``scipy.linalg.cho_solve``; where rounding left it not
    positive, of one with a little more on its diagonal."""
    scale = np.diag(matrix).copy()
    for grain in (0.0, 1e-12, 1e-9, 1e-6):
        try:
            lower, flag = linalg.cho_factor(matrix + np.diag(grain * scale), lower=True, check_finite=False)
        except linalg.LinAlgError:
            continue
        return np.asarray(lower), bool(flag)
    return np.diag(np.sqrt(scale)), True


def evidence(design: Design, prior: Prior, powers: Floats, noise: Noise, extra: Extra | None = None) -> float:
    """Log probability of the rows, the powers integrated out, up to a constant."""
    return evidence_of(gram(design, powers, noise, extra or no_extra(len(design)), work=False), prior)


def evidence_with_tails(design: Design, prior: Prior, powers: Floats, noise: Noise) -> float:
    """The same where a few rows may lie WILD sigma off, or more: those as unsure as that makes them."""
    sums = gram(design, powers, noise, no_extra(len(design)), work=False)
    xx, xy = sums.part("power", "power"), sums.part("power", "joules")[:, 0]
    right = prior.precision @ prior.mean + xy
    found = linalg.cho_solve(factored(prior.precision + xx), right, check_finite=False)
    count = design.seconds.shape[1]
    expected = np.asarray(design.seconds @ found[:count] + design.idle @ found[count:])
    extra = raised(design, powers, expected, noise, no_extra(len(design)), WILD)
    if (extra.stamp == 1).all() and (extra.work == 1).all():
        return evidence_of(sums, prior)
    return evidence(design, prior, powers, noise, extra)


def evidence_of(sums: Gram, prior: Prior) -> float:
    """Log probability of the rows behind ``sums`` under a Gaussian prior of all powers (sites, then
    knots)."""
    xx, xy = sums.part("power", "power"), sums.part("power", "joules")[:, 0]
    yy = float(sums.part("joules", "joules")[0, 0])
    mean, precision = prior.mean, prior.precision
    residual = yy - 2 * mean @ xy + mean @ xx @ mean
    pull = xy - xx @ mean
    factor = factored(precision + xx)
    gained = float(pull @ linalg.cho_solve(factor, pull, check_finite=False))
    log_post = 2 * float(np.log(np.diag(factor[0])).sum())
    log_prior = float(np.linalg.slogdet(precision)[1])
    return -0.5 * (sums.log_det + float(residual) - gained + log_post - log_prior)


def belief(noise: Noise, usual: Noise) -> float:
    """How much less likely than the ``usual`` a noise is beforehand, as a logarithm: a factor of 4.5 is one
    sigma."""
    off = np.log([noise.variation / usual.variation, noise.jitter / usual.jitter])
    return float(((off / 1.5) ** 2).sum() / 2)


def fit_noise(design: Design, prior: Prior, powers: Floats, extra: Extra, usual: Noise) -> Noise:
    """The noise that makes the rows most probable; ``usual`` is where it starts and what few rows fall back
    to."""
    start = np.log([usual.variation, usual.jitter])
    columns = [_stacked(design, powers, usual, extra, block, work=False) for block in blocks(len(design))]

    def loss(x: Floats) -> float:
        """Minus the evidence of the log of variation and jitter, pulled to their usual values."""
        noise = Noise(*np.exp(np.clip(x, -25, 5)))
        sums = gram(design, powers, noise, extra, work=False, columns_of=columns)
        return belief(Noise(*np.exp(x)), usual) - evidence_of(sums, prior)

    found = optimize.minimize(
        loss,
        start,
        method="Nelder-Mead",
        options={
            "xatol": 0.1,
            "fatol": 0.2,
            "maxfev": 50,
            "initial_simplex": start + np.array([[0, 0], [1, 0], [0, 1]]),
        },
    )
    return Noise(*np.exp(np.clip(found.x, -25, 5)))


def weighed_errors(design: Design, powers: Floats, expected_j: Floats, noise: Noise, extra: Extra) -> Floats:
    """V⁻¹(y − ŷ), (m,): from it each part of the error is its own variance times this."""
    parts = variances(design, powers, noise, extra)
    off = design.windows.energy_j - expected_j
    made = np.empty(len(design))
    for block in blocks(len(design)):
        made[block] = solved(whitener(design, parts, block), off[block])
    return made


def raised(
    design: Design, powers: Floats, expected_j: Floats, noise: Noise, extra: Extra, limit: float = 3.5
) -> Extra:
    """``extra`` with the variances raised of those rows and stamps whose best guess lies beyond ``limit``
    sigma.

    What it amounts to is a tail as heavy as Student's (Lange, Little and Taylor 1989, JASA 84, 881).
    """
    parts = variances(design, powers, noise, extra)
    pull = weighed_errors(design, powers, expected_j, noise, extra)
    rows = design.windows
    following = np.where(np.append(rows.linked[1:], False), np.append(pull[1:], 0.0), 0.0)
    stamp = parts.end * (pull - following) / np.sqrt(np.maximum(parts.end, 1e-300))
    stamp_factor = extra.stamp * np.where(np.abs(stamp) > limit, stamp**2 / 2, 1.0)
    if design.cells is not None:
        return Extra(extra.work, stamp_factor)
    work = np.sqrt(np.maximum(parts.work, 0.0)) * pull
    return Extra(extra.work * np.where(np.abs(work) > limit, work**2 / 2, 1.0), stamp_factor)
