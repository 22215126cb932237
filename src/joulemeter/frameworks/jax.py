"""JAX's operations, from the records of JAX's own profiler, read in cycles.

A function that ``jax.jit`` compiled, primitives called by themselves included (``jit(add)``), is an operator
on the thread that called it, under the call in the source. What XLA then runs of it, fused as it fused it
(``xla: broadcast_add_fusion``), is an operator on the thread or device stream that ran it, under the
``jit(…)`` that dispatched it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from joulemeter.errors import UsageError
from joulemeter.frameworks import xplane
from joulemeter.frameworks.cycles import ANCHOR, Operation, Profiled
from joulemeter.frameworks.xplane import Event, Line
from joulemeter.span import Tracer

FRAMEWORK = "jax"
LEVELS = ("operator",)
CALL = "PjitFunction("


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"jax: has no level '{level}'", f"one of {', '.join(LEVELS)}")
    return Profiled(
        _Session,
        operations,
        "joulemeter: reading jax's profiler",
        ("jax.profiler", "jax._src.profiler"),
        ("start_trace", "stop_trace"),
    )


def operations(events: Sequence[Event]) -> Iterator[Operation]:
    """The operators among a line's records; the profiler writes a dispatch twice, the second inside."""
    last: Event | None = None
    for event in events:
        if event.name.startswith(CALL) and not (last is not None and _repeats(event, last)):
            last = event
            name = event.name.removeprefix(CALL).removesuffix(")")
            yield Operation(f"jit({name})", event.start_ns, event.end_ns, _module(name))
        elif "hlo_op" in event.stats and not event.name.startswith("end: "):
            module = str(event.stats.get("hlo_module", ""))
            yield Operation(f"xla: {event.stats['hlo_op']}", event.start_ns, event.end_ns, module)


def _repeats(event: Event, last: Event) -> bool:
    return event.name == last.name and last.start_ns <= event.start_ns and event.end_ns <= last.end_ns


def _module(function: str) -> str:
    """What XLA calls the module of a jitted function: ``jit__lambda`` for ``<lambda>``."""
    return "jit_" + "".join(c if c.isalnum() or c in "_." else "_" for c in function).rstrip("_")


class _Session:
    """One session of jaxlib's profiler, in memory: no folder is written."""

    def __init__(self) -> None:
        profiler = importlib.import_module("jax._src.lib")._profiler
        options = profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 2
        options.enable_hlo_proto = False
        self._session = profiler.ProfilerSession(options)

    def anchor(self) -> AbstractContextManager[object]:
        """JAX's annotation."""
        found: AbstractContextManager[object] = importlib.import_module("jax.profiler").TraceAnnotation(
            ANCHOR
        )
        return found

    def finish(self) -> list[Line]:
        """Stops the session and decodes what it saw."""
        return list(xplane.lines(self._session.stop()))
