"""Raw records, read back: whatever was written before the writer died is there, and nothing else."""

import json
import struct
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import rawfiles
from joulemeter.rawfiles import decode, read_readings
from joulemeter.weave import enclosing


def naive(events: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """(site, start, end, parent) by a stack, one event at a time."""
    rows: list[list[int]] = []
    stack: list[int] = []
    for t_ns, code in events:
        if code >= 0:
            rows.append([code, t_ns, -1, stack[-1] if stack else -1])
            stack.append(len(rows) - 1)
        elif stack:
            rows[stack.pop()][2] = t_ns
    return [tuple(row) for row in rows]  # type: ignore[misc]


@given(st.lists(st.integers(-1, 5), max_size=200))
def test_lanes_decode_as_a_stack_would(codes: list[int]) -> None:
    """Also with spans never left, and exits that nobody entered (a forked child leaving its parent's calls)."""
    events = [(1000 + 10 * i, code) for i, code in enumerate(codes)]
    pairs = np.array(events, np.int64).reshape(-1, 2)
    decoded = [tuple(map(int, row)) for row in zip(*decode(pairs), strict=True)]
    assert decoded == naive(events)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_enclosing_finds_the_innermost_span_around(pairs: list[tuple[int, int]]) -> None:
    spans = sorted(((min(p), max(p)) for p in pairs), key=lambda s: (s[0], -s[1]))
    start, end = np.array([s for s, _ in spans], np.int64), np.array([e for _, e in spans], np.int64)
    for row, parent in enumerate(enclosing(start, end)):
        if parent >= 0:
            assert start[parent] <= start[row] <= end[row] <= end[parent]
            assert parent < row


def write_lane(path: Path, events: list[tuple[int, int]]) -> None:
    path.write_bytes(b"".join(struct.pack("<qq", *event) for event in events) + b"\0" * 4096)


def test_a_killed_writer_leaves_whole_records_only(tmp_path: Path) -> None:
    """Half a reading and half a line at the end of a file are passed over, the rest is read."""
    record = struct.Struct("<hqd")
    (tmp_path / "readings-0.bin").write_bytes(record.pack(0, 10, 1.5) + record.pack(0, 20, 2.5) + b"\0\0\0")
    (tmp_path / "rails.json").write_text("[]")
    (tmp_path / "sites-7.jsonl").write_text(json.dumps({"id": 0, "name": "f"}) + '\n{"id": 1, "na')
    write_lane(tmp_path / "lane-7-0.bin", [(5, 0), (15, -1), (16, 0)])
    run = rawfiles.read(tmp_path)
    assert run.readings["value"].tolist() == [1.5, 2.5]
    assert [site.name for site in run.sites] == ["f"]
    assert run.spans.end_ns.tolist() == [15, 20], "a span never left ends with the last thing anybody wrote"


def test_the_same_place_in_two_processes_is_one_site(tmp_path: Path) -> None:
    for pid, own in ((1, 0), (2, 3)):
        site = {"id": own, "name": "torch.add", "kind": "call", "file": "a.py", "line": 3}
        (tmp_path / f"sites-{pid}.jsonl").write_text(json.dumps(site) + "\n")
        write_lane(tmp_path / f"lane-{pid}-0.bin", [(10, own), (20, -1)])
    run = rawfiles.read(tmp_path)
    assert len(run.sites) == 1
    assert run.spans.site.tolist() == [0, 0]
    assert run.spans.lane.tolist() == [0, 1]


def test_arguments_and_losses_beside_the_spans_are_kept(tmp_path: Path) -> None:
    lines = [
        {"id": 0, "name": "f"},
        {"describe": 0, "arguments": {"x": 1}},
        {"dropped": 3, "why": "disk full", "from_ns": 5},
    ]
    (tmp_path / "sites-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = rawfiles.read(tmp_path)
    assert run.sites[0].arguments == {"x": 1}
    assert run.notes == ["3 spans were not recorded: disk full"]


def test_readings_of_several_sources_come_in_the_order_of_time(tmp_path: Path) -> None:
    record = struct.Struct("<hqd")
    (tmp_path / "readings-0.bin").write_bytes(record.pack(0, 10, 1) + record.pack(0, 30, 3))
    (tmp_path / "readings-1.bin").write_bytes(record.pack(1, 20, 2))
    assert read_readings(tmp_path)["t_ns"].tolist() == [10, 20, 30]
