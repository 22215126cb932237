"""The raw files of a recording, read back: lanes of enter and exit stamps, readings, sites, rails.

    raw/rails.json              the rails the sampler reads
    raw/readings-K.bin          records (rail int16, t_ns int64, value float64), little-endian, packed
    raw/sampler.json            the sampler's own account
    raw/sites-PID.jsonl         a site, a lane's name, an argument distribution or a loss a line
    raw/lane-PID-N.bin          pairs of int64: (t_ns, site) on entering, (t_ns, −1) on leaving; zeros after
    raw/added-PID.bin           five int64: lane, site, start_ns, end_ns, parent site or −1

Every file may end in the middle of a record: its writer may have been killed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.errors import RunFolderError
from joulemeter.reading import Rail
from joulemeter.run import Run
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

READING = np.dtype([("rail", "<i2"), ("t_ns", "<i8"), ("value", "<f8")])


def read(raw: Path, folder: Path, header: dict[str, Any]) -> Run:
    """The run that the raw files of ``raw`` hold, under ``header``."""
    readings = read_readings(raw)
    sites, notes, lanes, arguments = _Sites(), list(header.get("notes", [])), [], {}
    last_ns = int(readings["t_ns"].max()) if len(readings) else 0
    for process, path in enumerate(sorted(raw.glob("sites-*.jsonl"))):
        pid = path.stem.removeprefix("sites-")
        own = _read_sites(path)
        ids = sites.merge(own.sites)
        arguments.update({ids[own_id]: value for own_id, value in own.arguments.items() if own_id in ids})
        notes += own.notes
        lanes += [(process, *lane) for lane in _process_lanes(raw, pid, ids, own.lane_names)]
    spans, lane_names = _joined(lanes, last_ns)
    known = tuple(
        Site(**{**site.to_json(), "arguments": arguments.get(site.id, site.arguments)}) for site in sites.all
    )
    rest = {key: value for key, value in header.items() if key not in ("rails", "sites")}
    rest |= {"notes": notes, "lanes": lane_names}
    columns = (np.ascontiguousarray(readings[name]) for name in ("rail", "t_ns", "value"))
    return Run(folder, rest, read_rails(raw), known, spans, *columns)


def read_rails(raw: Path) -> tuple[Rail, ...]:
    """The rails the sampler named; none where it died before it could."""
    path = raw / "rails.json"
    if not path.exists():
        return ()
    try:
        return tuple(Rail.from_json(each) for each in json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunFolderError(f"{path}: cannot be read ({error})") from error


def read_readings(raw: Path) -> NDArray[Any]:
    """All readings so far, structured (rail, t_ns, value), in the order of time."""
    parts = []
    for path in sorted(raw.glob("readings-*.bin")):
        data = path.read_bytes()
        parts.append(np.frombuffer(data, READING, count=len(data) // READING.itemsize))
    if not parts:
        return np.empty(0, READING)
    together = np.concatenate(parts)
    return together[np.argsort(together["t_ns"], kind="stable")]


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────


class _Sites:
    """The sites of all processes under one numbering: the same place is the same site."""

    def __init__(self) -> None:
        self.all: list[Site] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def merge(self, sites: list[Site]) -> dict[int, int]:
        """A process's own ids to the common ones."""
        return {site.id: self._id(site) for site in sites}

    def _id(self, site: Site) -> int:
        key = (site.name, site.kind, site.file, site.line, site.column, site.function)
        if key not in self._known:
            self._known[key] = len(self.all)
            self.all.append(Site(**{**site.to_json(), "id": len(self.all)}))
        return self._known[key]


class _ProcessSites:
    """What one process wrote beside its spans."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.arguments: dict[int, dict[str, Any]] = {}
        self.lane_names: dict[int, str] = {}
        self.notes: list[str] = []


def _read_sites(path: Path) -> _ProcessSites:
    own = _ProcessSites()
    for line in _whole_lines(path):
        if "describe" in line:
            own.arguments[line["describe"]] = line["arguments"]
        elif "lane" in line:
            own.lane_names[line["lane"]] = line["name"]
        elif "dropped" in line:
            own.notes.append(f"{line['dropped']} spans were not recorded: {line['why']}")
        elif "note" in line:
            own.notes.append(line["note"])
        else:
            own.sites.append(Site.from_json(line))
    return own


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line cut short by a kill is left out."""
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(lines, 1):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise RunFolderError(f"{path}: line {number} cannot be read ({error})") from error
        yield found


# ── lanes ────────────────────────────────────────────────────────────────────────────────────────────

_Lane = tuple[int, str, "NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.int64]"]


