"""One rail's energies by site: design, noise, powers and energies, iterated until they agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter import priors
from joulemeter.ascent import Matter, Start, highest
from joulemeter.columns import Columns, breaths, call_seconds, columns, seen_seconds, with_breaths
from joulemeter.design import (
    Design,
    Response,
    Windows,
    blur_ns,
    coarser,
    counts,
    design,
    ticks_apart,
    windows,
)
from joulemeter.glitches import glitches
from joulemeter.idle import Idle
from joulemeter.misfit import alike_w2, few, misfit
from joulemeter.noise import Extra, Gram, Noise, fit_noise, gram, no_extra, raised
from joulemeter.occupancy import Occupancy
from joulemeter.posterior import Energies, Powers, energies, powers
from joulemeter.priors import Beliefs
from joulemeter.reading import Rail
from joulemeter.response import Found
from joulemeter.stretches import Stretches
from joulemeter.ticks import ASKED_NS, Curve, Steps, Ticks, busiest, curve, paced, steps_of
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

WORK = 2.0e10
"""Multiplications spent on normal equations: beyond it neighbouring readings are added up first."""

MANY = 2_000_000
"""Spans from which on rows are laid out again once at most: by then a lag is known well from the first."""

ROUGH = 20_000
"""Rows from which noise, outliers and powers are found in turns; the last turn takes all."""

SHIFTS = 4
"""How often the rows are laid out again with the lag that the fit asks for."""

STEADY_S = 0.01
"""Within a long call, power is taken to wander on its own from one hundredth of a second to the next."""

COARSE = 1e-3
"""No energy is taken to be known better than by this fraction of itself (one standard deviation): powers that
change within a call, stamps and idle between its knots are not followed more closely."""

LOST = 3.0
"""A pace under which errors exceed what is said of them by this factor, in variance, is not the counter's:
under a wrong one the slow rise of a saw is taken for power, and its jumps for outliers."""

USUAL_VARIATION = 0.05**2
"""Calls of one site scatter by about 5 % in power, where the rows do not say otherwise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was found on one rail. Columns are sites in the order of the occupancy, then time that no span
    explains.

    ``seconds`` (c,) is how long each column was seen; ``power_w`` (c,), ``energies`` and ``idle`` are
    posteriors;
    ``variation`` is κ of ``noise``; ``call_s`` (c,) the usual length of a call; ``score`` how likely the
    readings are, a logarithm.
    """

    seconds: Floats
    power_w: Floats
    energies: Energies
    idle: Idle
    variation: float
    call_s: Floats
    response: Response
    score: float = 0.0


def estimate(
    timeline: Timeline,
    occupancy: Occupancy,
    own: Floats,
    guess: Found,
    idle: Idle,
    seen: Stretches,
    gap: Stretches,
    report: Callable[[float], None] = lambda done: None,
) -> Estimate:
    """The estimate for one rail; ``own`` (n,) are seconds that each span ran by itself, ``seen`` is the
    machine time that the rail saw, ``gap`` what no span explains of it. ``report`` is told the fraction done,
    as far as that is known beforehand."""
    response = guess.response
    short, gap = breaths(occupancy, gap)
    kept = with_breaths(columns(occupancy, own, seen, timeline.spacing_ns / 1e9), short)
    ran_s = np.append(own, (short.end_ns - short.start_ns) / 1e9)
    call_s = np.append(call_seconds(kept.occupancy, ran_s), 1e-3)
    call_s[:-1][kept.single] = np.minimum(call_s[:-1][kept.single], STEADY_S)
    span = np.array([seen.start_ns[0], seen.end_ns[-1]])
    seconds = np.append(seen_seconds(kept.occupancy, seen), gap.seconds_between(span).sum())
    made = _rows(windows(timeline, response), idle, kept.occupancy, gap, call_s)
    if len(made) == 0:
        return _nothing(occupancy, idle, response)
    report(0.3)
    run = _fitted(made, guess, idle, seconds, call_s, kept)
    report(0.6)
    for shift in range(SHIFTS if len(occupancy) < MANY else 1):
        moved = _moved(timeline, response, run, 0.5 if len(occupancy) < MANY else 2.0)
        if moved == response:
            break
        response = moved
        made = _rows(windows(timeline, response), idle, kept.occupancy, gap, call_s)
        run = _fitted(made, guess, idle, seconds, call_s, kept, run)
        report(0.6 + 0.05 * (shift + 1))
    score = guess.score
    rail = timeline.rail
    if _ticks_tell(rail) and not counts(made.windows) and len(timeline.t_ns) > 8 and len(occupancy) < MANY:
        run, response, score = _with_ticks(
            timeline, run, Matter(kept, gap, idle.knots_ns, seconds, call_s), idle, response, guess
        )
    run = replace(run, energies=_rounded(run, kept, idle, made))
    return replace(_spread_out(run, kept, occupancy, own, seen, idle, response), score=score)


def _ticks_tell(rail: Rail) -> bool:
    """Whether a counter's ticks are worth following: an estimate's are those of the system's clock, and its
    joules are not known to a tenth."""
    return rail.kind == "counter" and rail.origin != "estimated"


def _with_ticks(
    timeline: Timeline, run: _Fit, matter: Matter, idle: Idle, response: Response, guess: Found
) -> tuple[_Fit, Response, float]:
    """The fit with the counter's ticks followed; and how likely the readings are."""
    told = timeline.rail.lag_ns is not None
    lag = timeline.rail.lag_ns or 0 if told else max(response.lag_ns - response.window_ns / 2, 0.0)
    ticks = Ticks(float(lag), float(response.window_ns), 0.02)
    quantum_j = windows(timeline, Response(0)).quantum_j
    steps, energy = _steps(timeline, run, matter, idle)
    steps = replace(steps, quantum_j=quantum_j)
    paces = paced(steps.take(busiest(steps)), energy, ticks, told, silent=steps.silent)
    steps = replace(steps, joules=np.diff(timeline.energy_j))
    start = Start(run.powers.mean[: run.powers.columns + len(idle.mean_w)], run.noise.variation)
    summit = highest(steps, quantum_j, paces, told, start, matter, run.beliefs)
    ticks, score = summit.ticks, summit.score
    if summit.factor > LOST:
        return run, response, score
    if ticks.period_ns <= ASKED_NS:
        return *_asked(timeline, run, matter, idle, response, ticks, guess), score
    noise = replace(run.noise, variation=summit.variation)
    rested = _rested(idle, summit.powers, summit.factor) if len(idle.quiet) else run.rested
    spread = _with_idle(summit.energies, run.by_knot, rested, summit.powers, summit.factor)
    run = replace(run, powers=summit.powers, energies=spread, noise=noise, rested=rested)
    return run, Response(int(ticks.lag_ns + ticks.period_ns / 2), int(ticks.period_ns)), score


