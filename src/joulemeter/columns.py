"""Which powers are sought: one a site, one for each long call, one for all sites that hardly ran."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.design import Stretches
from joulemeter.nesting import parts
from joulemeter.occupancy import Occupancy, column_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

MOST_COLUMNS = 400
"""Sites that get a power of their own; those that ran least share one, and its uncertainty."""

MOST_SINGLE = 60
"""Long calls that get a power of their own."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which powers are sought. ``occupancy`` is in those columns; ``site`` (c,) is the site that each
    belongs to, −1
    for the one that the rarest sites share; ``single`` bool (c,) marks columns that are one long call;
    ``rare`` are the sites (s,) that share a column.
    """

    occupancy: Occupancy
    site: Ints
    single: NDArray[np.bool_]
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
    long = _long_calls(occupancy, own, max(5 * step_s, 0.2))
    if not len(long) and not rare.any():
        return Columns(occupancy, site, np.zeros(count, bool), rare)
    column = column.astype(np.int32).copy()
    owner = column[long]
    column[long] = len(site) + np.arange(len(long))
    split = replace(occupancy, sites=(*sites, *(sites[at] for at in owner)), column=column)
    single = np.append(np.zeros(len(site), bool), np.ones(len(long), bool))
    return Columns(split, np.append(site, site[owner]), single, rare)


def _long_calls(occupancy: Occupancy, own: Floats, least_s: float) -> Ints:
    """The longest calls (rows) that run for at least ``least_s``, mostly by themselves."""
    some = np.flatnonzero(own >= least_s)
    length = (occupancy.end_ns[some] - occupancy.start_ns[some]) / 1e9
    some = some[own[some] > 0.5 * length]
    return some[np.argsort(-own[some])[:MOST_SINGLE]]


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
