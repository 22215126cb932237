"""TensorFlow's operators, from the records of TensorFlow's own profiler, read in cycles.

An operator called by itself, or a ``tf.function``, is a span on the thread that called it, under the call in
the source. The operators of a graph are spans on the executor's threads that ran them, under the call that
was open when they began.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from joulemeter.errors import UsageError
from joulemeter.frameworks import xplane
from joulemeter.frameworks.cycles import ANCHOR, Cycles, Operation, Recording
from joulemeter.frameworks.xplane import Event, Line
from joulemeter.span import BulkSink, Tracer

FRAMEWORK = "tensorflow"
LEVELS = ("operator",)
EAGER = "EagerLocalExecute: "
OPTIONS = {"host_tracer_level": 2, "python_tracer_level": 0, "device_tracer_level": 1}


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"tensorflow: has no level '{level}'", f"one of {', '.join(LEVELS)}")
    return Operators()


def operations(events: Sequence[Event]) -> Iterator[Operation]:
    """The operators among a line's records: those called by themselves, and those of graphs."""
    for event in events:
        if event.name.startswith(EAGER):
            name = event.name.removeprefix(EAGER)
            if name.startswith("__inference_"):
                # __inference_step_18 is the function `step`, traced as number 18.
                name = f"function {name.removeprefix('__inference_').rpartition('_')[0]}"
            yield Operation(f"tf: {name}", event.start_ns, event.end_ns)
        elif "long_name" in event.stats:
            kind = str(event.stats["long_name"]).rpartition(":")[2] or event.name
            yield Operation(f"tf: {kind}", event.start_ns, event.end_ns)


class Operators:
    """Writes the operators of TensorFlow while it runs."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def start(self, sink: BulkSink) -> None:
        """Starts TensorFlow's profiler; one that the program starts itself takes precedence."""
        self._recording = Recording(sink, _Session, operations, "joulemeter: reading tensorflow's profiler")
        self._recording.open()
        self._cycles = Cycles(self._recording.turn)
        self._cycles.start()
        for owner in ("tensorflow.python.profiler.profiler_v2", "tensorflow._api.v2.profiler.experimental"):
            self._wrap(importlib.import_module(owner))

    def stop(self) -> None:
        """Writes what was recorded, and leaves TensorFlow as it was."""
        self._cycles.stop()
        self._recording.turn(again=False)
        while self._undo:
            self._undo.pop()()

    def _wrap(self, module: Any) -> None:
        start, stop = module.start, module.stop

        @functools.wraps(start)
        def started(*args: Any, **kwargs: Any) -> Any:
            self._recording.turn(again=False)
            return start(*args, **kwargs)

        @functools.wraps(stop)
        def stopped(*args: Any, **kwargs: Any) -> Any:
            answer = stop(*args, **kwargs)
            self._recording.reopen()
            return answer

        module.start, module.stop = started, stopped

        def back() -> None:
            module.start, module.stop = start, stop

        self._undo.append(back)


class _Session:
    """One session of TensorFlow's profiler; it wants a folder's name, and writes nothing there."""

    def __init__(self) -> None:
        profiler = importlib.import_module("tensorflow.python.profiler.internal._pywrap_profiler")
        self._session = profiler.ProfilerSession()
        self._session.start(tempfile.gettempdir(), OPTIONS)

    def anchor(self) -> AbstractContextManager[object]:
        """TensorFlow's annotation."""
        trace = importlib.import_module("tensorflow.python.profiler.trace").Trace
        found: AbstractContextManager[object] = trace(ANCHOR)
        return found

    def finish(self) -> list[Line]:
        """Stops the session and decodes what it saw."""
        return xplane.trace_lines(self._session.stop())