def _asked(
    timeline: Timeline, run: _Fit, matter: Matter, idle: Idle, response: Response, ticks: Ticks, guess: Found
) -> tuple[_Fit, Response]:
    """The fit of a counter that is fresh whenever it is asked: a reading shows its own moment."""
    kept = matter.kept
    if response != Response(int(ticks.lag_ns)):
        response = Response(int(ticks.lag_ns))
        made = _rows(windows(timeline, response), idle, kept.occupancy, matter.gap, matter.call_s)
        run = _fitted(made, guess, idle, matter.seconds, matter.call_s, kept, run)
    return run, response


def _steps(timeline: Timeline, run: _Fit, matter: Matter, idle: Idle) -> tuple[Steps, Curve]:
    kept, gap = matter.kept, matter.gap
    site_w = run.powers.site
    step_s = timeline.spacing_ns / 1e9
    scatter = curve(kept.occupancy, gap, run.noise.variation * site_w**2 * np.minimum(run.call_s, step_s))
    knots_w = run.powers.mean[run.powers.columns :][: len(idle.mean_w)]
    steps = steps_of(timeline, idle.knots_ns, knots_w, scatter)
    return steps, curve(kept.occupancy, gap, site_w)


def _moved(timeline: Timeline, response: Response, run: _Fit, least: float) -> Response:
    """The response with what the fit says of its lag and window, where that is more than edges can blur.

    ``least`` is in units of the time around an edge that its rates look at.
    """
    shift = run.shift_s * 1e9
    lag, span = response.lag_ns, response.window_ns
    if abs(shift[0]) > least * run.around_ns:
        lag = max(lag + int(shift[0]), timeline.rail.lag_ns if timeline.rail.lag_ns is not None else 0)
        if timeline.rail.kind == "counter":
            lag = max(lag, span // 2)
    if len(shift) > 1 and abs(shift[1]) > least * run.around_ns:
        span = int(np.clip(span + shift[1], 0.5 * span, 2 * span))
    return Response(lag, span)


@dataclass(frozen=True, slots=True)
class _Fit:
    seconds: Floats
    powers: Powers
    energies: Energies
    noise: Noise
    call_s: Floats
    shift_s: Floats
    around_ns: int
    beliefs: Beliefs
    by_knot: Floats
    rested: tuple[Floats, Floats]


def _rows(rows: Windows, idle: Idle, occupancy: Occupancy, gap: Stretches, call_s: Floats) -> Design:
    """The design of those rows in which anything but idle may have happened."""
    quiet = idle.quiet
    inside = quiet.gathered_ns(rows.end_ns) - quiet.gathered_ns(rows.start_ns) >= rows.end_ns - rows.start_ns
    rows = rows.take(~inside)
    columns = 2 * (len(occupancy.sites) + 1) + len(idle.knots_ns)
    rows = coarser(rows, max(int(len(rows) * columns**2 / WORK) + 1, ticks_apart(rows)))
    made = design(rows, occupancy, gap, call_s, idle.knots_ns, float(np.mean(idle.mean_w)), blur_ns(rows))
    wild = glitches([made]) if not rows.linked.any() else np.zeros(0, bool)
    return made.take(~wild) if wild.any() else made


def _fitted(
    plain: Design,
    guess: Found,
    idle: Idle,
    seconds: Floats,
    call_s: Floats,
    kept: Columns,
    before: _Fit | None = None,
) -> _Fit:
    usual_w, least = _usual(plain, idle)
    prior = priors.power_prior(usual_w, least, kept)
    counter = bool(plain.windows.linked.any())
    noise = Noise(USUAL_VARIATION, 0.1 * float(np.median(plain.windows.length_s)) if counter else 0.005)
    usual, extra, at = noise, no_extra(len(plain)), np.full(len(seconds), usual_w)
    believed, alike = priors.believed(idle, guess, counter), priors.alike(kept)
    whole, (plain, _) = plain, _sample(plain, ROUGH)
    extra = no_extra(len(plain))
    made = _with_response(plain, at, counter)
    if before is not None:
        noise, at = before.noise, np.maximum(before.powers.site, 0.05 * usual_w)
        made = _with_response(plain, before.powers.site, counter)
    for turn in range(4 if before is None else 2):
        sample, chosen = _sample(made)
        noise = fit_noise(
            sample, priors.joint(prior, believed), at, Extra(extra.work[chosen], extra.stamp[chosen]), usual
        )
        found = powers(gram(made, at, noise, extra, work=False), prior, believed, alike / usual_w**2)
        at = np.maximum(found.site, 0.05 * usual_w)
        made = _with_response(plain, found.site, counter)
        if turn < 3 or before is not None:
            extra = raised(made, at, _expected(made, found), noise, no_extra(len(made)))
        shape = priors.scatter_shape(found, usual_w, seconds)
        prior = priors.power_prior(usual_w, min(shape, least) if least < priors.SHAPE else shape, kept)
    if len(whole) > len(plain):
        plain = whole
        made = _with_response(plain, found.site, counter)
        extra = raised(made, at, _expected(made, found), noise, no_extra(len(made)))
    sums = gram(made, at, noise, extra)
    found = powers(sums, prior, believed, alike / usual_w**2)
    left = _work_variance(made, sums, seconds, call_s, at, noise)
    spread = energies(sums, found, seconds, left)
    factor = misfit(made, sums, _expected(made, found), at, noise, extra) * few(sums, found)
    by_knot = _by_knot(made, seconds, len(idle.mean_w))
    rested = _rested(idle, found, factor) if len(idle.quiet) else _bounded(idle, found, factor)
    spread = replace(spread, covariance=spread.covariance * factor)
    spread = _with_idle(spread, by_knot, rested, found, factor)
    return _Fit(
        seconds,
        found,
        spread,
        noise,
        call_s,
        found.mean[found.columns + len(idle.mean_w) :],
        blur_ns(plain.windows),
        Beliefs(prior, believed, alike / usual_w**2),
        by_knot,
        rested,
    )


def _usual(plain: Design, idle: Idle) -> tuple[float, float]:
    """The power in watts that sites usually draw, and a gamma shape: how far theirs may scatter about it."""
    whole_j = float(plain.windows.energy_j.sum())
    spent_j = whole_j - float((plain.idle @ idle.mean_w).sum())
    ran_s, loose_s = float(plain.seconds[:, :-1].sum()), float(plain.seconds[:, -1].sum())
    usual_w = max(spent_j, 1e-3 * whole_j, 1e-9) / max(ran_s + min(loose_s, ran_s), 1e-9)
    # Where more time lies outside of spans than in them, their power may be many times that of the whole.
    return usual_w, priors.SHAPE if loose_s < ran_s else priors.UNLIKE


def _rested(idle: Idle, found: Powers, factor: float) -> tuple[Floats, Floats]:
    """Idle's mean (k,) and covariance (k, k), where quiet stretches show it."""
    knots = slice(found.columns, found.columns + len(idle.mean_w))
    mean, shown = idle.settled(found.mean[knots], found.covariance[knots, knots], factor)
    return mean, shown + COARSE**2 * np.outer(mean, mean)


def _bounded(idle: Idle, found: Powers, factor: float) -> tuple[Floats, Floats]:
    """Idle's mean (k,) and covariance (k, k) where no stretch shows it: anywhere from nothing to the lowest
    power that anything ran at, its own included (a uniform distribution), unless there are rests and rows
    that hold some tell it better.

    What sites usually draw above idle would seem to tell idle from the sum of both: it is not asked.
    """
    count = len(idle.mean_w)
    knots = slice(found.columns, found.columns + count)
    mean, shown = found.mean[knots], factor * found.covariance[knots, knots]
    sums = np.eye(found.columns, len(found.mean))
    sums[:, knots] = 1 / count
    highest = sums @ found.mean + 1.96 * np.sqrt(
        np.einsum("ij,jk,ik->i", sums, factor * found.covariance, sums)
    )
    ceiling = max(float(highest.min()), 1e-9)
    if len(idle.rests) and float(np.sqrt(shown.mean())) < 0.5 * ceiling / np.sqrt(12):
        return mean, shown
    return np.full(count, ceiling / 2), np.full((count, count), ceiling**2 / 12)


def _with_idle(
    spread: Energies, by_knot: Floats, rested: tuple[Floats, Floats], found: Powers, factor: float
) -> Energies:
    """The energies if idle is what ``rested`` says, its mean (k,) and covariance (k, k), and not what the
    rows say.

    The rows tell idle from the sites by how power changes within a call, taking a call's power as steady. It
    may creep as idle does, so idle is taken to be where quiet stretches show it, and no better known: what
    the rows say beyond that is the calls', for all sites alike, in proportion to their time.
    """
    knots = slice(found.columns, found.columns + len(rested[0]))
    gained = rested[1] - factor * found.covariance[knots, knots]
    weight, turn = np.linalg.eigh((gained + gained.T) / 2)
    turned = by_knot @ turn
    unseen = (turned * np.maximum(weight, 0.0)) @ turned.T
    mean = spread.mean + by_knot @ (found.mean[knots] - rested[0])
    return Energies(mean, spread.covariance + unseen)


def _by_knot(made: Design, seconds: Floats, knots: int) -> Floats:
    """Each column's ``seconds`` (c,) beside each idle knot (c, k), parted as those the rows hold: several
    times each where windows overlap, a part of them where a meter sees a part of the time.
    """
    share = made.idle[:, :knots] / made.windows.length_s[:, None]
    beside = np.asarray(made.seconds.T @ share)
    held = beside.sum(axis=1)
    return np.asarray(beside * np.where(held > 1e-9, seconds / np.maximum(held, 1e-9), 1.0)[:, None])


def _with_response(plain: Design, site_w: Floats, counter: bool) -> Design:
    """The design with columns for what a second's error of the lag, and of a gauge's window, would do to
    each row.

    A later lag moves both edges back: it adds the power at the start and takes away that at the end. A
    longer window adds the power at its start, but a gauge's sample stands for the mean over the whole.
    """
    assert plain.rate_start is not None
    assert plain.rate_end is not None
    start, end = plain.rate_start @ site_w, plain.rate_end @ site_w
    columns = [plain.idle, (start - end)[:, None]]
    if not counter:
        mean = plain.seconds @ site_w / plain.windows.length_s
        columns.append((start - mean)[:, None])
    return replace(plain, idle=np.concatenate(columns, axis=1))


def _expected(made: Design, found: Powers) -> Floats:
    return np.asarray(
        made.seconds @ found.mean[: found.columns]
        + made.idle @ found.mean[found.columns :][: made.idle.shape[1]]
    )


def _sample(made: Design, most: int = 0) -> tuple[Design, NDArray[np.bool_]]:
    """At most so many rows (0: enough to know the noise by): a few runs of neighbours, spread over the
    whole."""
    most = most or int(np.clip(1.5e8 / made.seconds.shape[1] ** 2, 500, 3000))
    chosen = np.ones(len(made), bool)
    if len(made) > most:
        run = most // 5
        chosen[:] = False
        for low in np.linspace(0, len(made) - run, 5).astype(int):
            chosen[low : low + run] = True
    return made.take(chosen), chosen


def _work_variance(
    made: Design, sums: Gram, seconds: Floats, call_s: Floats, at: Floats, noise: Noise
) -> Floats:
    """Variance of each column's deviations: those in rows, and of time that lies in none, that of its
    calls."""
    spread = made.spread if made.cell_spread is None else made.cell_spread
    in_rows = np.asarray(spread.sum(axis=0)).ravel()
    seconds_in = made.seconds if made.cell_seconds is None else made.cell_seconds
    covered = np.asarray(seconds_in.sum(axis=0)).ravel()
    beyond = np.maximum(seconds - covered, 0.0) * call_s
    return np.asarray(noise.variation * at**2 * (in_rows + beyond))


def _nothing(occupancy: Occupancy, idle: Idle, response: Response) -> Estimate:
    count = len(occupancy.sites) + 1
    return Estimate(
        np.zeros(count),
        np.zeros(count),
        Energies(np.zeros(count), np.zeros((count, count))),
        idle,
        0.0,
        np.zeros(count),
        response,
    )


def _rounded(run: _Fit, kept: Columns, idle: Idle, made: Design) -> Energies:
    """The energies, as unsure as a gauge's steps leave powers that stay the same: each long call by itself,
    and all else together where a meter averages it to one power."""
    rows, single = made.windows, np.append(kept.single, False)
    length_s, shared = float(np.median(rows.length_s)), np.where(single, 0.0, run.seconds)
    alike = np.zeros(len(run.seconds))
    for at in np.flatnonzero(single):
        drawn_w = float(run.powers.site[at])
        sample_w = run.noise.jitter * (drawn_w + float(np.mean(idle.mean_w)))
        in_row = run.noise.variation * min(float(run.call_s[at]) / length_s, 1.0)
        alike[at] = alike_w2(rows, math.hypot(sample_w, drawn_w * math.sqrt(in_row)))
    mixed = np.asarray(made.seconds[:, ~single].sum(axis=1)).ravel() > 0.5 * rows.length_s
    scatter_w = float(np.std((rows.energy_j / rows.length_s)[mixed])) if mixed.any() else 0.0
    covariance = run.energies.covariance + np.diag(alike * run.seconds**2)
    return replace(run.energies, covariance=covariance + alike_w2(rows, scatter_w) * np.outer(shared, shared))


def _spread_out(
    run: _Fit,
    kept: Columns,
    occupancy: Occupancy,
    own_s: Floats,
    seen: Stretches,
    idle: Idle,
    response: Response,
) -> Estimate:
    """From columns back to sites: long calls add up to their site; sites that share a column share it by
    time."""
    count, columns = len(kept.rare), len(run.seconds)
    posterior = replace(idle, mean_w=run.rested[0], covariance=run.rested[1])
    same = kept.occupancy is occupancy
    alone = run.seconds[:-1] if same else seen_seconds(occupancy, seen)
    weights = np.zeros((count + 1, columns))
    own = np.flatnonzero(kept.site >= 0)
    weights[kept.site[own], own] = 1.0
    weights[count, np.append(kept.site == -2, True)] = 1.0
    mean, extra = run.energies.mean, np.zeros(count + 1)
    if kept.rare.any():
        shared = int(np.flatnonzero(kept.site == -1)[0])
        share = np.where(kept.rare, alone, 0.0) / max(float(alone[kept.rare].sum()), 1e-300)
        weights[:count, shared] += share
        extra[:count] = (share * mean[shared]) ** 2
    joules = weights @ mean
    total_s = np.append(alone, float(weights[count] @ run.seconds))
    power_w = np.divide(np.maximum(joules, 0.0), total_s, out=np.zeros(count + 1), where=total_s > 0)
    extra += (COARSE * joules) ** 2
    made = Energies(joules, weights @ run.energies.covariance @ weights.T + np.diag(extra))
    return Estimate(
        total_s,
        power_w,
        made,
        posterior,
        run.noise.variation,
        run.call_s if same else np.append(call_seconds(occupancy, own_s), 1e-3),
        response,
    )
