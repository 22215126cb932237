"""TensorFlow's operators, from the records of TensorFlow's own profiler, read in cycles.

An operator called by itself, or a ``tf.function``, is a span on the thread that called it, under the call in
the source. The operators of a graph are spans on the executor's threads that ran them, under the call that
was open when they began.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from joulemeter.errors import UsageError
from joulemeter.frameworks import xplane
from joulemeter.frameworks.cycles import ANCHOR, Operation, Profiled
from joulemeter.frameworks.xplane import Event, Line
from joulemeter.span import Tracer

FRAMEWORK = "tensorflow"
LEVELS = ("operator",)
EAGER = "EagerLocalExecute: "


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"tensorflow: has no level '{level}'", f"one of {', '.join(LEVELS)}")
    return Profiled(
        _Session,
        operations,
        "joulemeter: reading tensorflow's profiler",
        ("tensorflow.python.profiler.profiler_v2", "tensorflow._api.v2.profiler.experimental"),
        ("start", "stop"),
    )


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


class _Session:
    """One session of TensorFlow's profiler; it wants a folder's name, and writes nothing there."""

    def __init__(self) -> None:
        profiler = importlib.import_module("tensorflow.python.profiler.internal._pywrap_profiler")
        self._session = profiler.ProfilerSession()
        # No options: the levels that are wanted are its own, and it warns of any that are given.
        self._session.start(tempfile.gettempdir(), {})

    def anchor(self) -> AbstractContextManager[object]:
        """TensorFlow's annotation."""
        trace = importlib.import_module("tensorflow.python.profiler.trace").Trace
        found: AbstractContextManager[object] = trace(ANCHOR)
        return found

    def finish(self) -> list[Line]:
        """Stops the session and decodes what it saw."""
        return xplane.trace_lines(self._session.stop())
