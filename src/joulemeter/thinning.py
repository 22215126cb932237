"""Long recordings thinned to what a screen can show: what is merged is counted, never dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import calltree
from joulemeter.span import Spans
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Mean power over each stretch from ``t_ns[i]`` to ``t_ns[i + 1]``; NaN where nobody saw it.

    ``t_ns`` int64 (n + 1,), ``mean_w``, ``low_w`` and ``high_w`` float64 (n,): the mean, and the lowest and
    highest mean over the readings' own stretches inside.
    """

    t_ns: NDArray[np.int64]
    mean_w: NDArray[np.float64]
    low_w: NDArray[np.float64]
    high_w: NDArray[np.float64]


def power(timeline: Timeline, most: int = 4000) -> PowerCurve:
    """The power of a rail in at most ``most`` stretches of readings; the energy of each is kept."""
    count = len(timeline.t_ns) - 1
    if count < 1:
        nothing = np.empty(0)
        return PowerCurve(np.asarray(timeline.t_ns), nothing, nothing, nothing)
    edges = np.unique(np.linspace(0, count, min(count, most) + 1).astype(np.int64))
    starts = edges[:-1]
    dt_s = np.diff(timeline.t_ns) / 1e9
    step_w = np.where(timeline.unknown, np.nan, np.diff(timeline.energy_j) / dt_s)
    seen_s = np.add.reduceat(np.where(timeline.unknown, 0.0, dt_s), starts)
    joules = np.add.reduceat(np.where(timeline.unknown, 0.0, np.diff(timeline.energy_j)), starts)
    mean_w = np.divide(joules, seen_s, out=np.full(len(starts), np.nan), where=seen_s > 0)
    low_w, high_w = np.fmin.reduceat(step_w, starts), np.fmax.reduceat(step_w, starts)
    return PowerCurve(timeline.t_ns[edges], mean_w, low_w, high_w)


@dataclass(frozen=True, slots=True)
class Strip:
    """Spans to draw, each alone (``count`` 1) or merged with its short neighbours of one lane and depth.

    All of one length: ``lane``, ``depth``, ``start_ns``, ``end_ns``, ``site`` (of a merged one: the site that
    took most of its time) and ``count``, the spans it stands for.
    """

    lane: NDArray[np.int64]
    depth: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    site: NDArray[np.int64]
    count: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lane)


def strip(spans: Spans, most: int = 20_000, bins: int = 2048, deepest: int = 40) -> Strip:
    """At most about ``most`` single spans, the longest, and the rest merged into ``bins`` stretches of time.

    Spans nested deeper than ``deepest`` are merged into that depth. The counts add up to the spans given.
    """
    depth = np.minimum(calltree.depths(spans), deepest).astype(np.int64)
    took = spans.end_ns - spans.start_ns
    alone = np.ones(len(spans), bool)
    if len(spans) > most:
        alone = took > np.partition(took, len(took) - most)[len(took) - most]
    single = _rows(spans, depth, np.flatnonzero(alone))
    if alone.all():
        return Strip(*single)
    merged = _merged(spans, depth, np.flatnonzero(~alone), bins)
    return Strip(*(np.concatenate(pair) for pair in zip(single, merged, strict=True)))


def _rows(spans: Spans, depth: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[Any]]:
    columns = [spans.lane[rows], depth[rows], spans.start_ns[rows], spans.end_ns[rows], spans.site[rows]]
    return [np.asarray(column, np.int64) for column in columns] + [np.ones(len(rows), np.int64)]


def _merged(
    spans: Spans, depth: NDArray[np.int64], rows: NDArray[np.int64], bins: int
) -> list[NDArray[np.int64]]:
    lane, level, start, end, site, _ = _rows(spans, depth, rows)
    first, last = int(start.min()), int(end.max())
    place = np.minimum((start - first) * bins // max(1, last - first), bins - 1)
    key = (lane * (int(level.max()) + 1) + level) * bins + place
    # Sorted by stretch, then by site: every stretch is a run of rows, and every site a run within it.
    order = np.lexsort((site, key))
    key, site, start, end = key[order], site[order], start[order], end[order]
    edge = np.flatnonzero(np.append(True, np.diff(key) != 0))
    of_site = np.flatnonzero(np.append(True, (np.diff(key) != 0) | (np.diff(site) != 0)))
    took = np.add.reduceat(end - start, of_site)
    # The site with most time of each stretch: the last one after sorting by stretch and time.
    ranked = np.lexsort((took, key[of_site]))
    winner = ranked[np.append(np.flatnonzero(np.diff(key[of_site][ranked])), len(ranked) - 1)]
    return [
        lane[order][edge],
        level[order][edge],
        np.minimum.reduceat(start, edge),
        np.maximum.reduceat(end, edge),
        site[of_site][winner],
        np.diff(np.append(edge, len(key))),
    ]
