"""Perfetto's trace (ui.perfetto.dev): slices for spans, counter tracks for power, slices for gaps.

Field numbers are those of perfetto/protos/perfetto/trace (track_event.proto, track_descriptor.proto,
interned_data.proto). Names and places are interned, so that a span costs some twenty bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from joulemeter import calltree, thinning
from joulemeter import protobuf as pb
from joulemeter.ledger import Ledger, SiteRail
from joulemeter.report import folded
from joulemeter.run import Run
from joulemeter.span import Site

EXTENSION = "perfetto-trace"
BINARY = True

ANNOTATED_SPANS = 200_000
"""Up to so many spans, each carries its site's joules; beyond, the file would triple."""

_SEQUENCE = 1
_BEGIN, _END, _COUNTER = 1, 2, 4
_ROOT = 1
_CLEARED, _NEEDS = 1, 2


def render(run: Run, ledger: Ledger) -> bytes:
    """The trace. A counter stops at a gap, and a slice beside it says why: the unseen is not drawn as 0 W."""
    packets = [_first(run, ledger), _track(_ROOT, _title(run), process=True)]
    for number in range(len(ledger.rails)):
        packets += _rail(run, ledger, number, 100 + 2 * number)
    for lane in np.unique(run.spans.lane).tolist():
        packets.append(_track(10_000 + lane, run.lane_name(lane), _ROOT))
    annotated = len(run.spans) <= ANNOTATED_SPANS
    energies = {site.site.id: _annotations(site.rails, ledger) for site in ledger.sites} if annotated else {}
    packets += _slices(run, energies)
    return b"".join(pb.data(1, packet) for packet in packets)


def _title(run: Run) -> str:
    return " ".join(map(str, run.header.get("argv", ()))) or run.folder.name


def _packet(t_ns: int | None, body: bytes, flags: int = _NEEDS) -> bytes:
    stamp = b"" if t_ns is None else pb.integer(8, t_ns)
    return stamp + pb.integer(10, _SEQUENCE) + pb.integer(13, flags) + body


def _first(run: Run, ledger: Ledger) -> bytes:
    """The interned names of all sites and of the annotations, which later packets refer to."""
    names = [pb.data(2, pb.integer(1, site.id + 1) + pb.text(2, site.name)) for site in run.sites]
    places = [pb.data(4, _place(site)) for site in run.sites if site.file]
    said = [
        pb.data(3, pb.integer(1, index + 1) + pb.text(2, text)) for index, text in enumerate(_words(ledger))
    ]
    return _packet(None, pb.data(12, b"".join(names + said + places)), _CLEARED)


def _place(site: Site) -> bytes:
    where = pb.integer(1, site.id + 1) + pb.text(2, site.file) + pb.text(3, site.function)
    return where + pb.integer(4, site.line)


def _words(ledger: Ledger) -> list[str]:
    """The annotations' names, three a rail."""
    return [
        f"{rail.rail.name} ({rail.rail.origin}): {what} of the site"
        for rail in ledger.rails
        for what in ("net exclusive J", "low J", "high J")
    ]


def _annotations(entries: tuple[SiteRail, ...], ledger: Ledger) -> bytes:
    order = {rail.rail.id: place for place, rail in enumerate(ledger.rails)}
    out = b""
    for entry in entries:
        energy = entry.exclusive
        first = 3 * order[entry.rail] + 1
        for place, value in enumerate((energy.energy_j, energy.low_j, energy.high_j)):
            if not math.isnan(value):
                out += pb.data(4, pb.integer(1, first + place) + pb.double(5, value))
    return out


def _track(uuid: int, name: str, parent: int = 0, process: bool = False, counter: bool = False) -> bytes:
    body = pb.integer(1, uuid) + pb.text(2, name)
    if parent:
        body += pb.integer(5, parent)
    if process:
        body += pb.data(3, pb.integer(1, 1) + pb.text(6, name))
    if counter:
        body += pb.data(8, pb.text(6, "W"))
    return _packet(None, pb.data(60, body), 0)


def _event(t_ns: int, kind: int, track: int, body: bytes = b"") -> bytes:
    return _packet(t_ns, pb.data(11, pb.integer(9, kind) + pb.integer(11, track) + body))


def _rail(run: Run, ledger: Ledger, number: int, uuid: int) -> Iterator[bytes]:
    """A counter track of power, and where there are gaps, a track that names them."""
    rail = ledger.rails[number]
    yield _track(uuid, folded.title(rail), _ROOT, counter=True)
    timeline = next(each for each in run.timelines() if each.rail.id == rail.rail.id)
    curve = thinning.power(timeline, most=max(1, len(timeline.t_ns)))
    for t_ns, power_w in zip(curve.t_ns, [*curve.mean_w, math.nan], strict=False):
        yield _event(int(t_ns), _COUNTER, uuid, pb.double(44, float(power_w)))
    if rail.gaps:
        yield _track(uuid + 1, f"{rail.rail.name}: not seen", _ROOT)
    for gap in rail.gaps:
        yield _event(gap.start_ns, _BEGIN, uuid + 1, pb.text(23, f"not seen: {gap.reason}"))
        yield _event(gap.end_ns, _END, uuid + 1)


def _slices(run: Run, annotations: dict[int, bytes]) -> Iterator[bytes]:
    """Begin and end of every span, lane by lane in time; an outer span begins first and ends last."""
    spans = run.spans
    depth = calltree.depths(spans)
    order = np.lexsort((depth, -spans.end_ns, spans.start_ns, spans.lane))
    begun = {site.id: _begin(site, annotations.get(site.id, b"")) for site in run.sites}
    open_ends: list[int] = []
    lane = -1
    for row in order:
        start, end = int(spans.start_ns[row]), int(spans.end_ns[row])
        if int(spans.lane[row]) != lane:
            yield from _closed(open_ends, None, lane)
            lane = int(spans.lane[row])
        yield from _closed(open_ends, start, lane)
        yield _event(start, _BEGIN, 10_000 + lane, begun[int(spans.site[row])])
        # On one lane spans nest: one that outlives the span it began in ends with it.
        open_ends.append(min(end, open_ends[-1]) if open_ends else end)
    yield from _closed(open_ends, None, lane)


def _begin(site: Site, annotations: bytes) -> bytes:
    body = pb.integer(10, site.id + 1) + pb.text(22, site.kind) + annotations
    return body + pb.integer(34, site.id + 1) if site.file else body


def _closed(open_ends: list[int], until_ns: int | None, lane: int) -> Iterator[bytes]:
    while open_ends and (until_ns is None or open_ends[-1] <= until_ns):
        yield _event(open_ends.pop(), _END, 10_000 + lane)
