"""PyTorch's operators and device kernels, from the activity records of PyTorch's own profiler (Kineto).

Operators are the profiler's records of ATen and autograd functions, nested on the thread that ran them
under the call in the source that caused them. Kernels are CUPTI's records of what the device did and when,
on one lane a stream; a kernel belongs to the operator that launched it (Kineto's external correlation id)
and through it to a call and a source line. Nothing is synchronised: records are read when they are there.

The profiler runs in cycles of about a second. At the end of each, its records become spans and are let go,
so that a long run does not grow. A cycle ends only where no record is open on the profiled thread: between
the program's own statements, never below a frame of PyTorch's. What reading the records costs is a span of
its own. A kernel still running when its cycle ends has no record: such launches are counted and named.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulemeter.errors import JoulemeterError, UsageError
from joulemeter.frameworks.kineto_trace import (
    SHORT_NS,
    DeviceWork,
    Operator,
    Trace,
    from_events,
    from_host_events,
)
from joulemeter.span import BulkSink, Tracer

FRAMEWORK = "torch"
LEVELS = ("operator", "kernel")

CYCLE_NS = 1_000_000_000
LOOK_S = 0.1
"""The least that the thread that looks at the clock sleeps."""
MOST_RECORDS = 200_000
"""A cycle is shortened when it brings more: each record holds about half a kilobyte until it is read."""


# ── spans out of it ──────────────────────────────────────────────────────────────────────────────────


def write(
    trace: Trace,
    sink: BulkSink,
    offset_ns: int,
    lane_of: Callable[[int], str],
    home: str,
    device_of: Callable[[int], str] = "cuda:{}".format,
) -> None:
    """Writes the trace's spans to ``sink``, its stamps moved by ``offset_ns`` onto ``monotonic_ns``.

    ``lane_of`` names the lane of a native thread id, ``device_of`` the device of a number. An operator on a
    thread whose lane knows no call (the autograd engine's) belongs to the call that was open on the lane
    ``home``.
    """
    launchers = {work.operator for work in trace.device}
    threads: dict[int, list[Operator]] = defaultdict(list)
    for operator in trace.operators:
        threads[operator.thread].append(operator)
    site_of: dict[int, tuple[int, int]] = {}
    for thread, operators in threads.items():
        kept = [each for each in operators if each.end_ns - each.start_ns >= SHORT_NS or each.id in launchers]
        sites, callers = _write_operators(kept, sink, offset_ns, lane_of(thread), home)
        for operator, site, caller in zip(kept, sites, callers, strict=True):
            if operator.id in launchers:
                site_of[operator.id] = (site, caller)
    _write_device(trace.device, sink, offset_ns, site_of, device_of)


def _write_operators(
    operators: list[Operator], sink: BulkSink, offset_ns: int, lane: str, home: str
) -> tuple[list[int], list[int]]:
    """The site and the caller of each operator, once its span is written."""
    if not operators:
        return [], []
    start_ns = np.array([each.start_ns for each in operators], np.int64) + offset_ns
    end_ns = np.array([each.end_ns for each in operators], np.int64) + offset_ns
    callers = sink.callers_at(lane, start_ns)
    foreign = bool(len(callers)) and lane != home and bool((callers < 0).all())
    if foreign:
        callers = sink.callers_at(home, start_ns)
    known: dict[tuple[str, int], int] = {}
    sites = []
    for each, caller in zip(operators, callers.tolist(), strict=True):
        site = known.get((each.name, caller))
        if site is None:
            site = known[each.name, caller] = sink.site_at(caller, each.name, "operator")
        sites.append(site)
    parents = callers if foreign else np.full(len(sites), -1, np.int64)
    sink.add_many(lane, _rows(sites, start_ns, end_ns, parents))
    return sites, callers.tolist()


def _write_device(
    device: list[DeviceWork],
    sink: BulkSink,
    offset_ns: int,
    site_of: dict[int, tuple[int, int]],
    device_of: Callable[[int], str],
) -> None:
    lanes: dict[tuple[int, int], list[DeviceWork]] = defaultdict(list)
    for work in device:
        lanes[work.device, work.stream].append(work)
    for (number, stream), works in lanes.items():
        works.sort(key=lambda work: work.start_ns)
        launched = [site_of.get(work.operator, (-1, -1)) for work in works]
        pairs = zip(works, launched, strict=True)
        sites = [sink.site_at(caller, work.name, "kernel") for work, (_, caller) in pairs]
        start_ns = np.array([work.start_ns for work in works], np.int64) + offset_ns
        end_ns = np.array([work.end_ns for work in works], np.int64) + offset_ns
        parents = np.array([parent for parent, _ in launched], np.int64)
        sink.add_many(f"{device_of(number)} stream {stream}", _rows(sites, start_ns, end_ns, parents))


def _thread_name(names: dict[int | None, str], id: int) -> str:
    return names.get(id, f"thread {id}")


@functools.cache
def device_name(number: int) -> str:
    """What the GPU that this process counts as ``number`` is called among the rails: ``gpu-2``, by NVML's
    number, whichever GPUs are visible here and in whatever order; ``cuda:0`` where NVML cannot be asked.
    """
    import torch

    unnamed = f"cuda:{number}"
    try:
        import pynvml
    except ImportError:
        return unnamed
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(number).uuid}"
        pynvml.nvmlInit()
        try:
            return f"gpu-{pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid))}"
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, AttributeError, AssertionError, RuntimeError):
        return unnamed


def _rows(
    sites: list[int], start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], parents: NDArray[np.int64]
) -> NDArray[np.int64]:
    return np.column_stack([np.array(sites, np.int64), start_ns, end_ns, parents])


# ── the profiler in cycles ───────────────────────────────────────────────────────────────────────────


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"torch: has no level '{level}' here", f"one of {', '.join(LEVELS)}")
    return Level(level)


class Level:
    """One level of the process's one profiler: started for both, it records both."""

    def __init__(self, level: str) -> None:
        self._level = level

    def start(self, sink: BulkSink) -> None:
        """Begins to record the calling thread. Raises JoulemeterError where a profiler runs already."""
        _profiler.want(self._level, sink)

    def stop(self) -> None:
        """Writes what was recorded since the last cycle, and takes every wrapper back."""
        _profiler.leave(self._level)


class _Profiler:
    """Kineto, of which a process has one."""

    def __init__(self) -> None:
        self._levels: set[str] = set()
        self._on = False
        self._due_ns = 0
        self._cycle_ns = CYCLE_NS
        self._annotations = 0
        self._undo: list[Callable[[], None]] = []
        self._unseen = 0
        self._device = False
        self._late: list[bool] = []
        """Holds something when the cycle should have ended: all that a call of a module looks at."""

    def want(self, level: str, sink: BulkSink) -> None:
        """Records ``level`` too from now on."""
        if self._levels:
            self._disable()
        else:
            self._open(sink)
        self._levels.add(level)
        self._enable()

    def leave(self, level: str) -> None:
        """No longer records ``level``; the last one closes the profiler."""
        if level not in self._levels:
            return
        self._turn(again=len(self._levels) > 1)
        self._levels.discard(level)
        if not self._levels:
            self._close()

    def _open(self, sink: BulkSink) -> None:
        import torch

        if _autograd()._profiler_enabled():
            raise JoulemeterError("torch: its profiler is running already", "stop it first")
        self._sink = sink
        self._own = sink.site("joulemeter: reading the profiler's records", "span")
        self._thread = threading.get_ident()
        self._home = threading.current_thread().name
        self._torch_folder = os.path.dirname(torch.__file__) + os.sep
        self._cycle_ns = CYCLE_NS
        self._due_ns = time.monotonic_ns() + self._cycle_ns
        self._wrap_modules()
        self._count_annotations()
        self._make_way_for_others()
        self._done = threading.Event()
        self._waker = threading.Thread(target=self._wake, name="joulemeter-kineto", daemon=True)
        self._waker.start()

    def _close(self) -> None:
        self._done.set()
        while self._undo:
            self._undo.pop()()
        if self._unseen:
            note = f"{self._unseen} device launches have no record: they ran across the end of a cycle"
            self._sink.describe(self._own, {"note": note})

    # ── on and off ───────────────────────────────────────────────────────────────────────────────────

    def _enable(self) -> None:
        autograd = _autograd()
        cuda = autograd.ProfilerActivity.CUDA
        self._device = "kernel" in self._levels and cuda in autograd._supported_activities()
        config = _config(correlated=self._device)
        activities = {autograd.ProfilerActivity.CPU} | ({cuda} if self._device else set())
        with _quiet():
            autograd._prepare_profiler(config, activities)
        autograd._enable_profiler(config, activities, _scopes())
        self._on = True
        self._due_ns = time.monotonic_ns() + self._cycle_ns
        self._late.clear()

    def _disable(self) -> Trace:
        if not self._on:
            return Trace([], [])
        self._on = False
        read = from_events if self._device else from_host_events
        trace = read(_autograd()._disable_profiler().events())
        count = len(trace.operators) + len(trace.device)
        if count > MOST_RECORDS:
            self._cycle_ns = max(CYCLE_NS // 20, self._cycle_ns * MOST_RECORDS // count)
        return trace

    def _turn(self, again: bool = True) -> None:
        """Ends a cycle: reads what it saw, and begins the next."""
        self._sink.enter(self._own)
        # Records are many, live briefly and hold no cycles: the collector would walk them for nothing.
        collects = gc.isenabled()
        gc.disable()
        try:
            trace = self._disable()
            names = {each.native_id: each.name for each in threading.enumerate()}
            lane_of = functools.partial(_thread_name, names)
            write(trace, self._sink, _offset_ns(), lane_of, self._home, device_name)
            self._unseen += trace.unseen
            if again:
                self._enable()
        finally:
            if collects:
                gc.enable()
            self._sink.exit()

    # ── when a cycle may end ─────────────────────────────────────────────────────────────────────────

    def _turn_if_due(self) -> None:
        if (
            self._on
            and time.monotonic_ns() >= self._due_ns
            and threading.get_ident() == self._thread
            and not self._annotations
            and self._outside_torch()
        ):
            self._turn()  # begins the next, and so is late no more

    def _outside_torch(self) -> bool:
        """Whether no frame below is PyTorch's: only then is no record of the profiler's open.

        Ending a record whose cycle is over would write to memory that is no longer there. The decorator of
        ``no_grad`` and its like opens no record.
        """
        frame = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if path.startswith(self._torch_folder) and not path.endswith("_contextlib.py"):
                return False
            frame = frame.f_back  # type: ignore[assignment]
        return True

    def _wrap_modules(self) -> None:
        """Modules are where most programs come by; each call that returns looks whether it is late."""
        from torch.compiler import is_dynamo_compiling
        from torch.nn import Module

        original, late, turn_if_due = Module.__call__, self._late, self._turn_if_due

        @functools.wraps(original)
        def call(module: Any, /, *args: Any, **kwargs: Any) -> Any:
            """A module's call, after which recording may turn."""
            if is_dynamo_compiling():
                return original(module, *args, **kwargs)
            answer = original(module, *args, **kwargs)
            if late:
                turn_if_due()
            return answer

        self._replace(Module, "__call__", call)

    def _count_annotations(self) -> None:
        """The user's own ``record_function`` blocks are open records too."""
        record_function = _autograd().profiler.record_function
        enter, leave = record_function.__enter__, record_function.__exit__

        @functools.wraps(enter)
        def entered(block: Any) -> Any:
            """An annotation of the user's begins: no turn inside it."""
            self._annotations += 1
            return enter(block)

        @functools.wraps(leave)
        def left(block: Any, *details: Any) -> Any:
            """An annotation of the user's ends."""
            self._annotations -= 1
            return leave(block, *details)

        self._replace(record_function, "__enter__", entered)
        self._replace(record_function, "__exit__", left)

    def _make_way_for_others(self) -> None:
        """While the program runs a profiler of its own, ours rests: a thread can have one."""
        profile = _autograd().profiler.profile
        prepare, leave = profile._prepare_trace, profile.__exit__

        @functools.wraps(prepare)
        def prepared(theirs: Any) -> None:
            """The user's profiler, once ours has ended."""
            if self._on and threading.get_ident() == self._thread:
                self._turn(again=False)
            prepare(theirs)

        @functools.wraps(leave)
        def left(theirs: Any, *details: Any) -> Any:
            """The user's profiler ends, and ours goes on."""
            answer = leave(theirs, *details)
            if not self._on and self._levels and threading.get_ident() == self._thread:
                self._enable()
            return answer

        self._replace(profile, "_prepare_trace", prepared)
        self._replace(profile, "__exit__", left)

    def _replace(self, owner: type, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, wrapper)

        def back() -> None:
            """Puts the original back."""
            # Whoever wrapped it after us holds a reference to our wrapper: then it stays, and does nothing.
            if getattr(owner, name) is wrapper:
                setattr(owner, name, original)

        self._undo.append(back)

    def _wake(self) -> None:
        """Says when a cycle is late; where no module is called, asks the main thread now and then to look."""
        look = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._looked)
        while not self._done.wait(self._until_due_s()):
            late_ns = time.monotonic_ns() - self._due_ns
            if self._on and late_ns >= 0:
                self._late[:] = [True]
                if late_ns > self._cycle_ns:
                    ctypes.pythonapi.Py_AddPendingCall(look, None)

    def _until_due_s(self) -> float:
        """How long nobody needs to look at the clock: a thread that wakes takes the program's GIL."""
        return max(LOOK_S, (self._due_ns - time.monotonic_ns()) / 1e9)

    def _looked(self, _: Any) -> int:
        if not self._done.is_set():
            self._turn_if_due()
        return 0


_profiler = _Profiler()


def _autograd() -> Any:
    """``torch.autograd``, whose doors to the profiler are not part of its typed interface."""
    return importlib.import_module("torch.autograd")


def _config(correlated: bool) -> Any:
    """What is recorded of an operator: its name and times alone; ``correlated``: also its id, for kernels."""
    from torch._C._profiler import _ExperimentalConfig

    autograd = _autograd()
    try:
        experimental = _ExperimentalConfig(disable_external_correlation=not correlated)
    except TypeError:  # a PyTorch that always writes it
        experimental = _ExperimentalConfig()
    return autograd.ProfilerConfig(
        autograd.ProfilerState.KINETO, False, False, False, False, False, experimental, ""
    )


def _scopes() -> set[Any]:
    """Operators and the user's annotations. A node of the backward graph is written once, as what the engine
    evaluates (``autograd::engine::evaluate_function: MmBackward0``), and not again under its bare name."""
    from torch._C._profiler import RecordScope

    return {RecordScope.FUNCTION, RecordScope.TORCHSCRIPT_FUNCTION, RecordScope.USER_SCOPE}


def _offset_ns() -> int:
    """What to add to a Unix stamp to have it on ``monotonic_ns``; the tightest of a few looks."""
    looks = []
    for _ in range(5):
        before, unix, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        looks.append((after - before, (before + after) // 2 - unix))
    return min(looks)[1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Kineto writes lines of its own to stderr unless told not to; it reads its level once, here."""
    told = "KINETO_LOG_LEVEL" in os.environ
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    yield
    if not told:
        del os.environ["KINETO_LOG_LEVEL"]


def _forked() -> None:
    """In a forked child nobody would read the records: the child's profiler is let go."""
    if _profiler._on:
        _profiler._on = False
        if "kernel" not in _profiler._levels:
            _autograd()._disable_profiler()


os.register_at_fork(after_in_child=_forked)
