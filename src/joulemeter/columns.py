"""Which powers are sought: one a site, one for each long call, one for all sites that hardly ran."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.nesting import parts
from joulemeter.occupancy import Occupancy, column_seconds
from joulemeter.span import Site
from joulemeter.stretches import Stretches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

MOST_COLUMNS = 400
"""Sites that get a power of their own; those that ran least share one, and its uncertainty."""

MOST_SINGLE = 60
"""Long calls that get a power of their own."""

UNUSUAL = 8.0
"""Times as long as usual for its site a call is that does something else: compiles, loads, allocates."""

MOST_UNUSUAL = 5
"""The most such calls of one site: one for each kind of input that it meets, say."""

UNUSUAL_STEPS = 0.3
"""Steps of the meter that such a call lasts at least: shorter ones hardly move a reading."""


BREATH = 0.1
"""Part of the usual length of what no span explains below which it is the way from one call to the next."""

MOST_BREATHS = 1_000_000
"""Beyond so many no difference is made: they would take as much memory as the spans."""

WORKS = 0.01
"""Part of the spans' time from which on what no span explains may be work of more than one kind."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which powers are sought. ``occupancy`` is in those columns; ``site`` (c,) is the site that each belongs
    to, −1 for the one that the rarest sites share, −2 for breaths between calls; ``single`` bool (c,) marks
    columns that are one long call, ``unusual`` those of them that are far longer than others of their site;
    ``rare`` are the sites (s,) that share a column.
    """

    occupancy: Occupancy
    site: Ints
    single: NDArray[np.bool_]
    unusual: NDArray[np.bool_]
    rare: NDArray[np.bool_]


def columns(occupancy: Occupancy, own: Floats, seen: Stretches, step_s: float) -> Columns:
    """A column a site; the rarest share one; long calls, whose own deviation many readings see, get one
    each."""
    count = len(occupancy.sites)
    rare = np.zeros(count, bool)
    column, sites, site = occupancy.column, list(occupancy.sites), np.arange(count)
    if count > MOST_COLUMNS:
        alone = seen_seconds(occupancy, seen)
        order = np.argsort(-alone)
        rare[order[MOST_COLUMNS - 1 :]] = True
        place = np.where(rare, MOST_COLUMNS - 1, np.cumsum(~rare) - 1)
        column = place[column]
        sites = [each for each, few in zip(sites, rare, strict=True) if not few] + [sites[int(order[-1])]]
        site = np.append(np.flatnonzero(~rare), -1)
    odd = unusual_calls(occupancy, own, step_s)
    long = np.union1d(_long_calls(occupancy, own, max(5 * step_s, 0.2)), odd)
    long = long[np.argsort(-own[long], kind="stable")[:MOST_SINGLE]]
    none = np.zeros(len(site), bool)
    if not len(long) and not rare.any():
        return Columns(occupancy, site, none, none, rare)
    owner = column[long]
    split = apart(replace(occupancy, sites=tuple(sites), column=column.astype(np.int32)), long)
    single, unusual = np.append(none, np.ones(len(long), bool)), np.append(none, np.isin(long, odd))
    return Columns(split, np.append(site, site[owner]), single, unusual, rare)


def breaths(occupancy: Occupancy, gap: Stretches) -> tuple[Stretches, Stretches]:
    """What no span explains in two: the short ways from one call to the next, and work that nobody recorded,
    which draws otherwise. The first is empty where there is little of the second."""
    length = (gap.end_ns - gap.start_ns).astype(np.float64)
    ran = float((occupancy.end_ns - occupancy.start_ns).sum())
    short = length < BREATH * float((length**2).sum()) / max(float(length.sum()), 1e-300)
    if float(length.sum()) < WORKS * ran or len(gap) > MOST_BREATHS:
        short = np.zeros(len(gap), bool)
    return gap.where(short), gap.where(~short)


def with_breaths(kept: Columns, some: Stretches) -> Columns:
    """The columns and one more, last: ``some`` stretches in which no span runs, as a lane of their own."""
    if not len(some):
        return kept
    before = kept.occupancy
    count = len(before.sites)

    def longer(one: NDArray[np.int32], value: int) -> NDArray[np.int32]:
        return np.append(one, np.full(len(some), value, np.int32))

    occupancy = replace(
        before,
        sites=(*before.sites, Site(-1, "between calls", "run")),
        column=longer(before.column, count),
        enclosing=longer(before.enclosing, -1),
        start_ns=np.append(before.start_ns, some.start_ns),
        end_ns=np.append(before.end_ns, some.end_ns),
        path=longer(before.path, len(before.path_column)),
        path_column=np.append(before.path_column, np.int32(count)),
        path_above=np.append(before.path_above, np.int32(-1)),
    )
    no = np.zeros(1, bool)
    return Columns(
        occupancy,
        np.append(kept.site, -2),
        np.append(kept.single, no),
        np.append(kept.unusual, no),
        kept.rare,
    )


def apart(occupancy: Occupancy, rows: Ints) -> Occupancy:
    """The occupancy with each call of ``rows`` in a column of its own, behind the sites'."""
    column = occupancy.column.copy()
    column[rows] = len(occupancy.sites) + np.arange(len(rows))
    mine = (occupancy.sites[at] for at in occupancy.column[rows])
    return replace(occupancy, sites=(*occupancy.sites, *mine), column=column)


