"""The ranks of a training, and machines that worked together: a run folder each, merged by host.

    RUN/rank-0  RUN/rank-1 …     run folders; a restart of a rank is rank-0-restart-1

Every rank reads the meters of its whole machine, so ranks of one host saw the same joules: of a rail that
several runs read, one series is made, and its energy counts once. Rails of different hosts are different
rails, and their energies add.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulemeter.errors import RunFolderError, UsageError
from joulemeter.reading import Rail, rank_of
from joulemeter.run import HEADER, Run
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joulemeter.attribution import Progress
    from joulemeter.ledger import Ledger
    from joulemeter.timeline import Timeline

_RANK = re.compile(r"rank-(\d+)(?:-restart-(\d+))?")
_SAME_CLOCK_NS = 5_000_000_000
"""Runs whose monotonic clocks stand this near to each other, by the wall clock, share one."""


# ── a folder a rank ──────────────────────────────────────────────────────────────────────────────────


def place(folder: Path | None, force: bool = False) -> Path | None:
    """Where this process records: ``folder``, or ``folder/rank-K`` where RANK and WORLD_SIZE say it is one of
    several. Without a folder, ranks of one launcher share ``joulemeter-run-of-PID``, its process id.

    With ``force``, rank 0 removes ranks of an earlier, larger world. Raises RunFolderError where ``folder``
    is a run itself.
    """
    rank = rank_of(os.environ)
    if rank is None:
        return folder
    together = folder or Path(f"joulemeter-run-of-{os.getppid()}")
    if (together / HEADER).exists():
        raise RunFolderError(f"{together}: is a run folder, and ranks need one of their own", "another -o")
    if force and rank["rank"] == 0:
        for stale in (each for each in _parts(together) if _number(each) >= rank["world_size"]):
            shutil.rmtree(stale)
    restart = f"-restart-{rank['restart']}" if rank["restart"] else ""
    return together / f"rank-{rank['rank']}{restart}"


def is_ranks(folder: Path) -> bool:
    """Whether ``folder`` holds the run folders of ranks."""
    return folder.is_dir() and not (folder / HEADER).exists() and bool(_parts(folder))


def load(folder: Path) -> Run:
    """The ranks in ``folder`` as one run."""
    return merged(parts(folder), folder)


def parts(folder: Path) -> list[Run]:
    """The runs of the ranks in ``folder``, by rank."""
    from joulemeter import run

    return [run.load(each) for each in _parts(folder)]


def _parts(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [each for each in folder.iterdir() if _RANK.fullmatch(each.name) and (each / HEADER).is_file()]
    return sorted(found, key=lambda each: (_number(each), len(each.name), each.name))


def _number(folder: Path) -> int:
    found = _RANK.fullmatch(folder.name)
    assert found is not None
    return int(found[1])


# ── several runs as one ──────────────────────────────────────────────────────────────────────────────


def merged(runs: Sequence[Run], folder: Path) -> Run:
    """``runs`` as one run of ``folder``, which need not exist; rails of one host once, lanes of all.

    Runs are of one host where they share its boot id (containers of one machine do, whatever they call
    themselves); without boot ids, where they share its name. Other hosts' times are moved onto the first
    one's by the wall clocks. Raises UsageError where a part is of several hosts already.
    """
    _refuse(runs)
    host_of, hosts = _hosts(runs)
    shift_ns = [_shift(each, runs[0]) for each in runs]
    rails, readings, notes = _rails(runs, host_of, hosts, shift_ns)
    sites, spans, lanes = _spans(runs, shift_ns)
    header = _header(runs, host_of, hosts, shift_ns)
    header |= {"lanes": [name for _, name in lanes], "lane_hosts": [hosts[host_of[at]] for at, _ in lanes]}
    header["notes"] += notes
    return Run(folder, header, rails, sites, spans, *readings)


def _refuse(runs: Sequence[Run]) -> None:
    if not runs:
        raise UsageError("nothing to merge", "joulemeter merge RUN RUN -o OUT")
    for each in runs:
        if len(each.header.get("hosts", ())) > 1:
            raise UsageError(f"{each.folder}: is of several hosts already", "merge the runs it was made of")
    folders = [each.folder.resolve() for each in runs]
    if len(set(folders)) < len(folders):
        raise UsageError("the same run is named twice", "each run once")


def _hosts(runs: Sequence[Run]) -> tuple[list[int], list[str]]:
    """The number of each run's host, and the hosts' names, made different where two are called the same."""
    keys: list[str] = []
    host_of = []
    names: list[str] = []
    for each in runs:
        host = each.header.get("host", {})
        name = str(host.get("name", "")) or each.folder.name
        key = str(host.get("boot_id") or name)
        if key not in keys:
            keys.append(key)
            names.append(name if name not in names else f"{name} ({len(names) + 1})")
        host_of.append(keys.index(key))
    return host_of, names


def _shift(run: Run, first: Run) -> int:
    """Nanoseconds to add to the run's stamps to have them on the first one's clock."""
    starts = [each.header.get("start", {}) for each in (run, first)]
    if not all("wall_ns" in start and "monotonic_ns" in start for start in starts):
        return 0
    boots = [each.header.get("host", {}).get("boot_id") for each in (run, first)]
    apart = [int(start["wall_ns"]) - int(start["monotonic_ns"]) for start in starts]
    same = boots[0] is not None and boots[0] == boots[1]
    return 0 if same or abs(apart[0] - apart[1]) < _SAME_CLOCK_NS else apart[0] - apart[1]


def label(run: Run) -> str:
    """What a run's lanes are called by: its rank, else its folder; nothing where they name ranks already."""
    rank = run.header.get("rank")
    if rank is not None:
        restart = f", restart {rank['restart']}" if rank.get("restart") else ""
        return f"rank {rank['rank']}{restart}"
    return "" if any(name.startswith("rank ") for name in run.lanes) else run.folder.name


