"""Timelines and spans into a ledger: what each site drew is estimated, and what cannot be known is said.

``attribute`` estimates each site's power from all the intervals it took part in; ``share_by_time`` is the
usual rule, kept as the baseline that it is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter import beat, feeds
from joulemeter import occupancy as occupied
from joulemeter import response as responses
from joulemeter.columns import own_seconds
from joulemeter.design import Response
from joulemeter.estimation import Estimate, estimate
from joulemeter.idle import Idle, find_idle
from joulemeter.ledger import UNKNOWN, Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.occupancy import Occupancy
from joulemeter.others import disturbed
from joulemeter.posterior import Energies, bounded, confounded, is_resolved
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import sparse

    Floats = NDArray[np.float64]

Progress = Callable[[float], None]
"""Called with the fraction done, from 0 to 1."""

MIRRORED = -0.99
"""Correlation of errors below which two sites are one to the meter: it knows their sum seven times as well as
either. Calls of two threads, which err against each other as well, stay above."""

VAGUE = 0.05
"""Intervals narrower than this fraction are good enough whatever they correlate with."""

Rule = Callable[[Timeline, Occupancy, Progress], tuple[RailLedger, list[SiteRail]]]


def attribute(
    timelines: Sequence[Timeline],
    sites: Sequence[Site],
    spans: Spans,
    progress: Progress | None = None,
    lanes: Sequence[str] = (),
) -> Ledger:
    """Where the joules of ``timelines`` went among ``sites``, with 95 % intervals; it conserves.

    A rail with fewer than two readings is not known: NaN. A site that ran only while a rail saw nothing is
    not known on that rail. Spans of sites that ``sites`` lacks get a site named after their number.
    ``lanes`` are the names of the spans' lanes: one that is called after a GPU's rail (``gpu-1 stream 7``)
    draws on that rail alone.
    """
    return _ledger(timelines, sites, spans, progress, _estimated, lanes)


def share_by_time(
    timelines: Sequence[Timeline], sites: Sequence[Site], spans: Spans, progress: Progress | None = None
) -> Ledger:
    """The usual rule: an interval's energy above idle, shared by the time that sites ran in it.

    It gives neighbours the same watts whatever they do, so its intervals span from nothing to all.
    """
    return _ledger(timelines, sites, spans, progress, _shared)


def _ledger(
    timelines: Sequence[Timeline],
    sites: Sequence[Site],
    spans: Spans,
    progress: Progress | None,
    rule: Rule,
    lanes: Sequence[str] = (),
) -> Ledger:
    occupancy = occupied.occupy(sites, spans)
    report = progress or (lambda done: None)
    report(0.3)

    def on(rail: Rail) -> Occupancy:
        """The spans that may have drawn on ``rail``, as far as lanes tell."""
        elsewhere = feeds.elsewhere(rail, spans, lanes)
        return occupied.occupy(occupancy.sites, spans.only(~elsewhere)) if elsewhere.any() else occupancy

    with ThreadPoolExecutor(1) as beside:
        times = beside.submit(_site_times, occupancy)
        rails, entries = _rails(timelines, on, rule, report)
    for place, timeline in enumerate(timelines):
        if timeline.others > 0:
            rails[place], entries[place] = disturbed(
                timeline, rails[place], entries[place], occupancy.sites, times.result()
            )
    dark = feeds.unmetered([rail.rail for rail in rails], spans, lanes)
    if dark.any():
        entries = feeds.unseen(rails, entries, occupancy.sites, spans.only(dark))
    notes = (feeds.UNSEEN,) if dark.any() else ()
    return Ledger(tuple(rails), _site_ledgers(occupancy, times.result(), entries), notes)


def _rails(
    timelines: Sequence[Timeline], on: Callable[[Rail], Occupancy], rule: Rule, report: Progress
) -> tuple[list[RailLedger], list[list[SiteRail]]]:
    rails, entries, all_rails = [], [], [timeline.rail for timeline in timelines]
    for number, timeline in enumerate(timelines):
        within = _part_of(report, 0.3 + 0.7 * number / len(timelines), 0.7 / len(timelines))
        occupancy = on(timeline.rail)
        if math.isnan(timeline.total_j):
            rail, mine = _unmeasured(timeline, occupancy)
        else:
            some = feeds.fed(timeline.rail, all_rails, occupancy)
            rail, mine = feeds.told(*rule(timeline, occupied.only(occupancy, some), within), some)
        rails.append(rail)
        entries.append(mine)
        within(1.0)
    return rails, entries


def _part_of(report: Progress, low: float, width: float) -> Progress:
    """Progress within one part of the whole."""
    return lambda done: report(low + width * done)


def _site_times(occupancy: Occupancy) -> tuple[Floats, Floats]:
    """Seconds of each site (s,), with those that it called and without."""
    exclusive = occupied.path_seconds(occupancy)
    alone = np.bincount(occupancy.path_column, weights=exclusive, minlength=len(occupancy.sites))
    return occupied.site_seconds(occupancy), np.asarray(alone, float)


def _site_ledgers(
    occupancy: Occupancy, times: tuple[Floats, Floats], entries: Sequence[Sequence[SiteRail]]
) -> tuple[SiteLedger, ...]:
    whole, alone = times
    return tuple(
        SiteLedger(
            site,
            int(occupancy.calls[at]),
            float(whole[at]),
            float(alone[at]),
            tuple(each[at] for each in entries),
        )
        for at, site in enumerate(occupancy.sites)
    )


def _unmeasured(timeline: Timeline, occupancy: Occupancy) -> tuple[RailLedger, list[SiteRail]]:
    silent = [SiteRail(timeline.rail.id, False, (), UNKNOWN, UNKNOWN) for _ in occupancy.sites]
    note = ("fewer than two readings: nothing was measured",)
    return RailLedger(
        timeline.rail, UNKNOWN, UNKNOWN, math.nan, math.nan, gaps=timeline.gaps, notes=note
    ), silent


# The estimate ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Whole:
    """A rail's joules in parts that add up: sites (s,), idle, what no span explains, and of that the tail."""

    exclusive_j: Floats
    idle_j: float
    unattributed_j: float
    tail_j: float


