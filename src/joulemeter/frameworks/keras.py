"""Keras' layers: each call of a ``keras.layers.Layer`` that Python makes is a span.

A layer inside a compiled ``fit`` or a ``tf.function`` is called by Python once, while the graph is traced;
from then on the graph runs without it, and its operators are seen at operator level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.errors import UsageError
from joulemeter.span import SpanSink, Tracer

if TYPE_CHECKING:
    import keras

FRAMEWORK = "keras"
LEVELS = ("module",)


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"keras: has no level '{level}'", f"one of {', '.join(LEVELS)}")
    return Layers()


class Layers:
    """Writes a span for each call of a layer, named after its class and its own name."""

    def __init__(self) -> None:
        self._original: Callable[..., Any] | None = None

    def start(self, sink: SpanSink) -> None:
        """Wraps ``keras.layers.Layer.__call__``."""
        from keras.layers import Layer

        self._original = original = Layer.__call__
        sites: dict[tuple[type, str], int] = {}
        enter, leave = sink.enter, sink.exit

        # The wrapper says it is Keras' own function: AutoGraph then leaves it as it is.
        @functools.wraps(original)
        def call(self: keras.layers.Layer, /, *args: Any, **kwargs: Any) -> Any:
            """A layer's call as a span of its own."""
            key = (type(self), self.name)
            site = sites.get(key)
            if site is None:
                site = sites[key] = sink.site(_name(*key), "module")
            enter(site)
            try:
                return original(self, *args, **kwargs)
            finally:
                leave()

        self._wrapper = call
        Layer.__call__ = call

    def stop(self) -> None:
        """Gives the slot back, unless someone wrapped it after us."""
        from keras.layers import Layer

        if self._original is not None and Layer.__call__ is self._wrapper:
            Layer.__call__ = self._original
        self._original = None


def _name(cls: type, name: str) -> str:
    library = cls.__module__.partition(".")[0] == "keras"
    return f"{'keras.' if library else ''}{cls.__qualname__} {name}"