# ── rails ────────────────────────────────────────────────────────────────────────────────────────────

_Key = tuple[int, str, str, str, str]
_Readings = tuple["NDArray[np.int16]", "NDArray[np.int64]", "NDArray[np.float64]"]


def _rails(
    runs: Sequence[Run], host_of: Sequence[int], hosts: Sequence[str], shift_ns: Sequence[int]
) -> tuple[tuple[Rail, ...], _Readings, list[str]]:
    """Each host's rails, one series each, with notes on what was left out."""
    found: dict[_Key, list[tuple[int, Timeline, Rail]]] = {}
    for at, run in enumerate(runs):
        for line in run.timelines():
            found.setdefault(_key(host_of[at], line.rail), []).append((at, line, line.rail))
    notes = _without_estimates(found, hosts)
    keys = list(found)
    rails: list[Rail] = []
    series = []
    for number, key in enumerate(keys):
        first_at, _, rail = found[key][0]
        own = {each.id: each for each in runs[first_at].rails}
        inside = None if rail.inside is None else _key(key[0], own[rail.inside])
        moved = [(runs[at], old, shift_ns[at]) for at, _, old in found[key]]
        made, t_ns, value = _united(moved, [(line, shift_ns[at]) for at, line, _ in found[key]])
        rails.append(
            replace(
                made,
                id=number,
                name=rail.name if len(hosts) == 1 else f"{hosts[key[0]]}/{rail.name}",
                host=hosts[key[0]],
                inside=keys.index(inside) if inside in found else None,
                relative_error=max(old.relative_error for _, _, old in found[key]),
            )
        )
        series.append((np.full(len(t_ns), number, np.int16), t_ns, value))
    return tuple(rails), _stacked(series), notes


def _key(host: int, rail: Rail) -> _Key:
    return host, rail.source, rail.name, rail.kind, rail.origin


def _without_estimates(found: dict[_Key, list[Any]], hosts: Sequence[str]) -> list[str]:
    """Takes out the estimate of a processor that another run of the host measured."""
    measured = {key[0] for key in found if key[1] == "rapl"}
    twice = [key for key in found if key[1] == "estimate" and key[0] in measured]
    for key in twice:
        del found[key]
    return [f"{hosts[key[0]]}: '{key[2]}' is left out: another run measured this processor" for key in twice]


def _stacked(series: Sequence[tuple[NDArray[Any], ...]]) -> _Readings:
    kinds = (np.int16, np.int64, np.float64)
    rail, t_ns, value = (
        np.concatenate([np.empty(0, kind), *(each[column] for each in series)]).astype(kind)
        for column, kind in enumerate(kinds)
    )
    return rail, t_ns, value


