"""Runs the user's program as ``__main__`` of this process, unchanged, and records what it calls.

    python -m joulemeter.launch --raw RUN/raw [--api a,b] [--level api,module] [--rewrite a,b] PROGRAM args…

PROGRAM is ``script.py``, ``-m module``, ``-c code``, a zipapp or folder with a ``__main__``, or a
notebook. The program keeps its argv, path, standard streams, signals, exit status and ``__main__``;
its tracebacks hold its own frames alone.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and not sys.flags.safe_path:
    # `-m` put the working directory there: a module of the user's must not stand in for one of Python's.
    del sys.path[0]

import atexit
import builtins
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import Any

from joulemeter.errors import UsageError
from joulemeter.recorder import Recorder

OPTIONS = ("--raw", "--api", "--level", "--rewrite")
LEVELS = ("run", "api", "module", "operator", "kernel")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and what to record of it."""

    raw: str
    kind: str
    """``script`` (also zipapps, folders and notebooks), ``module`` or ``code``."""
    program: str
    arguments: tuple[str, ...] = ()
    apis: tuple[str, ...] = ()
    levels: tuple[str, ...] = ("api",)
    rewrite: tuple[str, ...] = ()


def parse(arguments: list[str]) -> Plan:
    """The plan that a command line asks for; raises UsageError where it asks for none."""
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0] in OPTIONS:
        if len(rest) < 2:
            raise UsageError(f"{rest[0]} needs a value")
        options[rest[0]] = rest[1]
        del rest[:2]
    if rest[:1] == ["--"]:
        del rest[:1]
    kind = {"-m": "module", "-c": "code"}.get(rest[0], "script") if rest else ""
    if kind in ("module", "code"):
        del rest[:1]
    if not rest or "--raw" not in options:
        raise UsageError("nothing to launch", "--raw FOLDER script.py")
    names = {key: tuple(name for name in value.split(",") if name) for key, value in options.items()}
    levels = names.get("--level", ("api",))
    check_levels(levels)
    apis, rewrite = names.get("--api", ()), names.get("--rewrite", ())
    return Plan(options["--raw"], kind, rest[0], tuple(rest[1:]), apis, levels, rewrite)


def check_levels(levels: tuple[str, ...]) -> None:
    """Raises UsageError for a level that is none."""
    for level in levels:
        if level not in LEVELS:
            raise UsageError(f"there is no level '{level}'", f"one of {', '.join(LEVELS)}")


def check_apis(apis: tuple[str, ...]) -> None:
    """Raises UsageError for an API whose package cannot be imported, with names that come near.

    Looks at the package alone: to look further, it would have to be imported.
    """
    from importlib.util import find_spec

    for api in apis:
        top = api.partition(".")[0]
        if top not in sys.modules and find_spec(top) is None:
            import difflib
            import pkgutil

            known = {module.name for module in pkgutil.iter_modules()} | sys.stdlib_module_names
            near = difflib.get_close_matches(top, sorted(known), n=3)
            raise UsageError(
                f"the API '{api}' cannot be imported: there is no package '{top}'", " or ".join(near) or None
            )


def command(arguments: list[str]) -> list[str]:
    """The command that launches ``arguments`` in a child, with this interpreter and its own flags."""
    import subprocess

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-m", "joulemeter.launch", *arguments]


def main(arguments: list[str]) -> None:
    """Launches what the command line asks for, and leaves as the program left."""
    try:
        plan = parse(arguments)
    except UsageError as error:
        sys.stderr.write(f"joulemeter: {error}\n")
        sys.exit(error.exit_status)
    launch(plan, Recorder(plan.raw))


def label(plan: Plan) -> str:
    """The program's name as its user wrote it."""
    return {"module": f"-m {plan.program}", "code": "-c"}.get(plan.kind, os.path.basename(plan.program))


@dataclass(slots=True)
class Program:
    """A program ready to run: parts of code, made when their turn comes, and what its ``__main__`` holds."""

    parts: list[Callable[[], CodeType]]
    module: dict[str, Any] = field(default_factory=dict)