def _estimated(
    timeline: Timeline, occupancy: Occupancy, report: Progress
) -> tuple[RailLedger, list[SiteRail]]:
    busy = Stretches(*occupied.busy_stretches(occupancy))
    rough = find_idle(timeline, busy, responses.stated(timeline))
    own = own_seconds(occupancy)
    loose = _unexplained(busy, rough, timeline, Response(0))
    guesses = responses.estimate(timeline, occupancy, own, loose, rough)
    response = guesses[0].response
    idle = find_idle(timeline, busy, response)
    seen, gap = _seen(timeline, response), _unexplained(busy, idle, timeline, response)
    report(0.1)
    steps = [
        _part_of(report, 0.1 + 0.8 * at / len(guesses), 0.8 / len(guesses)) for at in range(len(guesses))
    ]
    found = _mixed(
        [
            estimate(timeline, occupancy, own, guess, idle, seen, gap, step)
            for guess, step in zip(guesses, steps, strict=True)
        ]
    )
    report(0.9)
    response = found.response
    whole = _balanced(timeline, response, found, seen)
    notes = (*responses.notes(timeline.rail, response), *idle.notes)
    entries = _entries(timeline, occupancy, found, seen, whole)
    if beat.beats(timeline, occupancy):
        notes, entries = (*notes, beat.NOTE), beat.unknown(entries, timeline.total_j)
    return _rail_ledger(timeline, response, found, seen, whole, notes), entries


def _mixed(found: Sequence[Estimate]) -> Estimate:
    """One estimate from those under several responses, each weighed by how likely readings are under it.

    Where they disagree, that widens the intervals: the covariance is the mean one plus that of the means.
    """
    if len(found) == 1:
        return found[0]
    # The scores look at some rows only, and take their errors for better known than they are.
    score = np.array([each.score for each in found])
    weight = np.exp((score - score.max()) / 2)
    weight /= weight.sum()
    means = np.array([each.energies.mean for each in found])
    mean = weight @ means
    inside = sum(w * each.energies.covariance for w, each in zip(weight, found, strict=True))
    between = (means - mean).T @ (weight[:, None] * (means - mean))
    likeliest = found[int(np.argmax(weight))]
    return replace(
        likeliest,
        energies=Energies(mean, inside + between),
        power_w=weight @ np.array([each.power_w for each in found]),
    )


