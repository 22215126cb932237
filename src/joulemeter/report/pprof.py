"""pprof's profile (github.com/google/pprof/blob/main/proto/profile.proto), gzipped.

A sample is a chain of calls; its values are the calls, the nanoseconds, and the nanojoules on every rail.
pprof knows no joules and shows their numbers with the unit's name. A comment a rail carries origin and
interval; `pprof -comments` prints them.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable

from joulemeter import calltree
from joulemeter import protobuf as pb
from joulemeter.ledger import Ledger
from joulemeter.report import folded
from joulemeter.run import Run
from joulemeter.span import Site

EXTENSION = "pb.gz"
BINARY = True


class _Strings:
    """profile.proto's string table: every text once, the empty one first."""

    def __init__(self) -> None:
        self._places = {"": 0}

    def place(self, text: str) -> int:
        return self._places.setdefault(text, len(self._places))

    def encoded(self) -> bytes:
        return b"".join(pb.text(6, text) for text in self._places)


def render(run: Run, ledger: Ledger) -> bytes:
    """The profile, which `go tool pprof -sample_index=joules_package-0 FILE` opens."""
    strings = _Strings()
    tree = calltree.of(run.spans)
    types = [("calls", "count"), ("time", "nanoseconds")]
    types += [(f"joules_{rail.rail.name}", "nanojoules") for rail in ledger.rails]
    places = {site.id: index + 1 for index, site in enumerate(run.sites)}
    body = [_value_type(1, *(strings.place(text) for text in each)) for each in types]
    body += _samples(tree, ledger, places)
    body += [_location_and_function(places[site.id], site, strings) for site in run.sites]
    body += _rest(ledger, len(places), strings)
    start = run.header.get("start", {})
    body.append(pb.integer(9, int(start.get("wall_ns", 0))))
    body += [pb.integer(13, strings.place(text)) for text in _comments(ledger)]
    if ledger.rails:
        body.append(pb.integer(14, strings.place(types[2][0])))
    return gzip.compress(b"".join(body) + strings.encoded(), mtime=0)


def _value_type(number: int, kind: int, unit: int) -> bytes:
    return pb.data(number, pb.integer(1, kind) + pb.integer(2, unit))


def _samples(tree: calltree.CallTree, ledger: Ledger, places: dict[int, int]) -> list[bytes]:
    energies = [calltree.energy_j(tree, ledger, rail.rail.id) for rail in ledger.rails]
    return [
        _sample(
            [places[site] for site in reversed(tree.path(node))],
            [
                int(tree.calls[node]),
                round(float(tree.exclusive_s[node]) * 1e9),
                *_nanojoules(e[node] for e in energies),
            ],
        )
        for node in range(len(tree))
    ]


def _sample(leaf_first: list[int], values: list[int]) -> bytes:
    return pb.data(2, pb.packed(1, leaf_first) + pb.packed(2, values))


def _nanojoules(values: Iterable[float]) -> list[int]:
    # The format has no word for unknown; the comments say how many samples that befell.
    return [0 if math.isnan(value) else round(value * 1e9) for value in values]


def _rest(ledger: Ledger, used: int, strings: _Strings) -> list[bytes]:
    """What no site explains, as samples of their own: idle and unattributed."""
    made = []
    for index, name in enumerate(("idle", "unattributed")):
        place = used + 1 + index
        values = _nanojoules(dict(folded.parts(rail))[name] for rail in ledger.rails)
        made.append(_sample([place], [0, 0, *values]))
        made.append(_location_and_function(place, Site(place, name), strings))
    return made


def _location_and_function(place: int, site: Site, strings: _Strings) -> bytes:
    line = pb.integer(1, place) + pb.integer(2, site.line)
    location = pb.integer(1, place) + pb.data(4, line)
    names = pb.integer(2, strings.place(site.name)) + pb.integer(3, strings.place(site.name))
    function = (
        pb.integer(1, place) + names + pb.integer(4, strings.place(site.file)) + pb.integer(5, site.line)
    )
    return pb.data(4, location) + pb.data(5, function)


def _comments(ledger: Ledger) -> list[str]:
    said = [folded.title(rail) for rail in ledger.rails]
    for rail in ledger.rails:
        entries = [entry for site in ledger.sites for entry in site.rails if entry.rail == rail.rail.id]
        unknown = sum(math.isnan(entry.exclusive.energy_j) for entry in entries)
        if unknown:
            said.append(f"{rail.rail.name}: {unknown} sites are not known and read 0 here")
    return said