class Compiler:
    """Compiles the program's own sources: with gates where API calls are recorded, as they are where not."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self._sources: Any = None
        self._judge: Any = None
        self._plan = plan
        if "api" in plan.levels:
            from joulemeter.frameworks import calls, imports

            self._judge = calls.Judge(recorder, plan.apis)
            gates = recorder.gates(self._judge, calls.special())
            self._sources = imports.Sources(self._judge, gates, say)

    def code(self, source: bytes | str, filename: str) -> CodeType:
        """The source's code; raises what ``compile`` raises."""
        if self._sources is None:
            return compile(source, filename, "exec", dont_inherit=True)
        made: CodeType = self._sources.code(source, filename)
        return made

    def cell(self, source: str, filename: str, path: str, number: int) -> CodeType:
        """A notebook cell's code; the lines of its sites are cell numbers."""
        if self._sources is None:
            return compile(source, filename, "exec", dont_inherit=True)
        made: CodeType = self._sources.cell(source, filename, path, number)
        return made

    def own(self, folder: str) -> None:
        """Modules under ``folder`` are the program's own: they are rewritten as they are imported."""
        if self._sources is not None:
            from joulemeter.frameworks.imports import Finder

            sys.meta_path.insert(0, Finder(self._sources, (folder,), self._plan.rewrite))

    def flush(self) -> None:
        """Writes what was seen of arguments."""
        if self._judge is not None:
            self._judge.flush()


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def launch(plan: Plan, recorder: Recorder) -> None:
    """Runs the program as ``__main__``; raises SystemExit, or KeyboardInterrupt to end by its signal."""
    compiler = Compiler(plan, recorder)
    tracers = Tracers(plan.levels, recorder)
    run = recorder.site(label(plan), "run", os.path.abspath(plan.program) if plan.kind == "script" else "")
    # Handlers run last come first: the program's own come later, and so run before these.
    for last in (recorder.close, recorder.exit, compiler.flush, tracers.stop):
        atexit.register(last)
    recorder.enter(run)
    try:
        program = prepare(plan, compiler)
        tracers.watch()
        namespace = become_main(program.module)
        for part in program.parts:
            run_code(part(), namespace)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the program's, and told as Python tells it
        sys.exit(report(error))


def run_code(code: CodeType, namespace: dict[str, Any]) -> None:
    """Runs ``code`` with no frame of ours beneath it, where the extension was built."""
    try:
        from joulemeter._recorder import run_main
    except ImportError:
        exec(code, namespace)
    else:
        run_main(code, namespace)


def report(error: BaseException) -> int:
    """Prints an uncaught exception as Python would, without frames of ours; the exit status."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    error.__traceback__ = trace
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit:
        raise
    except BaseException as second:  # noqa: BLE001 - what Python does with a broken excepthook
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__ and second.__traceback__.tb_next)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, trace)
    if isinstance(error, KeyboardInterrupt):
        # Said already; Python then ends the process by the signal itself, after threads and handlers.
        sys.excepthook = lambda *_: None
        raise error
    return 1


OURS = frozenset(
    os.path.join(os.path.dirname(__file__), name)
    for name in ("launch.py", "frameworks/imports.py", "frameworks/codecache.py", "frameworks/rewrite.py")
)


def become_main(values: dict[str, Any]) -> dict[str, Any]:
    """A fresh ``__main__`` in ``sys.modules``; its namespace, in the order of Python's own."""
    module = ModuleType("__main__")
    space = module.__dict__
    space.update(__annotations__={}, __builtins__=builtins)
    space.update(values)
    sys.modules["__main__"] = module
    return space


def prepare(plan: Plan, compiler: Compiler) -> Program:
    """Reads the program and sets ``sys.argv`` and ``sys.path`` as Python does for it."""
    how = {"script": prepare_path, "module": prepare_module, "code": prepare_code}[plan.kind]
    option = {"module": ["-m"], "code": ["-c"]}.get(plan.kind, [])
    sys.orig_argv = [sys.executable, *option, plan.program, *plan.arguments]
    return how(plan, compiler)


