"""Runs a program under the meter: sampler beside it, launcher inside it, and its end as it was.

The program is a child process, started exactly as ``python script.py`` would start it; this process waits,
hands on the signals that were meant for it, and turns the records into a run folder when it has ended,
however it ended.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulemeter import conditions, run, torchrun
from joulemeter.errors import RunFolderError
from joulemeter.sampler import Sampler

_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_WATCHED = _FORWARDED | {signal.SIGCHLD}
_SI_KERNEL = 0x80  # siginfo_t.si_code of a signal that the terminal sent, to the whole process group
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a metered program ended. ``status`` is its return code; negative: the signal that killed it."""

    folder: Path
    run: run.Run | None
    status: int
    fault: str | None = None


def supervise(
    program: Sequence[str],
    *,
    launcher: Sequence[str] = (),
    specs: Sequence[str],
    folder: Path | None = None,
    force: bool = False,
    period_ns: int | None = None,
    idle_s: float = 0.25,
) -> Outcome:
    """Runs ``program`` (what would stand after ``python``) metered by the sources ``specs``.

    ``launcher`` are options of joulemeter.launch. For ``idle_s`` before and after, nothing runs, so that the
    run holds a baseline. Raises RunFolderError and SourceUnavailable before the program has started, never
    after.
    """
    made = run.create(folder, program, force=force)
    try:
        sampler = Sampler(made / run.RAW, specs, period_ns)
    except BaseException:
        _remove(made)
        raise
    time.sleep(idle_s)
    before = conditions.look()
    started_ns = time.monotonic_ns()
    status = _run(made, program, launcher)
    ended_ns = time.monotonic_ns()
    after = conditions.look()
    time.sleep(idle_s)
    account, notes = sampler.stop()
    notes += conditions.remarks(before, after, os.cpu_count() or 1)
    stretch = {
        "start_ns": started_ns,
        "end_ns": ended_ns,
        "cpu_s": after.own_s - before.own_s,
        "others": conditions.others_share(before, after, os.cpu_count() or 1),
    }
    facts = _facts(made, status, account, notes, stretch)
    try:
        return Outcome(made, run.finish(made, facts), status)
    except RunFolderError as fault:
        return Outcome(made, None, status, str(fault))


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _run(folder: Path, program: Sequence[str], launcher: Sequence[str]) -> int:
    """Runs the program to its end; signals sent to this process alone are handed on to it, from its start."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _wait(_start(folder, program, launcher, before))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(
    folder: Path, program: Sequence[str], launcher: Sequence[str], mask: Iterable[int]
) -> subprocess.Popen[bytes]:
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    raw = (folder / run.RAW).absolute()
    command = [sys.executable, *flags, "-m", "joulemeter.launch", "--raw", str(raw), *launcher]
    libc = ctypes.CDLL(None)

    def die_with_the_supervisor() -> None:
        """Runs in the child before the script: signals as they were, and its end tied to ours."""
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # `kill -9` of `joulemeter run` is meant for the script, as it would be without us.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return subprocess.Popen(
        [*command, *program],
        preexec_fn=die_with_the_supervisor,  # noqa: PLW1509 - no threads run here
        env=torchrun.environment(program, command, raw),
    )


def _wait(child: subprocess.Popen[bytes]) -> int:
    while (status := child.poll()) is None:
        info = signal.sigtimedwait(_WATCHED, 0.5)
        if info is not None and info.si_signo in _FORWARDED and info.si_code != _SI_KERNEL:
            child.send_signal(info.si_signo)
    return status


def _facts(
    folder: Path, status: int, account: dict[str, Any], notes: list[str], stretch: dict[str, Any]
) -> dict[str, Any]:
    ended = (folder / run.RAW / "ended").exists()
    if status < 0 and not ended:
        notes = [*notes, f"interrupted: the script was killed by {signal.Signals(-status).name}"]
    return {
        "program": stretch,
        "end": {"monotonic_ns": stretch["end_ns"]},
        "exit_status": status,
        "interrupted": status < 0 and not ended,
        "sampler": account,
        "notes": notes,
    }


def end_like(status: int) -> None:
    """Ends this process as the program ended: the same exit status, or death by the same signal."""
    if status >= 0:
        sys.exit(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the script's core dump is the one that matters
    if -status != signal.SIGKILL:  # whose action nobody can set
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    time.sleep(1.0)
    sys.exit(128 - status)
