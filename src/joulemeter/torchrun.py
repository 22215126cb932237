"""Launchers that start a training's processes themselves (torchrun, accelerate): those are recorded too.

``torch.distributed.run`` starts each worker with the interpreter that PYTHON_EXEC names
(https://docs.pytorch.org/docs/stable/elastic/run.html): here a two-line script, which starts the worker as
``joulemeter run`` starts a program. All workers then write to the one run folder of their host.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

MODULES = ("torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch")
SCRIPTS = ("torchrun", "accelerate", "accelerate-launch")
WAITING = ("torch.distributed.run", "torch.distributed.launch", "torchrun")
"""Those that start every worker by PYTHON_EXEC, and wait; accelerate starts a single one itself."""


def is_launcher(program: Sequence[str]) -> bool:
    """Whether ``program``, what would stand after ``python``, starts workers by ``torch.distributed.run``."""
    if program[:1] == ["-m"]:
        return program[1:2] != [] and program[1] in MODULES
    return bool(program) and os.path.basename(program[0]) in SCRIPTS


def environment(program: Sequence[str], command: Sequence[str], raw: Path) -> dict[str, str] | None:
    """The environment in which a launcher starts its workers by ``command``, made in ``raw``; None for what
    is no launcher, and where the user names a PYTHON_EXEC of their own."""
    if not is_launcher(list(program)) or "PYTHON_EXEC" in os.environ:
        return None
    script = Path(_interpreter(raw))
    words = " ".join(shlex.quote(word) for word in command)
    script.write_text(f'#!/bin/sh\n[ "$1" = -u ] && shift\nexec {words} -- "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return {**os.environ, "PYTHON_EXEC": str(script)}


def only_waits(program: Sequence[str], raw: str) -> bool:
    """Whether ``program`` is a launcher all of whose work is its workers', recorded in ``raw`` too.

    Its own spans would cover all of theirs, and the time that it waits would draw on their joules.
    """
    name = program[1] if program[:1] == ["-m"] else os.path.basename(program[0])
    return name in WAITING and os.environ.get("PYTHON_EXEC") == _interpreter(Path(raw))


def _interpreter(raw: Path) -> str:
    return str((raw / "python").absolute())
