"""Lanes of spans in memory-mapped files: the pure Python twin of the extension ``joulemeter._recorder``.

A lane is a thread (or an asyncio task that holds a span across awaits). Its file is pairs of int64,
(t_ns, code): code ≥ 0 enters that site, −1 leaves the innermost one; t_ns == 0 ends the file, for room
is allocated ahead. Whatever was written belongs to the kernel at once: ``kill -9`` loses nothing.

Room comes from ``posix_fallocate``: a full disk is an OSError here, and never a SIGBUS. Enter keeps room
for the exits of all open spans, so a span that was entered can always end; from then on spans are
dropped, counted, and tried again.
"""

from __future__ import annotations

import _signal  # not `signal`: a program may never have imported that, nor the enum that it needs
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

FIRST_CHUNK = 1 << 16
CHUNK = 1 << 20
RETRY_NS = 1_000_000_000
"""How long after a refused growth the next is tried."""
LEAVE = -1
NEVER_NS = 1 << 62


class Lane:
    """One file of pairs. Not safe against threads: a lane has one writer at a time."""

    __slots__ = (
        "at",
        "dropped",
        "from_ns",
        "lost",
        "map",
        "number",
        "open",
        "path",
        "retry_ns",
        "room",
        "size",
        "start",
        "view",
        "why",
    )

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        self.path = path
        self.map: mmap.mmap | None = None
        self.view: Any = ()
        self.start = 0
        """Where in the file the mapped window starts, in bytes."""
        self.at = 0
        """Where in the window the next pair goes, in int64s."""
        self.room = 0
        """The window's length, in int64s."""
        self.size = 0
        self.open: list[int] = []
        self.lost = 0
        """How many open spans were dropped; they are the innermost ones."""
        self.dropped = 0
        self.from_ns = 0
        self.why = ""
        self.retry_ns = 0

    def enter(self, site: int) -> None:
        """Records that ``site`` begins now; counts it as lost where the disk has no room."""
        at = self.at
        if self.lost or at + 2 * (len(self.open) + 2) > self.room:
            if self.lost or not self.grow():
                self.drop()
                return
            at = self.at
        view = self.view
        view[at + 1] = site
        view[at] = time.monotonic_ns()
        self.at = at + 2
        self.open.append(site)

    def exit(self) -> None:
        """Records that the innermost open site ends now."""
        if self.lost:
            self.lost -= 1
        elif self.open:
            self.open.pop()
            at = self.at
            self.view[at + 1] = LEAVE
            self.view[at] = time.monotonic_ns()
            self.at = at + 2

    @property
    def depth_now(self) -> int:
        """How many spans are open, dropped ones too."""
        return len(self.open) + self.lost

    def drop(self) -> None:
        """Counts a span for which there was no room."""
        self.lost += 1
        if self.retry_ns == NEVER_NS:
            return
        self.dropped += 1
        self.from_ns = self.from_ns or time.monotonic_ns()

    def grow(self) -> bool:
        """Moves the window on to fresh room; False where there is none."""
        now = time.monotonic_ns()
        if now < self.retry_ns:
            return False
        need = 16 * (len(self.open) + 2)
        size = self.size + max(CHUNK if self.size else FIRST_CHUNK, need + FIRST_CHUNK - need % FIRST_CHUNK)
        try:
            self.remap(size)
        except OSError as error:
            self.why = f"{error.strerror or error} at {self.path}"
            self.retry_ns = now + RETRY_NS
            return False
        return True

    def remap(self, size: int) -> None:
        """Grows the file to ``size`` bytes, reserved on the disk, and maps what is yet to be written."""
        written = self.start + 8 * self.at
        start = written - written % mmap.ALLOCATIONGRANULARITY
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.posix_fallocate(fd, self.size, size - self.size)
            fresh = mmap.mmap(fd, size - start, offset=start)
        finally:
            os.close(fd)
        self.unmap()
        self.map, self.view = fresh, memoryview(fresh).cast("q")
        self.start, self.size = start, size
        self.at, self.room = (written - start) // 8, (size - start) // 8

    def unmap(self) -> None:
        if self.map is not None:
            self.view.release()
            self.map.close()
            self.map = None

    def abandon(self) -> None:
        """In a forked child: the file is the parent's, and no more is written to it."""
        self.unmap()
        self.open, self.lost, self.room, self.retry_ns = [], 0, 0, NEVER_NS

    def close(self) -> None:
        """Gives back the room that was not used."""
        written = self.start + 8 * self.at
        self.unmap()
        self.open, self.lost, self.room = [], 0, 0
        self.retry_ns = NEVER_NS
        if self.size:
            os.truncate(self.path, written)


