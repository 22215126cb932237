"""Profilers in cycles: what a framework's profiler saw is fetched every so often, so that nothing grows."""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from joulemeter.frameworks.xplane import Event, Line
from joulemeter.span import BulkSink, SiteKind

CYCLE_S = 1.0
ANCHOR = "joulemeter"
"""The name of the record that every cycle begins with: it ties the profiler's clock to ours."""
DEVICE = "/device:"
"""What the planes of devices are called by: ``/device:GPU:0``."""


class Cycles:
    """Runs ``turn`` on the main thread every ``period_s``, between two of the program's own instructions."""

    def __init__(self, turn: Callable[[], None], period_s: float = CYCLE_S) -> None:
        self._turn = turn
        self._period_s = period_s
        self._done = threading.Event()
        # ctypes holds no reference to the callback it hands out: this one must live as long as we do.
        self._call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._called)
        self._thread = threading.Thread(target=self._wait, name="joulemeter-cycles", daemon=True)

    def start(self) -> None:
        """Begins to count."""
        self._thread.start()

    def stop(self) -> None:
        """No turn begins after this."""
        self._done.set()

    def _wait(self) -> None:
        while not self._done.wait(self._period_s):
            ctypes.pythonapi.Py_AddPendingCall(self._call, None)

    def _called(self, _: object) -> int:
        if not self._done.is_set():
            self._turn()
        return 0


class Session(Protocol):
    """A framework's profiler, started as soon as it is made."""

    def anchor(self) -> AbstractContextManager[object]:
        """A record of the name ANCHOR while it is open."""

    def finish(self) -> list[Line]:
        """Stops, and hands over what was recorded."""


class Operation(NamedTuple):
    """One operator: its name for the reader, its stamps, and what was dispatched to launch it, if known."""

    name: str
    start_ns: int
    end_ns: int
    dispatch: str = ""


class Recording:
    """Sessions one after the other, each written to the sink as spans when it ends.

    The session's line that has its first records, made here, is the main thread's.

    ``read`` makes operators of a line's events. Those of the main thread nest on its lane under the calls
    in the source; those of the framework's own threads stand on lanes of their own, under the operator
    whose ``dispatch`` they carry, else under the call that was open when they began. What a device's stream
    ran is a kernel, and stands there likewise.
    """

    def __init__(
        self,
        sink: BulkSink,
        begin: Callable[[], Session],
        read: Callable[[Sequence[Event]], Iterator[Operation]],
        own: str,
    ) -> None:
        self._sink = sink
        self._begin = begin
        self._read = read
        self._own = sink.site(own, "span")
        self._home = threading.main_thread().name
        self._session: Session | None = None
        self._anchors: list[int] = []

    def open(self) -> None:
        """Starts a session. Stamps of our clock just inside its first records tie the two clocks."""
        self._session = self._begin()
        self._anchors = []
        for _ in range(5):
            with self._session.anchor():
                self._anchors.append(time.monotonic_ns())

    def reopen(self) -> None:
        """Starts a session unless one runs."""
        if self._session is None:
            self.open()

    def turn(self, again: bool = True) -> None:
        """Ends the session, begins the next and writes what the first saw; its cost is a span of its own."""
        if self._session is None:
            return
        self._sink.enter(self._own)
        try:
            lines, anchors = self._session.finish(), self._anchors
            self._session = None
            if again:
                self.open()
            self._write(lines, anchors)
        finally:
            self._sink.exit()

    def _write(self, lines: list[Line], anchors: list[int]) -> None:
        home = next((line for line in lines if any(event.name == ANCHOR for event in line.events)), None)
        if home is None:
            return
        offset_ns = _offset_ns(home, anchors)
        lines.sort(key=lambda line: line is not home)
        dispatched: dict[str, int] = {}
        for line in lines:
            operations = sorted(self._read(line.events), key=lambda each: (each.start_ns, -each.end_ns))
            if operations:
                lane = self._home if line is home else _lane(line)
                kind: SiteKind = "kernel" if line.plane.startswith(DEVICE) else "operator"
                self._write_line(operations, offset_ns, lane, kind, dispatched)

    def _write_line(
        self,
        operations: list[Operation],
        offset_ns: int,
        lane: str,
        kind: SiteKind,
        dispatched: dict[str, int],
    ) -> None:
        start_ns = np.array([each.start_ns for each in operations], np.int64) + offset_ns
        end_ns = np.array([each.end_ns for each in operations], np.int64) + offset_ns
        callers = self._sink.callers_at(self._home, start_ns)
        rows = []
        for each, caller, start, end in zip(
            operations, callers.tolist(), start_ns.tolist(), end_ns.tolist(), strict=True
        ):
            site = self._sink.site_at(caller, each.name, kind)
            if lane == self._home:
                dispatched[each.dispatch] = site
                rows.append((site, start, end, -1))
            else:
                rows.append((site, start, end, dispatched.get(each.dispatch, caller)))
        self._sink.add_many(lane, np.array(rows, np.int64))


def _lane(line: Line) -> str:
    """What a line is called among lanes; streams of two devices share their names."""
    return f"{line.plane.removeprefix(DEVICE)} {line.name}" if line.plane.startswith(DEVICE) else line.name


def _offset_ns(home: Line, stamps: list[int]) -> int:
    """What to add to the profiler's stamps to have them on ours.

    Each stamp was taken just after its record began, so each difference is an upper bound; the least is the
    best. An operator is thereby never placed before the call that made it.
    """
    events = [event for event in home.events if event.name == ANCHOR]
    # The session may have missed the first records.
    return min(stamp - event.start_ns for stamp, event in zip(stamps[-len(events) :], events, strict=False))


class Profiled:
    """Writes the operators of a framework that runs XLA's profiler, while it runs.

    ``entries`` are the modules by which a program starts and stops that profiler itself, ``names`` the two
    functions there: a trace of the program's own takes precedence.
    """

    def __init__(
        self, session: Any, operations: Any, label: str, entries: tuple[str, ...], names: tuple[str, str]
    ) -> None:
        self._session, self._operations, self._label = session, operations, label
        self._entries, self._names = entries, names
        self._undo: list[Callable[[], None]] = []

    def start(self, sink: BulkSink) -> None:
        """Starts the framework's profiler."""
        self._recording = Recording(sink, self._session, self._operations, self._label)
        self._recording.open()
        self._cycles = Cycles(self._recording.turn)
        self._cycles.start()
        for owner in self._entries:
            self._wrap(importlib.import_module(owner))

    def stop(self) -> None:
        """Writes what was recorded, and leaves the framework as it was."""
        self._cycles.stop()
        self._recording.turn(again=False)
        while self._undo:
            self._undo.pop()()

    def _wrap(self, module: Any) -> None:
        start, stop = (getattr(module, name) for name in self._names)

        @functools.wraps(start)
        def started(*args: Any, **kwargs: Any) -> Any:
            """The user's own start, once ours has ended."""
            self._recording.turn(again=False)
            return start(*args, **kwargs)

        @functools.wraps(stop)
        def stopped(*args: Any, **kwargs: Any) -> Any:
            """The user's own stop, and ours on again."""
            answer = stop(*args, **kwargs)
            self._recording.reopen()
            return answer

        self._put(module, started, stopped)

        self._undo.append(lambda: self._put(module, start, stop))

    def _put(self, module: Any, start: Any, stop: Any) -> None:
        for name, function in zip(self._names, (start, stop), strict=True):
            setattr(module, name, function)
