"""Powers that make the readings of a ticking counter most probable, whatever the ages of what it showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.columns import Columns
from joulemeter.posterior import Energies, Powers, energies, powers
from joulemeter.priors import Beliefs
from joulemeter.slopes import Slopes, Spread, Table, Walk, gram_of, slopes, table
from joulemeter.stretches import Stretches
from joulemeter.ticks import (
    ASKED_NS,
    MOST_PERIOD_NS,
    MOST_STEPS,
    Steps,
    Ticks,
    as_read,
    bins_of,
    excerpt,
    nearly,
    neighbours,
    when_asked,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

TURNS = 20
"""Newton's steps, at most: far from the summit pulls scatter more than slopes there are steep, and steps are
short."""

SETTLED = 0.3
"""The last step moves no power by more than this part of its standard deviation, or by a thousandth."""

CELLS = 25_000_000
"""Cells of a table that is held at once."""

BARELY = 0.1
"""Part of what an age stands for below which a lag is right."""

STRETCHES = 40
"""Stretches of steps over which pulls are compared with what is said of them."""

EVEN = 0.1
"""How much the logarithms of how far calls scatter and ages blur still move when they are settled."""

DOUBT = 0.4
"""Precision of the logarithm of how far calls scatter, before the readings speak."""

TRIED = 3_000
"""Steps by which paces are told from each other."""

GLANCE = 3
"""Newton's steps under a pace that is tried."""

CLEAR = 1.0
"""How much likelier, as a logarithm, another pace has to be."""

SHORT = 0.1
"""Ticks that are this part of a read apart are easily taken for one at each read, or the other way round."""

BLURRED = 5.0
"""Times as far as the time that it stands for an age is blurred where the pace is wrong."""

ROUNDS = 3
"""How often a pace is sought, with the powers of the one before."""

HOPELESS = 200.0
"""How much less likely, as a logarithm, a pace is that no better powers will save."""


@dataclass(frozen=True, slots=True)
class Matter:
    """What readings are explained by: ``kept`` columns and the ``gap`` that none explains, idle's
    ``knots_ns``,
    ``seconds`` (c,) seen and ``call_s`` (c,), the usual length of a call."""

    kept: Columns
    gap: Stretches
    knots_ns: Ints
    seconds: Floats
    call_s: Floats


@dataclass(frozen=True, slots=True)
class Start:
    """Where the search begins: ``powers`` (c + k,), κ, by how much calls of one site scatter, and by how much
    ages blur."""

    powers: Floats
    variation: float
    blur: float = 1.0


@dataclass(frozen=True, slots=True)
class Summit:
    """Where it ends."""

    powers: Powers
    energies: Energies
    variation: float
    blur: float
    ticks: Ticks
    score: float
    factor: float

    @property
    def start(self) -> Start:
        """To go on from here; of the powers' means the last is the lag's."""
        return Start(self.powers.mean[:-1], self.variation, self.blur)


def highest(
    steps: Steps,
    quantum_j: float,
    paces: Sequence[Ticks],
    told: bool,
    start: Start,
    matter: Matter,
    beliefs: Beliefs,
) -> Summit:
    """The summit under the likeliest of ``paces``, and on to its neighbours while readings grow likelier;
    of short ticks, also of a counter that is fresh whenever it is asked.

    A pace found by a few readings under rough powers may be another's alias: ten ticks between two reads look
    like nine longer ones, as long as powers are not those that fit best; and short ticks may take up what
    rough powers leave over.
    """
    some, spacing_ns = excerpt(steps, TRIED), float(np.median(np.diff(steps.t_ns)))

    def tried(pace: Ticks, begin: Start, least: float) -> Summit:
        """The best found from ``begin`` on the excerpt, left early where it lies below ``least``."""
        return climbed(some, quantum_j, pace, told, begin, matter, beliefs, GLANCE, least)

    done, asked = _parted(paces, spacing_ns, told)
    fresh = [climbed(steps, quantum_j, pace, told, start, matter, beliefs) for pace in asked]
    if not done:
        return fresh[0]

    def nearby(best: Summit, done: list[Ticks]) -> Summit:
        """The best of ``best`` and the neighbours that are not ``done``, and of theirs."""
        while True:
            for pace in neighbours(best.ticks, spacing_ns, told):
                if any(nearly(pace, each, spacing_ns) for each in done):
                    continue
                done.append(pace)
                other = tried(pace, best.start, best.score - HOPELESS)
                if other.score > best.score + CLEAR:
                    best = other
                    break
            else:
                return best

    best = max((tried(pace, start, -np.inf) for pace in done), key=lambda each: each.score)
    begin, reached = start, fresh
    for _ in range(ROUNDS):
        best = nearby(best, done)
        # Some steps tell nothing of what did not run in them, and from a power far off no step leads back.
        begin = best.start if len(some.joules) == len(steps.joules) else begin
        found = climbed(steps, quantum_j, best.ticks, told, begin, matter, beliefs)
        reached.append(found)
        begin = found.start
        again = tried(found.ticks, begin, best.score)
        if again.score < best.score + CLEAR:
            break
        # Under better powers another pace may be the likeliest.
        best, done = again, [again.ticks]
    if _blurred(reached[-1], *fresh) and spacing_ns <= MOST_PERIOD_NS:
        # Rough powers made a wrong pace likely: ticks at the pace of the reads look like many short ones.
        usual = as_read(reached[-1].ticks, spacing_ns, told)
        reached.append(climbed(steps, quantum_j, usual, told, begin, matter, beliefs))
    return max(reached, key=lambda each: each.score)


