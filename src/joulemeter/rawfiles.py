"""The raw files of a recording, read back: lanes of enter and exit stamps, readings, sites, rails.

    raw/rails.json              the rails the sampler reads
    raw/readings-K.bin          records (rail int16, t_ns int64, value float64), little-endian, packed
    raw/sampler.json            the sampler's own account
    raw/sites-PID.jsonl         a site, a lane's name, an argument distribution, a rank or a loss a line
    raw/lane-PID-N.bin          pairs of int64: (t_ns, site) on entering, (t_ns, −1) on leaving; zeros after
    raw/added-PID.bin           five int64: lane, site, start_ns, end_ns, parent site or −1

Every file may end in the middle of a record: its writer may have been killed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter import timeline, weave
from joulemeter.errors import RunFolderError
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans
from joulemeter.timeline import Timeline
from joulemeter.weave import Lane

if TYPE_CHECKING:
    from numpy.typing import NDArray

READING = np.dtype([("rail", "<i2"), ("t_ns", "<i8"), ("value", "<f8")])
_AGAIN = "record the run again"


@dataclass(frozen=True, slots=True)
class Records:
    """What the raw files of a recording hold. ``readings`` is structured (rail, t_ns, value)."""

    rails: tuple[Rail, ...]
    readings: NDArray[Any]
    sites: tuple[Site, ...]
    spans: Spans
    lanes: list[str]
    notes: list[str]


def read(raw: Path) -> Records:
    """All that was recorded, of all processes; spans never left end with the last thing anybody wrote."""
    readings = read_readings(raw)
    sites, notes, lanes, arguments = _Sites(), [], [], {}
    ranks: list[int | None] = []
    last_ns = int(readings["t_ns"].max()) if len(readings) else 0
    for process, path in enumerate(sorted(raw.glob("sites-*.jsonl"))):
        pid = path.stem.removeprefix("sites-")
        own = _read_sites(path)
        ids = sites.merge(own.sites)
        arguments.update({ids[own_id]: value for own_id, value in own.arguments.items() if own_id in ids})
        notes += own.notes
        ranks.append(own.rank)
        lanes += [(process, lane) for lane in _process_lanes(raw, pid, ids, own.lane_names)]
    spans, lane_names = _joined(lanes, _titles(ranks), last_ns)
    known = tuple(
        Site(**{**site.to_json(), "arguments": arguments.get(site.id, site.arguments)}) for site in sites.all
    )
    return Records(read_rails(raw), readings, known, spans, lane_names, notes)


def timelines(raw: Path) -> list[Timeline]:
    """One timeline a rail, of the readings so far."""
    readings = read_readings(raw)
    mine = {rail: readings[readings["rail"] == rail.id] for rail in read_rails(raw)}
    return [timeline.from_readings(rail, rows["t_ns"], rows["value"]) for rail, rows in mine.items()]


def read_rails(raw: Path) -> tuple[Rail, ...]:
    """The rails the sampler named; none where it died before it could."""
    path = raw / "rails.json"
    if not path.exists():
        return ()
    try:
        return tuple(Rail.from_json(each) for each in json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunFolderError(f"{path}: cannot be read ({error})", _AGAIN) from error


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
        self.rank: int | None = None


def _read_sites(path: Path) -> _ProcessSites:
    own = _ProcessSites()
    for line in _whole_lines(path):
        if "describe" in line:
            own.arguments[line["describe"]] = line["arguments"]
        elif "lane" in line:
            own.lane_names[line["lane"]] = line["name"]
        elif "dropped" in line:
            own.notes.append(f"{line['dropped']} spans were not recorded: {line['why']}")
        elif "rank" in line:
            own.rank = line["rank"]
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
            raise RunFolderError(f"{path}: line {number} cannot be read ({error})", _AGAIN) from error
        yield found


# ── lanes ────────────────────────────────────────────────────────────────────────────────────────────


def _process_lanes(raw: Path, pid: str, ids: dict[int, int], names: dict[int, str]) -> list[Lane]:
    """The lanes of one process, recorded and handed in."""
    to_common = _translation(ids)
    lanes = []
    for path in sorted(raw.glob(f"lane-{pid}-*.bin"), key=lambda p: int(p.stem.rpartition("-")[2])):
        number = int(path.stem.rpartition("-")[2])
        site, start, end, parent = decode(_pairs(path))
        name = names.get(number, f"thread {number}")
        lanes.append(weave.recorded(name, to_common[site], start, end, parent))
    return weave.woven(lanes, _added_lanes(raw / f"added-{pid}.bin", to_common, names))


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


def _added_lanes(path: Path, to_common: NDArray[np.int64], names: dict[int, str]) -> list[Lane]:
    if not path.exists():
        return []
    data = np.fromfile(path, dtype="<i8")
    rows = data[: len(data) // 5 * 5].reshape(-1, 5).copy()
    rows[:, 1] = to_common[rows[:, 1]]
    # The last entry of the table is looked up for −1, which is no site.
    rows[:, 4] = np.where(rows[:, 4] < 0, -1, to_common[rows[:, 4]])
    numbers = np.unique(rows[:, 0]).tolist()
    return [weave.added(names.get(each, f"lane {each}"), rows[rows[:, 0] == each, 1:]) for each in numbers]


def _titles(ranks: list[int | None]) -> list[str]:
    """What stands before the lanes of each process: its rank where they differ, its number where needed."""
    titles: list[str] = []
    for process, rank in enumerate(ranks):
        words = [f"rank {rank}"] if rank is not None and len(set(ranks)) > 1 else []
        if process > 0 and (not words or rank in ranks[:process]):
            words.append(f"process {process}")
        titles.append("".join(f"{word}, " for word in words))
    return titles


def _joined(lanes: list[tuple[int, Lane]], titles: list[str], last_ns: int) -> tuple[Spans, list[str]]:
    """All lanes as one table; spans never left end with the last thing anybody wrote."""
    if not lanes:
        return Spans.empty(), []
    stamps = (int(max(lane.start_ns.max(initial=0), lane.end_ns.max(initial=0))) for _, lane in lanes)
    last_ns = max([last_ns, *stamps])
    columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
    processes: dict[int, list[Lane]] = {}
    for number, (process, lane) in enumerate(lanes):
        columns[0].append(lane.site.astype(np.int32))
        columns[1].append(np.full(len(lane.site), number, np.int32))
        columns[2].append(lane.start_ns)
        columns[3].append(np.where(lane.end_ns < 0, last_ns, lane.end_ns))
        processes.setdefault(process, []).append(lane)
    columns[4] = _parent_rows(list(processes.values()))
    names = [titles[process] + lane.name for process, lane in lanes]
    return Spans(*(np.concatenate(column) for column in columns)), names


def _parent_rows(processes: list[list[Lane]]) -> list[NDArray[np.int64]]:
    """Parents as rows of the whole table, a process at a time, those on other lanes too."""
    rows, first = [], 0
    for lanes in processes:
        starts = np.cumsum([0, *(len(lane.site) for lane in lanes)])
        parent = np.concatenate(
            [np.where(lane.parent < 0, -1, lane.parent + at) for lane, at in zip(lanes, starts, strict=False)]
        )
        columns = ([getattr(lane, name) for lane in lanes] for name in ("site", "start_ns", "parent_site"))
        site, start_ns, parent_site = (np.concatenate(column) for column in columns)
        parent = weave.adopted(site, start_ns, parent, parent_site)
        rows.append(np.where(parent < 0, -1, parent + first))
        first += len(parent)
    return rows
