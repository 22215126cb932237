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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, ModuleType
from typing import Any

from joulemeter import spawned
from joulemeter.errors import UsageError
from joulemeter.recorder import Recorder
from joulemeter.tracers import Tracers

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
            raise UsageError(f"{rest[0]} needs a value", f"{rest[0]} and its value, before the script")
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


def check_apis(apis: tuple[str, ...], beside: str = "") -> None:
    """Raises UsageError for an API whose package cannot be imported, with names that come near.

    Looks at the package alone: to look further, it would have to be imported. ``beside`` is the program's
    folder, whose modules the program can import too.
    """
    from importlib.machinery import PathFinder

    for api in apis:
        top = api.partition(".")[0]
        here = PathFinder.find_spec(top, [beside or os.getcwd(), *sys.path])
        if top not in sys.modules and top not in sys.builtin_module_names and here is None:
            import difflib
            import pkgutil

            known = {module.name for module in pkgutil.iter_modules()} | sys.stdlib_module_names
            near = difflib.get_close_matches(top, sorted(known), n=3)
            raise UsageError(
                f"the API '{api}' cannot be imported: there is no package '{top}'",
                " or ".join(near) or "install it for this Python, or leave that --api out",
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


def only_waits(plan: Plan) -> bool:
    """Whether the program is one that starts recorded workers and waits for them."""
    if "PYTHON_EXEC" not in os.environ:
        return False
    from joulemeter import torchrun

    return torchrun.only_waits(["-m", plan.program] if plan.kind == "module" else [plan.program], plan.raw)


def label(plan: Plan) -> str:
    """The program's name as its user wrote it."""
    return {"module": f"-m {plan.program}", "code": "-c"}.get(plan.kind, os.path.basename(plan.program))


@dataclass(slots=True)
class Program:
    """A program ready to run: parts of code, made when their turn comes, and what its ``__main__`` holds."""

    parts: Sequence[Callable[[dict[str, Any]], Any]]
    """Run in turn, each given the namespace of ``__main__``, and no frame beneath."""
    module: dict[str, Any] = field(default_factory=dict)


class Compiler:
    """Compiles the program's own sources: with gates where API calls are recorded, as they are where not."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self._sources: Any = None
        self._judge: Any = None
        self._plan = plan
        self.owned: list[tuple[str, ...]] = []
        """What ``own`` was told, for the children that are started anew."""
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

    def own(self, folder: str, *names: str) -> None:
        """Modules under ``folder``, and those of these ``names``, are the program's own: they are rewritten
        as they are imported."""
        self.owned.append((folder, *names))
        if self._sources is not None:
            from joulemeter.frameworks.imports import Finder

            sys.meta_path.insert(0, Finder(self._sources, (folder,), (*names, *self._plan.rewrite)))

    def tell_unknown(self) -> None:
        """Says which of the APIs asked for are nowhere in their libraries, now that these are loaded."""
        from joulemeter.frameworks.calls import unknown, unloaded

        for api in self._plan.apis if self._judge is not None else ():
            if (nowhere := unknown(api)) is not None:
                owner, part, near = nowhere
                tell_unmetered(
                    api, f"there is no '{part}' in {owner}", [api.replace(part, each, 1) for each in near]
                )
            elif (absent := unloaded(api)) is not None:
                tell_unmetered(api, f"the program did not import {absent[0]}", absent[1])

    def flush(self) -> None:
        """Writes what was seen of arguments."""
        if self._judge is not None:
            self._judge.flush()


def tell_unmetered(api: str, why: str, near: list[str]) -> None:
    say(f"joulemeter: the API '{api}' was not metered: {why}{''.join(f'. Try: {each}' for each in near[:1])}")


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def launch(plan: Plan, recorder: Recorder) -> None:
    """Runs the program as ``__main__``; raises SystemExit, or KeyboardInterrupt to end by its signal."""
    waits = only_waits(plan)
    compiler = begin(replace(plan, levels=()) if waits else plan, recorder, within_run=not waits)
    atexit.register(compiler.tell_unknown)
    try:
        program = prepare(plan, compiler)
    except UsageError as error:
        say(f"joulemeter: {error}")
        sys.exit(error.exit_status)
    fault = run_parts(program, become_main(program.module))
    if fault is not None:
        sys.exit(report(fault))


def begin(plan: Plan, recorder: Recorder, within_run: bool = True) -> Compiler:
    """Begins to record this process, until it ends; ``within_run``: all of it is a span of the run."""
    compiler = Compiler(plan, recorder)
    tracers = Tracers(plan.levels, recorder)
    # Handlers run last come first: the program's own come later, and so run before these.
    for last in (recorder.close, recorder.exit, compiler.flush, tracers.stop, _be_unhurried):
        atexit.register(last)
    if within_run:
        file = os.path.abspath(plan.program) if plan.kind == "script" else ""
        recorder.enter(recorder.site(label(plan), "run", file))
    tracers.watch({"multiprocessing.util": [lambda: spawned.prepare(plan, compiler)]})
    return compiler


def _be_unhurried() -> None:
    """The program is over: an interrupt that comes now, one more than it took to end it, stops nothing."""
    # Without Python's own `signal`: the program may never have imported it, nor the enum that it needs.
    import _signal

    try:
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    except ValueError:
        return  # the interpreter ends in another thread, where no interrupt is heard


def run_parts(program: Program, namespace: dict[str, Any]) -> BaseException | None:
    """Runs the program; the exception that it did not catch, if any, but SystemExit, which is raised."""
    try:
        for part in program.parts:
            part(namespace)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the program's, and told as Python tells it
        return error
    return None


def outermost(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls ``function`` with no frame of ours beneath it, where the extension was built."""
    try:
        from joulemeter._recorder import run_main
    except ImportError:
        return function(*arguments)
    return run_main(function, *arguments)


def strip(error: BaseException) -> None:
    """Takes our frames, those of wrappers in the middle too, out of an error and of those it came from."""
    wrappers = os.path.join(os.path.dirname(os.path.abspath(__file__)), "frameworks") + os.sep
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or any(each is one for one in seen):
            continue
        seen.append(each)
        waiting += [each.__cause__, each.__context__]
        theirs, trace = [], each.__traceback__
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if name not in OURS and not name.startswith(wrappers):
                theirs.append(trace)
            trace = trace.tb_next
        # The last one's next is None; where no frame is theirs, there is nothing to link.
        for here, after in zip(theirs, [*theirs[1:], None], strict=False):
            here.tb_next = after
        each.__traceback__ = theirs[0] if theirs else None


def report(error: BaseException) -> int:
    """Prints an uncaught exception as Python would, without frames of ours; the exit status."""
    strip(error)
    trace = error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit:
        raise
    except BaseException as second:  # noqa: BLE001 - what Python does with a broken excepthook
        sys.stderr.write("Error in sys.excepthook:\n")
        second.__traceback__ = second.__traceback__ and second.__traceback__.tb_next
        sys.__excepthook__(type(second), second, second.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, trace)
    if isinstance(error, KeyboardInterrupt):
        # Said already; Python then ends the process by the signal itself, after threads and handlers.
        sys.excepthook = lambda *_: None
        raise error
    return 1


OURS = frozenset(
    os.path.join(os.path.dirname(__file__), name)
    for name in (
        "launch.py",
        "spawned.py",
        "frameworks/imports.py",
        "frameworks/codecache.py",
        "frameworks/rewrite.py",
    )
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
    """A program given as a string, as ``python -c`` runs it."""
    from importlib.machinery import BuiltinImporter

    path_first("")
    sys.argv[:] = ["-c", *plan.arguments]
    compiler.own(os.getcwd())

    def run(namespace: dict[str, Any]) -> None:
        """Runs the program of ``-c``."""
        outermost(exec, compiler.code(plan.program, "<string>"), namespace)

    return Program([run], {"__loader__": BuiltinImporter, "__spec__": None})


def prepare_path(plan: Plan, compiler: Compiler) -> Program:
    """A script, folder or zip archive, as ``python PATH`` runs it."""
    from importlib.machinery import SourceFileLoader
    from pkgutil import get_importer

    path = plan.program
    sys.argv[:] = [path, *plan.arguments]
    path = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    if os.path.isdir(path) or type(get_importer(path)).__name__ not in ("NoneType", "FileFinder"):
        path_first(path)
        compiler.own(os.path.abspath(path))
        return Program([lambda _: run_module("__main__", False)])
    folder = os.path.dirname(os.path.realpath(path))
    path_first(folder)
    compiler.own(folder)
    values = {"__loader__": SourceFileLoader("__main__", path), "__spec__": None, "__file__": path}
    values["__cached__"] = None
    if path.endswith(".ipynb"):
        import traceback

        # Python's own printer reads lines from files; cells are none.
        sys.excepthook = traceback.print_exception
        return Program(list(cells(path, compiler)), values)
    source = read(path)

    def run(namespace: dict[str, Any]) -> None:
        """Runs the script."""
        refuse_nulls(source, path)
        outermost(exec, compiler.code(source, path), namespace)

    return Program([run], values)


def refuse_nulls(source: bytes, path: str) -> None:
    """Raises the SyntaxError that Python has for files; for strings it has another one."""
    at = source.find(b"\0")
    if at >= 0:
        line = source[:at].rpartition(b"\n")[2].decode("utf-8", "replace")
        error = SyntaxError("source code cannot contain null bytes")
        error.filename, error.lineno, error.text = path, source.count(b"\n", 0, at) + 1, line
        raise error


def read(path: str) -> bytes:
    """The source of a script; where it cannot be read, exits as Python does."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        say(f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}")
        sys.exit(2)


def cells(path: str, compiler: Compiler) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """What runs each cell of a notebook. Raises UsageError where it is none."""
    import linecache

    from joulemeter import notebook

    for cell in notebook.read(path, say):
        name = f"{path}, cell {cell.number}"
        linecache.cache[name] = (len(cell.source), None, cell.source.splitlines(keepends=True), name)

        def run(namespace: dict[str, Any], cell: Any = cell, name: str = name) -> None:
            """Runs the cell; its values are bound now, as the loop goes on."""
            outermost(exec, compiler.cell(cell.source, name, path, cell.number), namespace)

        yield run


def prepare_module(plan: Plan, compiler: Compiler) -> Program:
    """A module or package, as ``python -m`` runs it."""
    name = plan.program
    path_first(os.getcwd())
    sys.argv[:] = ["-m", *plan.arguments]
    compiler.own(os.getcwd(), name, f"{name}.__main__")
    return Program([lambda _: run_module(name, True)])


def run_module(name: str, alter_argv: bool) -> None:
    """Runs a module as ``python -m`` does, with the same frames of ``runpy`` beneath it."""
    import runpy

    outermost(runpy._run_module_as_main, name, alter_argv)  # type: ignore[attr-defined]


if __name__ == "__main__":
    # The program becomes `__main__`, so what runs it must live on under another name.
    from importlib import import_module

    import_module("joulemeter.launch").main(sys.argv[1:])
