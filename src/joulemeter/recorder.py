"""Writes spans to the raw folder of a run: what a tracer's sink is made of.

The hot path (``enter``, ``exit``, the gate of rewritten calls) is the extension ``joulemeter._recorder``
where it was built, else its Python twins ``lanes`` and ``gates`` (together: ``pure``); this file is the
one place that chooses. Files are opened to be appended to, and closed: the script may close every
descriptor it finds, or change directory, without touching ours.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter.reading import rank_of
from joulemeter.span import Site, SiteKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from joulemeter.lanetail import LaneTail

try:
    from joulemeter import _recorder as engine
except ImportError:
    from joulemeter import pure as engine

ADDED = struct.Struct("<5q")
"""One span given whole: lane number, site, start_ns, end_ns, parent site or −1."""
ADDED_LANES = 1 << 20
"""Lanes named by tracers are numbered from here; lanes with a file of their own, from 0."""

LAST_WORDS = 1 << 15
"""Bytes kept for the file of sites, so that a full disk can still be told of."""


class Recorder:
    """The sink of spans of one process and the children it forks. Safe from any thread."""

    def __init__(self, raw_folder: str | os.PathLike[str], engine: Any = engine) -> None:
        """Raises OSError where the folder cannot be written."""
        self._folder = Path(raw_folder).absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._sites: dict[tuple[Any, ...], int] = {}
        self._described: dict[int, dict[str, Any]] = {}
        self._spans: dict[str, int] = {}
        self._added_lanes: dict[str, int] = {}
        self._lane_numbers: dict[str, int] = {}
        self._tails: dict[str, LaneTail] = {}
        self._calls: dict[int, tuple[Any, ...]] = {}
        """Where the call sites stand: file, line, column, function."""
        self._unwritten: list[str] = []
        self._dropped_elsewhere = 0
        self._closed = False
        self._engine = engine
        self._begin()
        self.lanes = engine.Lanes(str(self._folder), self._name_lane)
        self.enter = self.lanes.enter
        self.exit = self.lanes.exit
        self.current = self.lanes.current
        _living.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._sites_path = self._folder / f"sites-{self._pid}.jsonl"
        self._added_path = self._folder / f"added-{self._pid}.bin"
        self._added_lanes.clear()
        self._lane_numbers.clear()
        self._tails.clear()
        rank = rank_of(os.environ)
        self._append_lines([] if rank is None else [json.dumps({"rank": rank["rank"]})])
        if hasattr(self._engine, "reserve"):
            self._engine.reserve(str(self._sites_path), LAST_WORDS)

    def site(
        self, name: str, kind: SiteKind, file: str = "", line: int = 0, column: int = 0, function: str = ""
    ) -> int:
        """The id of this site; the same arguments give the same id."""
        key = (name, kind, file, line, column, function)
        with self._lock:
            known = self._sites.get(key)
            if known is None:
                known = self._sites[key] = len(self._sites)
                if kind == "call":
                    self._calls[known] = key[2:]
                self._append_lines([json.dumps(Site(known, *key).to_json())])
        return known

    def add(self, lane: str, site: int, start_ns: int, end_ns: int, parent_site: int = -1) -> None:
        """A span seen by someone else, on a lane of that name."""
        with self._lock:
            record = ADDED.pack(self._added_lane(lane), site, start_ns, end_ns, parent_site)
            try:
                append(self._added_path, record)
            except OSError as error:
                self._dropped_elsewhere += 1
                self._note_dropped(1, f"{error.strerror} at {self._added_path}", start_ns)

    def _added_lane(self, name: str) -> int:
        number = self._added_lanes.get(name)
        if number is None:
            number = self._added_lanes[name] = ADDED_LANES + len(self._added_lanes)
            self._name_lane(number, name)
        return number

    def add_many(self, lane: str, spans: NDArray[Any]) -> None:
        """Spans seen by someone else, int64 (n, 4): site, start_ns, end_ns, parent site or −1."""
        import numpy as np

        with self._lock:
            number = self._added_lane(lane)
            numbers = np.full((len(spans), 1), number, np.int64)
            try:
                append(self._added_path, np.hstack([numbers, spans]).astype("<i8").tobytes())
            except OSError as error:
                self._dropped_elsewhere += len(spans)
                self._note_dropped(len(spans), f"{error.strerror} at {self._added_path}", int(spans[0, 1]))

    def callers_at(self, lane: str, t_ns: NDArray[Any]) -> NDArray[Any]:
        """The innermost call site that was open on a lane at each moment, −1 for none; int64 (n,).

        Moments lie no further back than a few seconds before the lane's previous question.
        """
        from joulemeter.lanetail import LaneTail

        with self._lock:
            tail = self._tails.get(lane)
            if tail is None:
                number = self._lane_numbers.get(lane, -1)
                path = self._folder / f"lane-{self._pid}-{number}.bin"
                tail = self._tails[lane] = LaneTail(path)
            return tail.innermost_at(t_ns, self._calls)

    def site_at(self, caller: int, name: str, kind: SiteKind) -> int:
        """The id of a site of that name where ``caller`` stands in the source; −1: nowhere known."""
        place = self._calls.get(caller, ())
        return self.site(name, kind, *place)

    def describe(self, site: int, arguments: dict[str, Any]) -> None:
        """Sets the argument distributions of a site."""
        with self._lock:
            self._described[site] = arguments
            self._append_lines([json.dumps({"describe": site, "arguments": arguments})])

    def span(self, name: str) -> Span:
        """A context manager that is a span of that name; it may be held across awaits."""
        site = self._spans.get(name)
        if site is None:
            site = self._spans[name] = self.site(name, "span")
        return Span(self.lanes, site)

    def gates(self, judge: Any, special: dict[Any, int]) -> Any:
        """What makes the gates of rewritten calls; ``judge`` decides whose a callee is."""
        return self._engine.Gates(self.lanes, judge, special)

    def close(self) -> None:
        """Ends the files and says what was dropped. Calling it twice does no harm."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self.lanes.close()
            count, why, from_ns = self.lanes.dropped()
            if count:
                self._note_dropped(count, why, from_ns)
            self._append_lines([])
            _living.discard(self)

    def _note_dropped(self, count: int, why: str, from_ns: int) -> None:
        self._append_lines([json.dumps({"dropped": count, "why": why, "from_ns": from_ns})])

    def _name_lane(self, number: int, name: str) -> None:
        with self._lock:
            if number < ADDED_LANES:
                self._lane_numbers.setdefault(name, number)
            self._append_lines([json.dumps({"lane": number, "name": name})])

    def _append_lines(self, lines: list[str]) -> None:
        """Appends lines; what a full disk refuses is kept and tried with the next."""
        self._unwritten += lines
        text = "".join(line + "\n" for line in self._unwritten)
        try:
            append(self._sites_path, text.encode())
        except OSError:
            return
        self._unwritten.clear()

    def _after_fork(self) -> None:
        """In a forked child: files of its own, which begin with a full copy of the sites."""
        self._lock = threading.RLock()
        if self._closed:
            return
        self._unwritten = [json.dumps(Site(number, *key).to_json()) for key, number in self._sites.items()]
        self._begin()
        self.lanes.after_fork()


class Span:
    """One named stretch of a program, as a context manager."""

    __slots__ = ("_lanes", "_site", "_token")

    def __init__(self, lanes: Any, site: int) -> None:
        self._lanes = lanes
        self._site = site
        self._token = 0

    def __enter__(self) -> Span:
        self._token = self._lanes.hold(self._site)
        return self

    def __exit__(self, *_: object) -> None:
        self._lanes.release(self._token)


def append(path: Path, data: bytes) -> None:
    """Appends all of ``data`` or nothing of it; raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        before = os.fstat(fd).st_size
        if (written := os.write(fd, data)) < len(data):
            os.ftruncate(fd, before)
            raise OSError(28, f"only {written} of {len(data)} bytes could be written")
    finally:
        os.close(fd)


_living: weakref.WeakSet[Recorder] = weakref.WeakSet()


def living() -> list[Recorder]:
    """The recorders of this process that have not been closed."""
    return list(_living)


def _after_fork_in_child() -> None:
    for each in list(_living):
        each._after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
