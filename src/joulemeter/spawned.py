"""Children that ``multiprocessing`` starts by ``spawn`` and ``forkserver``, metered like forked ones.

Such a child is a new interpreter that is given a line of Python. While a program is launched, that line
begins with ours, which does in the child what the launcher did in the parent. Where it cannot (another
interpreter, no Joulemeter in it, a folder that is gone), the child runs as it would have.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulemeter.launch import Compiler, Plan

SPAWN = "from multiprocessing.spawn import spawn_main"
FORKSERVER = "from multiprocessing.forkserver import main"
END = ", {}); "
"""Ends our part of the line; what follows is Python's own."""


def prepare(plan: Plan, compiler: Compiler) -> None:
    """Has the children of this process metered; called once ``multiprocessing.util`` is there."""
    util: Any = sys.modules["multiprocessing.util"]
    spawn = util.spawnv_passfds

    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Any) -> Any:
        """Spawns the child with our arguments before its own."""
        return spawn(path, with_ours(path, args, plan, compiler.owned), passfds)

    util.spawnv_passfds = spawnv_passfds


def with_ours(
    path: str | bytes, args: Sequence[Any], plan: Plan, owned: Sequence[Sequence[str]]
) -> Sequence[Any]:
    """The arguments of a child of ``multiprocessing``'s that runs this interpreter, its line of Python begun
    by ours; those of any other as they are."""
    if os.fsdecode(path) != sys.executable or "-c" not in args:
        return args
    at = list(args).index("-c") + 1
    if not str(args[at]).startswith((SPAWN, FORKSERVER)):
        return args
    # One line, for tracebacks name the line; in a namespace of its own, for `__main__` is the program's.
    told = json.dumps({"plan": asdict(plan), "owned": owned})
    ours = f"try:\n from joulemeter.spawned import begin\n begin({told!r})\nexcept ImportError:\n pass"
    return [*args[:at], f"exec({ours!r}{END}{args[at]}", *args[at + 1 :]]


def begin(told: str) -> None:
    """In the child: gates, tracers and a recorder as in its parent, and the script's own code with gates."""
    from joulemeter import launch
    from joulemeter.recorder import Recorder

    line = sys.orig_argv.index("-c") + 1
    sys.orig_argv[line] = sys.orig_argv[line].partition(END)[2]
    known = json.loads(told)
    parts: dict[str, Any] = {
        key: tuple(part) if isinstance(part, list) else part for key, part in known["plan"].items()
    }
    plan = launch.Plan(**parts)
    try:
        recorder = Recorder(plan.raw)
    except OSError:
        return
    compiler = launch.begin(plan, recorder, within_run=sys.orig_argv[line].startswith(SPAWN))
    for folder, *names in known["owned"]:
        compiler.own(folder, *names)
    if plan.kind == "script":
        _replace_main(os.path.realpath(plan.program), compiler)


def _replace_main(script: str, compiler: Compiler) -> None:
    """Python runs the script as ``__mp_main__``, compiled by ``runpy``: from now on with gates."""
    import runpy

    read: Callable[..., Any] = runpy._get_code_from_file  # type: ignore[attr-defined]

    def code_from_file(*arguments: Any) -> Any:
        """The code of the script as instrumented, of any other file as it is."""
        answer = read(*arguments)
        path = arguments[-1]  # up to Python 3.11 the module's name stands before it
        if os.path.realpath(path) != script:
            return answer
        with open(path, "rb") as file:
            code = compiler.code(file.read(), path)
        return (code, *answer[1:]) if isinstance(answer, tuple) else code

    runpy._get_code_from_file = code_from_file  # type: ignore[attr-defined]