def _seen(timeline: Timeline, response: Response) -> Stretches:
    """Machine time whose energy the rail saw: its known stretches, less the lag."""
    edge = np.diff(np.concatenate([[True], timeline.unknown, [True]]).astype(np.int8))
    start, end = timeline.t_ns[np.flatnonzero(edge == -1)], timeline.t_ns[np.flatnonzero(edge == 1)]
    return Stretches(start - response.lag_ns, end - response.lag_ns)


def _unexplained(busy: Stretches, idle: Idle, timeline: Timeline, response: Response) -> Stretches:
    """Time seen in which neither a span runs nor idle rests."""
    seen = _seen(timeline, response)
    explained = busy.joined(idle.rests)
    return explained.complement(int(seen.start_ns[0]), int(seen.end_ns[-1])).within(seen)


def _balanced(timeline: Timeline, response: Response, found: Estimate, seen: Stretches) -> _Whole:
    """Parts that add up to the rail: what the model leaves over is unattributed, what it overshoots is
    taken from all."""
    total = timeline.total_j
    idle_j = max(found.idle.energy(seen)[0], 0.0)
    exclusive = np.where(found.seconds[:-1] > 0, np.maximum(found.energies.mean[:-1], 0.0), 0.0)
    tail_j, other_j = _above_idle(timeline, response, found.idle)
    loose = max(float(found.energies.mean[-1]), 0.0) + other_j
    claimed = idle_j + float(exclusive.sum())
    room = total - claimed
    sigma = found.idle.energy(seen)[1]
    if room < 0:
        # What the parts overshoot is idle's first, within its own error: sites are known better than it.
        idle_j -= min(-room, 2 * sigma, idle_j)
        claimed = idle_j + float(exclusive.sum())
        scale = min(total / max(claimed, 1e-300), 1.0)
        exclusive, idle_j = exclusive * scale, idle_j * scale
        room = max(total - idle_j - float(exclusive.sum()), 0.0)
    unattributed = min(loose + tail_j, room)
    left = room - unattributed
    # What is left over within idle's own error is idle; what is more, nothing explains.
    to_idle = min(left, 2 * sigma)
    unattributed += left - to_idle
    idle_j += to_idle
    attributed = float(exclusive.sum())
    return _Whole(exclusive, idle_j, max(total - idle_j - attributed, 0.0), min(tail_j, unattributed))


def _above_idle(timeline: Timeline, response: Response, idle: Idle) -> tuple[float, float]:
    """Joules above idle in stretches without spans: in tails, and elsewhere where they are beyond doubt."""
    origin, lag = timeline.t_ns[0], response.lag_ns

    def excess(some: Stretches) -> list[tuple[float, float]]:
        """Joules above idle in each of ``some``, with their standard deviation."""
        made = []
        for start, end in zip(some.start_ns.tolist(), some.end_ns.tolist(), strict=True):
            low, high = np.interp(
                [start + lag - origin, end + lag - origin], timeline.t_ns - origin, timeline.energy_j
            )
            mean, sigma, _ = idle.energy(Stretches(np.array([start]), np.array([end])))
            made.append((float(high - low) - mean, sigma))
        return made

    tail_j = sum(max(joules, 0.0) for joules, _ in excess(idle.tails))
    steady = [joules for joules, sigma in excess(idle.quiet) if joules > 3 * sigma]
    return tail_j, max(sum(steady) - tail_j, 0.0)


def _rail_ledger(
    timeline: Timeline,
    response: Response,
    found: Estimate,
    seen: Stretches,
    whole: _Whole,
    notes: tuple[str, ...],
) -> RailLedger:
    total, rail = timeline.total_j, timeline.rail
    gain = rail.relative_error * total
    mean, own = found.idle.energy(seen)[:2]
    taken = max(mean - whole.idle_j, 0.0)
    sigma = math.hypot(own, taken, rail.relative_error / 1.96 * whole.idle_j)
    idle = Energy(whole.idle_j, max(0.0, whole.idle_j - 1.96 * sigma), whole.idle_j + 1.96 * sigma)
    return RailLedger(
        rail,
        Energy(total, total - gain, total + gain),
        idle,
        float(whole.exclusive_j.sum()),
        whole.unattributed_j,
        tail_j=whole.tail_j,
        gaps=timeline.gaps,
        lag_ns=response.lag_ns,
        window_ns=(response.window_ns if rail.kind == "gauge" else 0) or rail.period_ns,
        notes=notes,
    )