class Lanes:
    """Every thread's lane. ``named(number, name)`` is told of each new one."""

    def __init__(self, folder: str, named: Callable[[int, str], None]) -> None:
        self._folder = folder
        self._named = named
        self._begin()

    def _begin(self) -> None:
        self._all: list[Lane] = []
        self._free: list[Lane] = []
        self._tasks: dict[Any, Lane] = {}
        self._local = threading.local()
        self._closed = False

    def enter(self, site: int) -> None:
        """The site starts to run on the calling thread (or its task, where that has a lane), now."""
        self._lane().enter(site)

    def exit(self) -> None:
        """The innermost open span of the calling thread or task ends, now; none open: nothing."""
        lane = self._lane()
        lane.exit()
        if self._tasks and not lane.depth_now:
            self._release_task()

    def hold(self, site: int) -> int:
        """Enters a span that may be held across awaits; the token ends it with ``release``."""
        if (task := running_task()) is not None and task not in self._tasks:
            self._tasks[task] = self._new(task.get_name())
        lane = self._lane()
        lane.enter(site)
        return lane.depth_now

    def release(self, token: int) -> None:
        """Ends the span that ``hold`` entered, and whatever was left open inside it."""
        lane = self._lane()
        while lane.depth_now >= token:
            lane.exit()
        if self._tasks and not lane.depth_now:
            self._release_task()

    def current(self) -> int:
        """The innermost open site of the calling thread or task; −1 for none."""
        lane = self._lane()
        return lane.open[-1] if lane.open else -1

    def dropped(self) -> tuple[int, str, int]:
        """Spans dropped since this was last asked: how many, why, and since when (monotonic ns)."""
        lost = [lane for lane in self._all if lane.dropped]
        answer = (
            sum(lane.dropped for lane in lost),
            next((lane.why for lane in lost), ""),
            min((lane.from_ns for lane in lost), default=0),
        )
        for lane in lost:
            lane.dropped = lane.from_ns = 0
        return answer

    def after_fork(self) -> None:
        """In a forked child: its own files; what is open on the forking thread is open in the child too."""
        still_open = list(self._lane().open) if not self._closed else []
        for lane in self._all:
            lane.abandon()
        self._begin()
        for site in still_open:
            self.enter(site)

    def close(self) -> None:
        """Ends all files. Spans after this are lost without a word."""
        if not self._closed:
            self._closed = True
            for lane in self._all:
                lane.close()

    def _lane(self) -> Lane:
        if self._tasks:
            lane = self._tasks.get(running_task())
            if lane is not None:
                return lane
        try:
            return self._local.holder.lane  # type: ignore[no-any-return]
        except AttributeError:
            self._local.holder = Holder(self._new(thread_name()), self._free)
            return self._local.holder.lane  # type: ignore[no-any-return]

    def _new(self, name: str) -> Lane:
        """A lane for a new thread or task: one whose thread has ended, else a fresh one.

        The main thread's lane is its own."""
        if self._free and name != "MainThread":
            return self._free.pop()
        number = len(self._all)
        lane = Lane(number, f"{self._folder}/lane-{os.getpid()}-{number}.bin")
        self._all.append(lane)
        if self._closed:
            lane.retry_ns = NEVER_NS
        else:
            self._named(number, name)
        return lane

    def _release_task(self) -> None:
        lane = self._tasks.pop(running_task(), None)
        if lane is not None:
            self._free.append(lane)


class Holder:
    """A thread's lane; when the thread ends, its lane is free for another."""

    __slots__ = ("_free", "lane")

    def __init__(self, lane: Lane, free: list[Lane]) -> None:
        self.lane = lane
        self._free = free

    def __del__(self) -> None:
        while self.lane.depth_now:
            self.lane.exit()
        self._free.append(self.lane)


def thread_name() -> str:
    """The calling thread's name. ``threading.current_thread`` would register a thread it does not know."""
    ident = threading.get_ident()
    known = threading._active.get(ident)  # type: ignore[attr-defined]
    return known.name if known is not None else f"thread {ident}"


def running_task() -> Any:
    """The asyncio task that is running, or None."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


def is_from_signal(error: BaseException) -> bool:
    """Whether a signal raised ``error``: through Python's own handler of SIGINT, or one of the program's."""
    if isinstance(error, KeyboardInterrupt):
        return True
    handlers = [_signal.getsignal(number) for number in _signal.valid_signals()]
    known = {_code(handler) for handler in handlers if callable(handler)}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in known:
        trace = trace.tb_next
    return trace is not None


def _code(handler: Any) -> Any:
    """The code of a function, of a method, or of an object that is called."""
    return getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
