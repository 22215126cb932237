"""The frameworks' own hooks, each started when the program has imported its framework."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from joulemeter.recorder import Recorder


class Tracers:
    """The frameworks' own hooks, started as soon as their framework has been imported."""

    def __init__(self, levels: tuple[str, ...], recorder: Recorder) -> None:
        self._recorder = recorder
        self._levels = levels
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._started: list[Any] = []

    def watch(self, others: dict[str, list[Callable[[], None]]]) -> None:
        """Looks for tracers of the levels asked for, and waits for their frameworks; ``others`` are called
        back too, when the module of their name has been imported."""
        self._waiting.update(others)
        if "api" in self._levels:
            from joulemeter.frameworks import tracing

            self._waiting["torch._dynamo.symbolic_convert"] = [tracing.prepare_dynamo]
        if any(level not in ("run", "api") for level in self._levels):
            self._find()
        sys.meta_path.insert(0, Watch(self._waiting))

    def _find(self) -> None:
        import importlib
        import pkgutil

        from joulemeter import frameworks

        for each in pkgutil.iter_modules(frameworks.__path__):
            module = importlib.import_module(f"{frameworks.__name__}.{each.name}")
            for level in getattr(module, "LEVELS", ()):
                if level in self._levels:
                    waiting = self._waiting.setdefault(module.FRAMEWORK, [])
                    waiting.append(lambda make=module.tracer, level=level: self._start(make(level)))  # type: ignore[misc]

    def _start(self, tracer: Any) -> None:
        tracer.start(self._recorder)
        self._started.append(tracer)

    def stop(self) -> None:
        """Stops the tracers, the last first."""
        while self._started:
            self._started.pop().stop()


class Watch:
    """Calls back when a module has been imported."""

    def __init__(self, waiting: dict[str, list[Callable[[], None]]]) -> None:
        self._waiting = waiting

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec that Python finds, with a loader that tells when it is done."""
        if name not in self._waiting:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Told(spec.loader, self._waiting.pop(name))  # type: ignore[assignment]
        return spec


class Told:
    """A loader that calls back once, and then is itself forgotten."""

    def __init__(self, loader: Any, callbacks: list[Callable[[], None]]) -> None:
        self._loader = loader
        self._callbacks = callbacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        """What the real loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, then calls back."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        for callback in self._callbacks:
            callback()


# Python leaves the frames of its import machinery out of tracebacks; this one is part of it.
Told.exec_module.__code__ = Told.exec_module.__code__.replace(
    co_filename="<frozen importlib._bootstrap_external>"
)