def _process_lanes(raw: Path, pid: str, ids: dict[int, int], names: dict[int, str]) -> list[tuple[Any, ...]]:
    """(name, site, start, end, parent) of each lane of one process; an open span has end −1."""
    to_common = _translation(ids)
    lanes = []
    for path in sorted(raw.glob(f"lane-{pid}-*.bin"), key=lambda p: int(p.stem.rpartition("-")[2])):
        number = int(path.stem.rpartition("-")[2])
        site, start, end, parent = decode(_pairs(path))
        lanes.append((names.get(number, f"thread {number}"), to_common[site], start, end, parent))
    return lanes + _added_lanes(raw / f"added-{pid}.bin", to_common, names)


def _translation(ids: dict[int, int]) -> NDArray[np.int64]:
    table = np.full(max(ids, default=-1) + 1, -1, np.int64)
    for own, common in ids.items():
        table[own] = common
    return table


def _pairs(path: Path) -> NDArray[np.int64]:
    data = np.fromfile(path, dtype="<i8")
    pairs = data[: len(data) // 2 * 2].reshape(-1, 2)
    written = np.searchsorted(pairs[:, 0] == 0, True)
    return pairs[:written]


def decode(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Spans out of one lane's (t_ns, code) pairs: site, start_ns, end_ns, parent, a row a span in the
    order of entering. ``end_ns`` is −1 for a span never left; ``parent`` is a row of this lane or −1.

    An exit without an enter (a forked child leaving its parent's calls) is passed over.
    """
    enter = pairs[:, 1] >= 0
    depth = np.cumsum(np.where(enter, 1, -1))
    floor = np.minimum.accumulate(np.minimum(depth, 0))
    orphan = ~enter & (np.diff(floor, prepend=0) < 0)
    pairs, enter, depth = pairs[~orphan], enter[~orphan], (depth - floor)[~orphan]
    level = np.where(enter, depth, depth + 1)
    # Sorted by level and then by time, every level reads enter, exit, enter, exit, …
    order = np.argsort(level.astype(np.int16), kind="stable") if len(level) else np.empty(0, np.int64)
    sorted_enter, sorted_level = enter[order], level[order]
    closed = np.zeros(len(order), bool)
    closed[:-1] = sorted_enter[:-1] & ~sorted_enter[1:] & (sorted_level[:-1] == sorted_level[1:])
    row_of = np.cumsum(enter) - 1
    end = np.full(int(enter.sum()), -1, np.int64)
    at = np.flatnonzero(closed)
    end[row_of[order[at]]] = pairs[order[at + 1], 0]
    starts = np.flatnonzero(enter)
    parent = _parents(starts, level[starts])
    return pairs[starts, 1], pairs[starts, 0], end, parent


def _parents(position: NDArray[np.int64], level: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each span, the last one entered before it at the level above: a row, or −1."""
    parent = np.full(len(position), -1, np.int64)
    above = np.flatnonzero(level == 1)
    for depth in range(2, int(level.max(initial=1)) + 1):
        mine = np.flatnonzero(level == depth)
        parent[mine] = above[np.searchsorted(position[above], position[mine]) - 1]
        above = mine
    return parent


def _added_lanes(path: Path, to_common: NDArray[np.int64], names: dict[int, str]) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    data = np.fromfile(path, dtype="<i8")
    rows = data[: len(data) // 5 * 5].reshape(-1, 5)
    lanes = []
    for number in np.unique(rows[:, 0]):
        mine = rows[rows[:, 0] == number]
        mine = mine[np.lexsort((-mine[:, 3], mine[:, 2]))]
        parent = enclosing(mine[:, 2], mine[:, 3])
        lanes.append(
            (names.get(int(number), f"lane {number}"), to_common[mine[:, 1]], mine[:, 2], mine[:, 3], parent)
        )
    return lanes


def enclosing(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the innermost span that holds each span; spans sorted by start, longer first."""
    parent = np.full(len(start_ns), -1, np.int64)
    open_rows: list[int] = []
    for row, (start, end) in enumerate(zip(start_ns.tolist(), end_ns.tolist(), strict=True)):
        while open_rows and end_ns[open_rows[-1]] < end:
            open_rows.pop()
        if open_rows and end_ns[open_rows[-1]] > start:
            parent[row] = open_rows[-1]
        open_rows.append(row)
    return parent


def _joined(lanes: list[tuple[Any, ...]], last_ns: int) -> tuple[Spans, list[str]]:
    """All lanes as one table; spans never left end with the last thing anybody wrote."""
    if not lanes:
        return Spans.empty(), []
    last_ns = max([last_ns, *(int(max(lane[3].max(initial=0), lane[4].max(initial=0))) for lane in lanes)])
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    first = 0
    for number, (_, _, site, start, end, parent) in enumerate(lanes):
        columns[0].append(site.astype(np.int32))
        columns[1].append(np.full(len(site), number, np.int32))
        columns[2].append(start)
        columns[3].append(np.where(end < 0, last_ns, end))
        columns[4].append(np.where(parent < 0, -1, parent + first))
        first += len(site)
    names = [lane[1] if lane[0] == 0 else f"process {lane[0]}, {lane[1]}" for lane in lanes]
    return Spans(*(np.concatenate(column) for column in columns)), names