def path_first(entry: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, entry)


def prepare_code(plan: Plan, compiler: Compiler) -> Program:
    from importlib.machinery import BuiltinImporter

    path_first("")
    sys.argv[:] = ["-c", *plan.arguments]
    compiler.own(os.getcwd())
    code = [lambda: compiler.code(plan.program, "<string>")]
    return Program(code, {"__loader__": BuiltinImporter, "__spec__": None})


def prepare_path(plan: Plan, compiler: Compiler) -> Program:
    from importlib.machinery import SourceFileLoader
    from pkgutil import get_importer

    path = plan.program
    sys.argv[:] = [path, *plan.arguments]
    if os.path.isdir(path) or type(get_importer(path)).__name__ not in ("NoneType", "FileFinder"):
        path_first(path)
        compiler.own(os.path.abspath(path))
        return prepare_main_of("", compiler)
    folder = os.path.dirname(os.path.realpath(path))
    path_first(folder)
    compiler.own(folder)
    path = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    values = {
        "__loader__": SourceFileLoader("__main__", path),
        "__spec__": None,
        "__file__": path,
        "__cached__": None,
    }
    if path.endswith(".ipynb"):
        return Program(list(cells(path, compiler)), values)

    def code() -> CodeType:
        with open(path, "rb") as file:
            return compiler.code(file.read(), path)

    return Program([code], values)


def cells(path: str, compiler: Compiler) -> Iterator[Callable[[], CodeType]]:
    """The code of each cell of a notebook. Raises UsageError where it is none."""
    import linecache

    from joulemeter import notebook

    for cell in notebook.read(path, say):
        name = f"{path}, cell {cell.number}"
        linecache.cache[name] = (len(cell.source), None, cell.source.splitlines(keepends=True), name)
        yield lambda cell=cell, name=name: compiler.cell(cell.source, name, path, cell.number)  # type: ignore[misc]


def prepare_module(plan: Plan, compiler: Compiler) -> Program:
    path_first(os.getcwd())
    sys.argv[:] = ["-m", *plan.arguments]
    compiler.own(os.getcwd())
    return prepare_main_of(plan.program, compiler)


def prepare_main_of(name: str, compiler: Compiler) -> Program:
    """The program ``-m name``; with no name, the ``__main__`` of the folder or zip first on the path."""
    import runpy

    try:
        if name:
            _, spec, code = runpy._get_module_details(name, runpy._Error)  # type: ignore[attr-defined]
        else:
            _, spec, code = runpy._get_main_module_details(runpy._Error)  # type: ignore[attr-defined]
    except runpy._Error as error:  # type: ignore[attr-defined]
        sys.exit(f"{sys.executable}: {error}")
    if name:
        sys.argv[0] = spec.origin
    values = {
        "__loader__": spec.loader,
        "__spec__": spec,
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__package__": spec.parent,
    }

    def gated() -> CodeType:
        source = spec.loader.get_source(spec.name) if hasattr(spec.loader, "get_source") else None
        return code if source is None else compiler.code(source, code.co_filename)

    return Program([gated], values)


class Tracers:
    """The frameworks' own hooks, started as soon as their framework has been imported."""

    def __init__(self, levels: tuple[str, ...], recorder: Recorder) -> None:
        self._recorder = recorder
        self._levels = levels
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._started: list[Any] = []

    def watch(self) -> None:
        """Looks for tracers of the levels asked for, and waits for their frameworks."""
        if "api" in self._levels:
            from joulemeter.frameworks import tracing

            self._waiting["torch._dynamo.symbolic_convert"] = [tracing.prepare_dynamo]
        if any(level in self._levels for level in LEVELS[2:]):
            self._find()
        if self._waiting:
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


if __name__ == "__main__":
    # The program becomes `__main__`, so what runs it must live on under another name.
    from importlib import import_module

    import_module("joulemeter.launch").main(sys.argv[1:])
