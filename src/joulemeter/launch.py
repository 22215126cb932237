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
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, ModuleType
from typing import Any

from joulemeter.errors import UsageError
from joulemeter.recorder import Recorder

BOOT = "import sys; sys.flags.safe_path or sys.path.pop(0); from joulemeter.launch import main; main(sys.argv[1:])"
"""Run by ``-c`` the meter adds no file of its own to the process, and takes no module from the user's folder."""


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
    while rest and rest[0] in ("--raw", "--api", "--level", "--rewrite"):
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
    return Plan(
        options["--raw"],
        kind,
        rest[0],
        tuple(rest[1:]),
        names.get("--api", ()),
        names.get("--level", ("api",)),
        names.get("--rewrite", ()),
    )


def command(arguments: list[str]) -> list[str]:
    """The command that launches ``arguments`` in a child, with this interpreter and its own flags."""
    import subprocess

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", BOOT, *arguments]


def main(arguments: list[str]) -> None:
    """Launches what the command line asks for, and leaves as the program left."""
    plan = parse(arguments)
    recorder = Recorder(plan.raw)
    run = recorder.site(label(plan), "run", plan.program if plan.kind == "script" else "")
    # Handlers run last come first: the program's own come later, and so run before this one.
    atexit.register(recorder.close)
    recorder.enter(run)
    atexit.register(recorder.exit)
    launch(plan, recorder)


def label(plan: Plan) -> str:
    """The program's name as its user wrote it."""
    return {"module": f"-m {plan.program}", "code": "-c"}.get(plan.kind, os.path.basename(plan.program))


@dataclass(slots=True)
class Program:
    """A program ready to run: parts of code, and what its ``__main__`` holds."""

    parts: list[Callable[[], CodeType]]
    module: dict[str, Any] = field(default_factory=dict)


def launch(plan: Plan, recorder: Recorder) -> None:
    """Runs the program as ``__main__``; raises SystemExit, or KeyboardInterrupt to end by its signal."""
    namespace: dict[str, Any] = {}
    try:
        program = prepare(plan)
        namespace = become_main(program.module)
        for part in program.parts:
            run_code(part(), namespace)
    except SystemExit:
        raise
    except BaseException as error:
        sys.exit(report(error))


def report(error: BaseException) -> int:
    """Prints an uncaught exception as Python would, without frames of ours; the exit status."""
    own = __file__
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == own:
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


def become_main(values: dict[str, Any]) -> dict[str, Any]:
    """A fresh ``__main__`` in ``sys.modules``; its namespace."""
    module = ModuleType("__main__")
    space = module.__dict__
    space.update(__annotations__={}, __builtins__=builtins)
    space.update(values)
    sys.modules["__main__"] = module
    return space


def run_code(code: CodeType, namespace: dict[str, Any]) -> None:
    exec(code, namespace)


def prepare(plan: Plan) -> Program:
    """Reads the program and sets ``sys.argv`` and ``sys.path`` as Python does for it."""
    how = {"script": prepare_path, "module": prepare_module, "code": prepare_code}[plan.kind]
    sys.orig_argv = [sys.executable, *{"module": ["-m"], "code": ["-c"]}.get(plan.kind, []), plan.program, *plan.arguments]
    return how(plan)


def path_first(entry: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, entry)


def prepare_code(plan: Plan) -> Program:
    path_first("")
    sys.argv[:] = ["-c", *plan.arguments]
    source = plan.program
    loader = __import__("importlib.machinery").machinery.BuiltinImporter
    return Program(
        [lambda: compile(source, "<string>", "exec", dont_inherit=True)], {"__loader__": loader, "__spec__": None}
    )


def prepare_path(plan: Plan) -> Program:
    from importlib.machinery import SourceFileLoader
    from pkgutil import get_importer

    path = plan.program
    sys.argv[:] = [path, *plan.arguments]
    if type(get_importer(path)).__name__ not in ("NoneType", "FileFinder") or os.path.isdir(path):
        path_first(path)
        return prepare_main_of("__main__", alter=False)
    path_first(os.path.dirname(os.path.realpath(path)))
    path = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    if path.endswith(".ipynb"):
        raise UsageError("notebooks come later")

    def code() -> CodeType:
        with open(path, "rb") as file:
            return compile(file.read(), path, "exec", dont_inherit=True)

    loader = SourceFileLoader("__main__", path)
    return Program([code], {"__loader__": loader, "__spec__": None, "__file__": path, "__cached__": None})


def prepare_module(plan: Plan) -> Program:
    path_first(os.getcwd())
    sys.argv[:] = ["-m", *plan.arguments]
    return prepare_main_of(plan.program, alter=True)


def prepare_main_of(name: str, alter: bool) -> Program:
    import runpy

    try:
        if alter:
            _, spec, code = runpy._get_module_details(name, runpy._Error)  # type: ignore[attr-defined]
        else:
            _, spec, code = runpy._get_main_module_details(runpy._Error)  # type: ignore[attr-defined]
    except runpy._Error as error:  # type: ignore[attr-defined]
        sys.exit(f"{sys.executable}: {error}")
    if alter:
        sys.argv[0] = spec.origin
    values = {
        "__loader__": spec.loader,
        "__spec__": spec,
        "__file__": spec.origin,
        "__cached__": spec.cached,
        "__package__": spec.parent,
    }
    return Program([lambda: code], values)


if __name__ == "__main__":
    # The program becomes `__main__`, so what runs it must live on under another name.
    import joulemeter.launch

    joulemeter.launch.main(sys.argv[1:])