def _entries(
    timeline: Timeline, occupancy: Occupancy, found: Estimate, seen: Stretches, whole: _Whole
) -> list[SiteRail]:
    rail, count = timeline.rail, len(occupancy.sites)
    mean = whole.exclusive_j
    # What was taken off so that the parts add up to the whole may be wrong by as much, for all alike.
    taken = np.append(np.where(mean > 0, np.maximum(found.energies.mean[:-1], 0.0) - mean, 0.0), 0.0)
    scaled = Energies(
        np.append(mean, max(found.energies.mean[-1], 0.0)),
        found.energies.covariance + np.outer(taken, taken),
    )
    sigma = np.sqrt(np.maximum(np.diag(scaled.covariance)[:count], 0.0))
    exclusive = [bounded(float(m), float(s), rail.relative_error) for m, s in zip(mean, sigma, strict=True)]
    # A meter's gain is common to all sites: it widens what they took, not what they can be told by.
    told = [bounded(float(m), float(s), 0.0) for m, s in zip(mean, sigma, strict=True)]
    resolved = np.array([is_resolved(each) for each in told], bool)
    inclusive = _inclusive(timeline, occupancy, found, seen, mean, exclusive)
    firm = np.array([is_resolved(each, VAGUE) for each in told], bool)
    joint = {
        at: group for group in confounded(scaled, _doubtful(resolved, firm, mean, scaled)) for at in group
    }
    resolved[[at for at in joint if at < count and not firm[at]]] = False
    ids, twins = [site.id for site in occupancy.sites], _mirrored(scaled, count)
    made = []
    for at in range(count):
        if found.seconds[at] <= 0 and occupancy.calls[at] and _ran(occupancy, at):
            made.append(SiteRail(rail.id, False, (), UNKNOWN, UNKNOWN))
            continue
        # A figure that is known well stands, whoever cannot be told from it.
        group = [] if firm[at] else joint.get(at, [])
        others = tuple(ids[each] for each in group if each != at and each < count)
        shared = _joint(scaled, group, rail.relative_error) if others else None
        own, inside = exclusive[at], inclusive[at]
        if shared is not None and (twins[at] & ~firm)[[each for each in group if each < count]].any():
            # How twins share what they drew together is a guess: either may have drawn all of it, or nothing.
            own = Energy(own.energy_j, 0.0, max(shared.high_j, own.high_j))
            inside = own if inclusive[at] is exclusive[at] else inside
        made.append(SiteRail(rail.id, bool(resolved[at]), others, own, inside, shared))
    return made


def _ran(occupancy: Occupancy, at: int) -> bool:
    return bool((occupancy.column == at).any())


def _doubtful(
    resolved: NDArray[np.bool_], firm: NDArray[np.bool_], mean_j: Floats, found: Energies
) -> NDArray[np.bool_]:
    """Columns (c,) that hold some energy and are not resolved, and pairs whose errors all but mirror each
    other where either is not ``firm``: what two drew together may be known where what either drew is not."""
    some = mean_j > 0
    vague = some & ~firm
    mirrored = _mirrored(found, len(mean_j)) & (vague[:, None] | vague)
    return np.append(some & (~resolved | mirrored.any(axis=1)), False)


def _mirrored(found: Energies, count: int) -> NDArray[np.bool_]:
    """Which sites' errors all but mirror each other's (s, s)."""
    sigma = np.sqrt(np.maximum(np.diag(found.covariance)[:count], 1e-300))
    return np.asarray(found.covariance[:count, :count] / sigma[:, None] / sigma < MIRRORED)


def _joint(found: Energies, group: list[int], gain: float) -> Energy:
    weights = np.zeros(len(found.mean))
    weights[group] = 1.0
    return bounded(*found.of(weights), gain)