def unusual_calls(occupancy: Occupancy, own: Floats, step_s: float) -> Ints:
    """Calls (rows) far longer than is usual for their site, the longest first: the first call of a function
    that is compiled then, say, and draws what a compiler draws."""
    some = _long_calls(occupancy, own, UNUSUAL_STEPS * step_s)
    if not len(some):
        return some
    count = len(occupancy.sites)
    logs, calls = np.zeros(count), np.zeros(count)
    for part in parts(len(own)):
        column = occupancy.column[part]
        logs += np.bincount(column, weights=np.log(np.maximum(own[part], 1e-4)), minlength=count)
        calls += np.bincount(column, minlength=count)
    mine = occupancy.column[some]
    usual = np.exp(logs / np.maximum(calls, 1))[mine]
    far = own[some] > UNUSUAL * usual
    # Where many are, that is how the site's calls differ, and they may well draw alike.
    few = np.bincount(mine[far], minlength=count) <= MOST_UNUSUAL
    return some[far & few[mine]][:MOST_SINGLE]


def _long_calls(occupancy: Occupancy, own: Floats, least_s: float) -> Ints:
    """Calls (rows) that run for at least ``least_s``, mostly by themselves, the longest first."""
    some = np.flatnonzero(own >= least_s)
    length = (occupancy.end_ns[some] - occupancy.start_ns[some]) / 1e9
    some = some[own[some] > 0.5 * length]
    return np.asarray(some[np.argsort(-own[some], kind="stable")])


def seen_seconds(occupancy: Occupancy, seen: Stretches) -> Floats:
    """Innermost-running seconds of each column within what was seen (c,)."""
    return column_seconds(occupancy, (seen.start_ns, seen.end_ns))


def call_seconds(occupancy: Occupancy, own: Floats) -> Floats:
    """How long a call of each column runs without a break, longer calls counting more: Σd²/Σd (c,)."""
    count = len(occupancy.sites)
    once, twice = np.zeros(count), np.zeros(count)
    for part in parts(len(own)):
        column, mine = occupancy.column[part], own[part]
        once += np.bincount(column, weights=mine, minlength=count)
        twice += np.bincount(column, weights=mine * mine, minlength=count)
    return np.asarray(np.divide(twice, once, out=np.full(count, 1e-3), where=once > 0))


def own_seconds(occupancy: Occupancy) -> Floats:
    """Seconds that each span ran by itself (n,)."""
    own = (occupancy.end_ns - occupancy.start_ns) / 1e9
    for part in parts(len(own)):
        above = occupancy.enclosing[part]
        nested = np.flatnonzero(above >= 0)
        length = (occupancy.end_ns[part][nested] - occupancy.start_ns[part][nested]) / 1e9
        np.subtract.at(own, above[nested], length)
    return np.maximum(own, 0.0, out=own)
