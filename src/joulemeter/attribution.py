"""Timelines and spans into a ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from joulemeter import occupancy as occupied
from joulemeter.idle import Idle, find_idle
from joulemeter.ledger import UNKNOWN, Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.occupancy import Occupancy
from joulemeter.span import Site, Spans
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Progress = Callable[[float], None]
"""Called with the fraction done, from 0 to 1."""


def attribute(
    timelines: Sequence[Timeline], sites: Sequence[Site], spans: Spans, progress: Progress | None = None
) -> Ledger:
    """Where the joules of ``timelines`` went among ``sites``."""
    return share_by_time(timelines, sites, spans, progress)


def share_by_time(
    timelines: Sequence[Timeline], sites: Sequence[Site], spans: Spans, progress: Progress | None = None
) -> Ledger:
    """The usual rule: an interval's energy above idle, shared by the time that sites ran in it.

    It gives neighbours the same watts whatever they do, so its intervals span from nothing to all.
    """
    occupancy = occupied.occupy(sites, spans)
    report = progress or (lambda done: None)
    report(0.3)
    rails, entries = [], []
    for number, timeline in enumerate(timelines):
        rail, mine = _rail_by_time(timeline, occupancy)
        rails.append(rail)
        entries.append(mine)
        report(0.3 + 0.7 * (number + 1) / len(timelines))
    return Ledger(tuple(rails), _site_ledgers(occupancy, entries))


def _site_ledgers(occupancy: Occupancy, entries: Sequence[Sequence[SiteRail]]) -> tuple[SiteLedger, ...]:
    whole = occupied.site_seconds(occupancy)
    exclusive = occupied.path_seconds(occupancy)
    alone = np.bincount(occupancy.path_column, weights=exclusive, minlength=len(occupancy.sites))
    return tuple(
        SiteLedger(site, int(occupancy.calls[at]), float(whole[at]), float(alone[at]), tuple(each[at] for each in entries))
        for at, site in enumerate(occupancy.sites)
    )


def _rail_by_time(timeline: Timeline, occupancy: Occupancy) -> tuple[RailLedger, list[SiteRail]]:
    width, total = len(occupancy.sites), timeline.total_j
    if np.isnan(total):
        silent = [SiteRail(timeline.rail.id, False, (), UNKNOWN, UNKNOWN) for _ in range(width)]
        note = ("fewer than two readings: nothing was measured",)
        return RailLedger(timeline.rail, UNKNOWN, UNKNOWN, np.nan, np.nan, gaps=timeline.gaps, notes=note), silent
    idle = find_idle(timeline, occupied.busy_stretches(occupancy))
    dt_s, step_j = np.diff(timeline.t_ns) / 1e9, np.diff(timeline.energy_j)
    seen_s = float(dt_s[~timeline.unknown].sum())
    seconds = occupied.seconds_between(occupancy, timeline.t_ns)
    dynamic = np.where(timeline.unknown, 0.0, np.maximum(step_j - idle.power_w * dt_s, 0.0))
    share = dynamic / np.maximum(dt_s, np.asarray(seconds.sum(axis=1)).ravel())
    exclusive = np.asarray(seconds.T @ share).ravel()
    idle_j = min(idle.power_w * seen_s, total)
    exclusive *= min(1.0, (total - idle_j) / max(exclusive.sum(), 1e-300))
    inclusive = _inclusive(timeline, occupancy, exclusive)
    ceiling = max(0.0, total - min(idle.low_w * seen_s, total))
    made = [
        SiteRail(timeline.rail.id, False, (), _bounded(own, ceiling), _bounded(whole, ceiling))
        for own, whole in zip(exclusive.tolist(), inclusive.tolist(), strict=True)
    ]
    return _rail_ledger(timeline, idle, idle_j, seen_s, exclusive), made


def _bounded(energy_j: float, ceiling_j: float) -> Energy:
    return Energy(energy_j, 0.0, max(ceiling_j, energy_j) if energy_j > 0 else 0.0)


def _rail_ledger(timeline: Timeline, idle: Idle, idle_j: float, seen_s: float, exclusive: Floats) -> RailLedger:
    total, rail = timeline.total_j, timeline.rail
    attributed = float(exclusive.sum())
    gain = rail.relative_error * total
    bounds = (min(idle.low_w * seen_s, idle_j), max(idle.high_w * seen_s, idle_j))
    return RailLedger(
        rail,
        Energy(total, total - gain, total + gain),
        Energy(idle_j, *bounds),
        attributed,
        total - idle_j - attributed,
        gaps=timeline.gaps,
        lag_ns=rail.lag_ns or 0,
        window_ns=rail.window_ns or rail.period_ns,
        notes=idle.notes,
    )


def _inclusive(timeline: Timeline, occupancy: Occupancy, exclusive: Floats) -> Floats:
    """Each site's energy with all that it called: exclusive energies spread over paths by seen time."""
    path_s = occupied.path_seconds(occupancy, seen_stretches(timeline))
    site_s = np.bincount(occupancy.path_column, weights=path_s, minlength=len(exclusive))
    power = np.divide(exclusive, site_s, out=np.zeros_like(exclusive), where=site_s > 0)
    under = occupied.callers_matrix(occupancy, path_s)
    return np.maximum(np.asarray(under @ power).ravel(), exclusive)


def seen_stretches(timeline: Timeline) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the stretches whose energy the rail saw."""
    edge = np.diff(np.concatenate([[True], timeline.unknown, [True]]).astype(np.int8))
    return timeline.t_ns[np.flatnonzero(edge == -1)], timeline.t_ns[np.flatnonzero(edge == 1)]