def _blurred(*summits: Summit) -> bool:
    """Whether ages are blurred beyond belief under each. A counter that is fresh whenever it is asked looks
    like many short ticks too, but taken for what it is it shows what it should."""
    return all(each.blur > BLURRED for each in summits)


def _parted(paces: Sequence[Ticks], spacing_ns: float, told: bool) -> tuple[list[Ticks], list[Ticks]]:
    """Paces that tick, and those that are fresh whenever they are asked: one of these where all tick fast."""
    done = [pace for pace in paces if pace.period_ns > ASKED_NS]
    asked = [pace for pace in paces if pace.period_ns <= ASKED_NS]
    if done and not asked and done[0].period_ns < SHORT * spacing_ns:
        asked = [when_asked(done[0], told)]
    return done, asked


def climbed(
    steps: Steps,
    quantum_j: float,
    ticks: Ticks,
    told: bool,
    start: Start,
    matter: Matter,
    beliefs: Beliefs,
    turns: int = TURNS,
    least: float = -np.inf,
) -> Summit:
    """Newton's steps upon the slopes, under what is believed; ``told``: the lag is known.

    They end where readings are less likely than ``least``.

    Of very many steps some are looked at: powers come from those, what ran elsewhere from the powers.
    """
    count, usual_w = len(matter.seconds), float(beliefs.power.mean[0])
    step_s = float(np.median(np.diff(steps.t_ns))) / 1e9
    at, variation, blur = start.powers, start.variation, start.blur
    most = CELLS // (bins_of(ticks) * (count + len(matter.knots_ns)))
    steps = excerpt(steps, min(most, MOST_STEPS))
    made, walk = _table(steps, ticks, matter), Walk(steps, ticks, bins_of(ticks))
    # Rows of which no two are neighbours count as a gauge's and bring a belief of a window: it has no slope.
    others = beliefs.others.first(len(matter.knots_ns) + 1)
    for _ in range(turns):
        site_w = np.maximum(at[:count], 0.05 * usual_w)
        rate = variation * site_w**2 * np.minimum(matter.call_s, step_s)
        found, looked_at = slopes(walk, made, at, Spread(rate, blur, quantum_j**2 / 6 + 1e-18)), at
        sums = gram_of(found, np.append(at, 0.0), rate)
        post = powers(sums, beliefs.power, others, beliefs.alike)
        moved = post.mean[:-1] - at
        grown = np.exp(np.clip(_grown(found), -1, 1))
        settled = _settled(moved[:count], at[:count], post) and bool(np.abs(np.log(grown)).max() < EVEN)
        if found.score < least or settled:
            break
        variation, blur = variation * grown[0], blur * grown[1]
        at = at + moved
        if not told and abs(post.mean[-1]) > BARELY * made.width_s:
            ticks = replace(ticks, lag_ns=max(ticks.lag_ns + post.mean[-1] * 1e9, 0.0))
            made = _table(steps, ticks, matter)
    factor = _misfit(found, np.maximum(matter.call_s / step_s, 1.0), beliefs)
    sums = gram_of(found, np.append(looked_at, 0.0), rate, fair=True)
    post = replace(post, covariance=powers(sums, beliefs.power, others, beliefs.alike).covariance)
    spread = energies(sums, post, matter.seconds, rate * matter.seconds)
    missed = np.diag(_missed(found, made, count) ** 2)
    spread = replace(spread, covariance=spread.covariance * factor + missed)
    return Summit(post, spread, variation, blur, ticks, found.score, factor)


def _missed(found: Slopes, made: Table, count: int) -> Floats:
    """Joules (c,) that steps show beyond what powers explain, by the time that each column ran in them: where
    those are so many that the powers were not moved by them, nobody knows whose they are."""
    middle = made.upto[:, made.upto.shape[1] // 2, :count]
    ran_s = np.diff(middle, axis=0)
    share = ran_s / np.maximum(ran_s.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(found.missed_j @ share)


def _settled(moved: Floats, at: Floats, found: Powers) -> bool:
    """Whether a step moved the columns' powers ``at`` (c,) by no more than is told of them anyway."""
    sigma = np.sqrt(np.diag(found.covariance)[: len(at)])
    return bool((np.abs(moved) <= np.maximum(SETTLED * sigma, 1e-3 * np.abs(at))).all())


def _grown(found: Slopes) -> Floats:
    """By how much the logarithms of scatter and blur are to grow."""
    pull = found.on_spread.sum(axis=0)
    return np.asarray(pull / ((found.on_spread**2).sum(axis=0) + DOUBT))


def _table(steps: Steps, ticks: Ticks, matter: Matter) -> Table:
    return table(steps.t_ns, ticks, bins_of(ticks), matter.kept.occupancy, matter.gap, matter.knots_ns)


def _misfit(found: Slopes, steps_a_call: Floats, beliefs: Beliefs) -> float:
    """By what factor pulls of neighbouring steps go together, where they should not: at least 1.

    Over the ``steps_a_call`` (c,) that a call takes, pulls on its power do, since it draws more or less than
    usual in all of them. That is no misfit: what it drew is read off those steps, whatever is usual.
    """
    pulls = found.pulls[:, : len(steps_a_call)]
    said = (pulls**2).sum(axis=0)
    told = said * beliefs.power.mean**2 > 4
    starts = np.arange(0, len(pulls), max(len(pulls) // STRETCHES, 10))
    if len(starts) < 8 or not told.any():
        return 1.0
    seen = (np.add.reduceat(pulls, starts, axis=0) ** 2).sum(axis=0)
    return float(np.clip(np.mean(seen[told] / (said * steps_a_call)[told]), 1.0, 25.0))
