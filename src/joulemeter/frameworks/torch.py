"""PyTorch's modules: each call of a ``torch.nn.Module`` is a span, named after its class and its place.

The call slot of ``torch.nn.Module`` is wrapped while the tracer runs. Global forward hooks would do the
same at several times the price: they move every call onto ``_call_impl``'s slow path. ``torch.compile`` sees
through the wrapper, so that compiled graphs stay whole. Backward hooks are left alone: they put nodes into
the user's autograd graph. What a module's backward costs shows in the call of ``backward``, and at operator
level.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joulemeter.errors import UsageError
from joulemeter.span import SpanSink, Tracer

if TYPE_CHECKING:
    import torch

FRAMEWORK = "torch"
LEVELS = ("module",)


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"torch: has no level '{level}' here", f"one of {', '.join(LEVELS)}")
    return Modules()


class Modules:
    """Writes a span for each call of a module, from its entry to its return or exception."""

    def __init__(self) -> None:
        self._sites: dict[int, int] = {}
        self._original: Callable[..., Any] | None = None

    def start(self, sink: SpanSink) -> None:
        """Wraps ``torch.nn.Module.__call__``; costs about half a microsecond a call from here on."""
        from torch.compiler import is_dynamo_compiling
        from torch.nn import Module

        self._original = original = Module.__call__
        known, learn, enter, leave = self._sites, functools.partial(self._learn, sink), sink.enter, sink.exit

        @functools.wraps(original)
        def call(module: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            """A module's call as a span of its own."""
            # The compiler traces this function too, and takes this way out.
            if is_dynamo_compiling():
                return original(module, *args, **kwargs)
            site = known.get(id(module))
            if site is None:
                if self._original is None:
                    return original(module, *args, **kwargs)
                site = learn(module)
            enter(site)
            try:
                return original(module, *args, **kwargs)
            finally:
                leave()

        self._wrapper = call
        Module.__call__ = call  # type: ignore[method-assign]

    def stop(self) -> None:
        """Gives the slot back; where someone wrapped it after us, theirs stays and ours records no more."""
        from torch.nn import Module

        if self._original is not None and Module.__call__ is self._wrapper:
            Module.__call__ = self._original  # type: ignore[method-assign]
        self._original = None
        self._sites.clear()

    def _learn(self, sink: SpanSink, root: torch.nn.Module) -> int:
        """The site of a module met for the first time; its descendants get theirs by their paths in it."""
        for path, module in root.named_modules():
            key = id(module)
            if key not in self._sites:
                self._sites[key] = sink.site(_name(type(module), path), "module")
                # An id is used again after its object's death: forget it then.
                weakref.finalize(module, self._sites.pop, key, None).atexit = False
        return self._sites[id(root)]


def _name(cls: type, path: str) -> str:
    """``torch.nn.Linear head.0`` for a child, ``Net`` for a root of the user's own."""
    qualified = cls.__qualname__.rpartition("<locals>.")[2]
    name = f"torch.nn.{qualified}" if cls.__module__.startswith("torch.nn.") else qualified
    return f"{name} {path}" if path else name