def _inclusive(
    timeline: Timeline,
    occupancy: Occupancy,
    found: Estimate,
    seen: Stretches,
    mean: Floats,
    exclusive: list[Energy],
) -> list[Energy]:
    """Each site's energy with all that it called: exclusive energies spread over paths by the time seen."""
    path_s = occupied.path_seconds(occupancy, (seen.start_ns, seen.end_ns))
    under = occupied.callers_matrix(occupancy, path_s)
    seconds: Floats = np.bincount(occupancy.path_column, weights=path_s, minlength=len(mean)).astype(float)
    share = _shares(under, seconds)
    total = np.asarray(share @ mean).ravel()
    variance = (
        _share_variance(share, found, seconds)
        + np.asarray((share.multiply(share @ found.energies.covariance[:-1, :-1])).sum(axis=1)).ravel()
    )
    leaf = np.asarray((share != 0).sum(axis=1)).ravel() <= (share.diagonal() != 0)
    return [
        exclusive[at]
        if leaf[at] or total[at] <= mean[at]
        else bounded(float(total[at]), math.sqrt(max(float(variance[at]), 0.0)), timeline.rail.relative_error)
        for at in range(len(mean))
    ]


def _shares(under: sparse.csr_matrix, seconds: Floats) -> sparse.csr_matrix:
    """The part of each site's (columns) time that ran under each site (rows)."""
    made = under.tocsr().astype(np.float64)
    made.sum_duplicates()
    made.data = made.data / np.maximum(seconds[made.indices], 1e-300)
    made.data = np.minimum(made.data, 1.0)
    made.eliminate_zeros()
    return made


def _share_variance(share: sparse.csr_matrix, found: Estimate, seconds: Floats) -> Floats:
    """Calls vary, so the calls made from one place may have drawn more than their share of the time."""
    per_call = found.variation * found.power_w[:-1] ** 2 * found.call_s[:-1] * seconds
    part = share.copy()
    part.data = share.data * (1 - share.data)
    return np.asarray(part @ per_call).ravel()


# The baseline ---------------------------------------------------------------------------------------


def _shared(timeline: Timeline, occupancy: Occupancy, _: Progress) -> tuple[RailLedger, list[SiteRail]]:
    total = timeline.total_j
    response = Response(timeline.rail.lag_ns or 0, timeline.rail.window_ns or 0)
    idle = find_idle(timeline, Stretches(*occupied.busy_stretches(occupancy)), responses.stated(timeline))
    dt_s, step_j = np.diff(timeline.t_ns) / 1e9, np.diff(timeline.energy_j)
    seen = _seen(timeline, Response(0))
    power = float(np.mean(idle.mean_w))
    seconds = occupied.seconds_between(occupancy, timeline.t_ns)
    dynamic = np.where(timeline.unknown, 0.0, np.maximum(step_j - power * dt_s, 0.0))
    exclusive = np.asarray(
        seconds.T @ (dynamic / np.maximum(dt_s, np.asarray(seconds.sum(axis=1)).ravel()))
    ).ravel()
    idle_j = min(power * float(dt_s[~timeline.unknown].sum()), total)
    exclusive *= min(1.0, (total - idle_j) / max(float(exclusive.sum()), 1e-300))
    path_s = occupied.path_seconds(occupancy, (seen.start_ns, seen.end_ns))
    inside: Floats = np.bincount(occupancy.path_column, weights=path_s, minlength=len(exclusive)).astype(
        float
    )
    inclusive = np.asarray(_shares(occupied.callers_matrix(occupancy, path_s), inside) @ exclusive).ravel()
    made = [
        SiteRail(timeline.rail.id, False, (), Energy(own, 0.0, total), Energy(max(own, all_), 0.0, total))
        for own, all_ in zip(exclusive.tolist(), inclusive.tolist(), strict=True)
    ]
    attributed = float(exclusive.sum())
    rail = RailLedger(
        timeline.rail,
        Energy(total, total, total),
        Energy(idle_j, 0.0, total),
        attributed,
        max(total - idle_j - attributed, 0.0),
        gaps=timeline.gaps,
        lag_ns=response.lag_ns,
        window_ns=response.window_ns,
    )
    return rail, made