def _united(
    readings: Sequence[tuple[Run, Rail, int]], lines: Sequence[tuple[Timeline, int]]
) -> tuple[Rail, NDArray[np.int64], NDArray[np.float64]]:
    """One rail's readings out of what several runs read of it, stamps moved onto the common clock."""
    rail = readings[0][1]
    if len(readings) == 1 or rail.kind == "gauge":
        return rail, *_united_readings(readings)
    placed = [(line.t_ns + shift, line) for line, shift in lines if len(line.t_ns)]
    return replace(rail, range_j=None), *united_counters(placed)


def _united_readings(
    readings: Sequence[tuple[Run, Rail, int]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The readings of the run that began first, and of the others what lies after its end."""
    parts = []
    for run, rail, shift in readings:
        mine = run.reading_rail == rail.id
        parts.append((run.reading_t_ns[mine] + shift, run.reading_value[mine]))
    parts = sorted((part for part in parts if len(part[0])), key=lambda part: int(part[0].min()))
    t_ns, value = np.empty(0, np.int64), np.empty(0)
    for stamps, values in parts:
        after = stamps > (t_ns.max() if len(t_ns) else np.iinfo(np.int64).min)
        t_ns, value = np.append(t_ns, stamps[after]), np.append(value, values[after])
    return t_ns, value


def united_counters(
    lines: Sequence[tuple[NDArray[np.int64], Timeline]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A counter's readings out of several timelines of one rail (stamps, timeline), each moment once.

    The one that began first counts; of each other, what lies after. Energy nobody saw, between them or
    within one, becomes a fall of one joule, which a counter without a range shows as a gap.
    """
    first, *others = sorted(lines, key=lambda each: (int(each[0][0]), -int(each[0][-1])))
    t_ns, step_j, unknown = first[0], np.diff(first[1].energy_j), first[1].unknown
    for stamps, line in others:
        end = int(t_ns[-1])
        after = int(np.searchsorted(stamps, end, side="right"))
        if after == len(stamps):
            continue
        # Where the other one saw `end` too, it goes on from there; else nobody saw what lies between.
        seen = after > 0
        start_j = float(np.interp(end, stamps, line.energy_j)) if seen else float(line.energy_j[0])
        more = np.diff(np.concatenate([[start_j], line.energy_j[after:]]))
        gap = line.unknown[after - 1 :] if seen else np.concatenate([[True], line.unknown])
        t_ns = np.concatenate([t_ns, stamps[after:]])
        step_j, unknown = np.concatenate([step_j, more]), np.concatenate([unknown, gap])
    steps = np.where(unknown, -1.0, step_j)
    return t_ns, np.concatenate([[0.0], np.cumsum(steps)]) + float(unknown.sum())


# ── sites and spans ──────────────────────────────────────────────────────────────────────────────────


def _spans(
    runs: Sequence[Run], shift_ns: Sequence[int]
) -> tuple[tuple[Site, ...], Spans, list[tuple[int, str]]]:
    """Sites under one numbering, all spans, and of each lane its run and its name."""
    numbers: dict[tuple[Any, ...], int] = {}
    sites: list[Site] = []
    columns: list[list[NDArray[Any]]] = []
    lanes: list[tuple[int, str]] = []
    row = 0
    for at, (run, shift) in enumerate(zip(runs, shift_ns, strict=True)):
        spans = run.spans
        site_of = {each.id: _numbered(each, numbers, sites) for each in run.sites}
        own = np.array([site_of[int(each)] for each in np.unique(spans.site)], np.int32)
        site = own[np.unique(spans.site, return_inverse=True)[1]] if len(spans) else spans.site
        parent = np.where(spans.parent < 0, -1, spans.parent + row)
        columns.append([site, spans.lane + len(lanes), spans.start_ns + shift, spans.end_ns + shift, parent])
        lanes += [(at, name) for name in _lane_names(run)]
        row += len(spans)
    kinds = (np.int32, np.int32, np.int64, np.int64, np.int64)
    joined = Spans(
        *(np.concatenate([each[n] for each in columns]).astype(kind) for n, kind in enumerate(kinds))
    )
    return tuple(sites), joined, lanes


def _numbered(site: Site, numbers: dict[tuple[Any, ...], int], sites: list[Site]) -> int:
    key = (site.name, site.kind, site.file, site.line, site.column, site.function)
    number = numbers.setdefault(key, len(sites))
    if number == len(sites):
        sites.append(replace(site, id=number))
    elif int(site.arguments.get("of", 0)) > int(sites[number].arguments.get("of", 0)):
        sites[number] = replace(site, id=number)  # the rank that described most calls speaks for all
    return number


def _lane_names(run: Run) -> list[str]:
    needed = int(run.spans.lane.max(initial=-1)) + 1
    names = [*run.lanes, *(run.lane_name(number) for number in range(len(run.lanes), needed))]
    before = label(run)
    return [f"{before}, {name}" if before else name for name in names]


def _header(
    runs: Sequence[Run], host_of: Sequence[int], hosts: Sequence[str], shift_ns: Sequence[int]
) -> dict[str, Any]:
    first = runs[0].header
    named = [(label(each) or each.folder.name, each.header) for each in runs]
    programs = [
        (each.header["program"], shift)
        for each, shift in zip(runs, shift_ns, strict=True)
        if "program" in each.header
    ]
    header: dict[str, Any] = {key: first[key] for key in ("schema", "argv", "cwd", "start") if key in first}
    header |= {
        "state": "finished",
        "host": first.get("host", {}) if len(hosts) == 1 else {"name": ", ".join(hosts)},
        "hosts": list(hosts),
        "merged": [
            {"folder": str(each.folder), "host": hosts[host], "rank": each.header.get("rank")}
            for each, host in zip(runs, host_of, strict=True)
        ],
        "interrupted": any(each.interrupted for each in runs),
        "exit_status": next((s for _, h in named if (s := h.get("exit_status"))), first.get("exit_status")),
        "samplers": [h.get("sampler", {}) for _, h in named],
        "notes": [f"{name}: {note}" for name, h in named for note in h.get("notes", ())],
    }
    if programs:
        ends = [int(each["end_ns"]) + shift for each, shift in programs]
        starts = [int(each["start_ns"]) + shift for each, shift in programs]
        cpu_s = sum(float(each.get("cpu_s", 0.0)) for each, _ in programs)
        header["program"] = {"start_ns": min(starts), "end_ns": max(ends), "cpu_s": cpu_s}
        header["end"] = {"monotonic_ns": max(ends)}
    return header


# ── the ledger of several hosts ──────────────────────────────────────────────────────────────────────


def several(run: Run) -> bool:
    """Whether a run is of several hosts."""
    return len(run.header.get("hosts", ())) > 1


def ledger_by_host(run: Run, progress: Progress | None = None) -> Ledger:
    """Each host's rails shared out among the spans of that host alone: no span draws on another machine.

    A site has entries for the rails of the hosts that it ran on.
    """
    from joulemeter.attribution import attribute
    from joulemeter.ledger import Ledger

    lines = run.timelines()
    lane_hosts = np.array(run.header["lane_hosts"], dtype=object)
    span_host = lane_hosts[run.spans.lane] if len(run.spans) else np.empty(0, object)
    ledgers = []
    for number, host in enumerate(run.header["hosts"], 1):
        spans = run.spans.only(span_host == host)
        present = set(np.unique(spans.site).tolist())
        sites = [site for site in run.sites if site.id in present]
        mine = [line for line in lines if line.rail.host == host]
        ledgers.append(attribute(mine, sites, spans, lanes=run.lanes))
        if progress is not None:
            progress(number / len(run.header["hosts"]))
    rails = tuple(rail for each in ledgers for rail in each.rails)
    return Ledger(rails, _joined(ledgers, run.sites), tuple(n for each in ledgers for n in each.notes))


def _joined(ledgers: Sequence[Ledger], sites: Sequence[Site]) -> tuple[Any, ...]:
    """The entries of one site of all hosts as one."""
    from joulemeter.ledger import SiteLedger

    parts: dict[int, list[SiteLedger]] = {}
    for each in ledgers:
        for entry in each.sites:
            parts.setdefault(entry.site.id, []).append(entry)
    return tuple(
        SiteLedger(
            site,
            sum(each.calls for each in found),
            sum(each.time_s for each in found),
            sum(each.exclusive_s for each in found),
            tuple(rail for each in found for rail in each.rails),
        )
        for site in sites
        if (found := parts.get(site.id))
    )
