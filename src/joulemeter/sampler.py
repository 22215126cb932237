"""The process that reads each source at its own period, and the handle by which a verb holds it.

It is a process of its own so that it neither holds the script's GIL nor dies with it, and it appends
raw records with one ``write`` each, so that whoever is killed, what was read stays read. It lives until
its standard input ends or says ``stop``, or its parent is gone.

Only the standard library is imported here: what the meter costs, it takes from what it measures.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from joulemeter import errors
from joulemeter.errors import JoulemeterError, RunFolderError, SourceError
from joulemeter.reading import Polled, Reading, Source, renumbered

FASTEST_NS, SLOWEST_NS = 1_000_000, 100_000_000
"""A source is read at its refresh period, but not faster than 1 ms and not slower than 100 ms."""

_EDGE_NS = 3_000_000
"""How long to wait for a counter's next step when a recording starts or stops."""
_LATE_NS = 250_000_000
"""How long to wait at the end for a slow meter's next value."""
_READY_TIMEOUT_S = 20.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_RECORD = struct.Struct("<hqd")


# ── the process ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Loop:
    """Reads one source at its period into one file."""

    source: Source
    first_rail: int
    period_ns: int
    file: int
    reads: int = 0
    failed: int = 0
    lost: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    def run(self, stop: bytearray) -> None:
        """Reads and writes at the source's period until ``stop[0]`` is set."""
        due = time.monotonic_ns()
        while not stop[0]:
            self.append(self.read())
            # A late loop (a suspended machine, a slow meter) skips what it missed: no reading is made up.
            due = self.poll(max(due + self.period_ns, time.monotonic_ns()), stop)
            time.sleep(max(0, due - time.monotonic_ns()) / 1e9)

    def poll(self, due_ns: int, stop: bytearray) -> int:
        """Lets a source that can do so read by itself; when the next reading is due."""
        poll = getattr(self.source, "poll", None)
        if poll is None:
            return due_ns
        polled: Polled = poll(self.file, self.first_rail, due_ns, self.period_ns, stop)
        self.reads, self.failed = self.reads + polled.reads, self.failed + polled.failed
        self.lost += polled.lost
        return polled.due_ns

    def read(self) -> list[Reading]:
        """One reading of each rail; NaN, and a fault counted, where the source fails."""
        self.reads += 1
        try:
            readings = self.source.read()
        except (SourceError, OSError) as error:
            self.fault(str(error))
            now = time.monotonic_ns()
            return [Reading(rail.id, now, float("nan")) for rail in self.source.rails]
        self.failed += sum(1 for reading in readings if reading.value != reading.value)
        return readings

    def fault(self, why: str) -> None:
        self.failed += 1
        self.faults[why] = self.faults.get(why, 0) + 1

    def append(self, readings: list[Reading]) -> None:
        """Writes whole records; where the disk has no room, counts them as lost and leaves none in part."""
        if not readings:
            return
        data = b"".join(_RECORD.pack(self.first_rail + rail, t_ns, value) for rail, t_ns, value in readings)
        try:
            written = os.write(self.file, data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            written = 0
        if written < len(data):
            # Half a record would put every later one out of step.
            os.ftruncate(self.file, os.fstat(self.file).st_size - written)
            self.lost += len(readings)

    def at_a_step(self) -> None:
        """Reads until every fast counter has moved once: an edge stamped to microseconds, not to a period."""
        waiting = {
            rail.id for rail in self.source.rails if rail.kind == "counter" and rail.period_ns <= _EDGE_NS
        }
        before: dict[int, float] = {}
        deadline = time.monotonic_ns() + _EDGE_NS
        while True:
            readings = self.read()
            self.append([r for r in readings if r.rail not in before or before[r.rail] != r.value])
            moved = {r.rail for r in readings if r.rail in before and before[r.rail] != r.value}
            before.update({r.rail: r.value for r in readings})
            waiting -= moved
            if not waiting or time.monotonic_ns() > deadline:
                return

    def past(self, t_ns: int) -> None:
        """Reads on until every slow rail has a reading from after ``t_ns``: a meter that leaves repeated
        values out, or stamps a reading with its refresh, may otherwise end before the run does."""
        waiting = {rail.id for rail in self.source.rails if rail.period_ns > _EDGE_NS}
        while waiting and time.monotonic_ns() < t_ns + _LATE_NS:
            readings = self.read()
            self.append(readings)
            waiting -= {r.rail for r in readings if r.t_ns >= t_ns or r.value != r.value}
            time.sleep(0.005 if waiting else 0.0)


def main(raw: Path, specs: Sequence[str], period_ns: int | None) -> None:
    """Runs until told to stop. Talks JSON lines on stdout: ``ready`` or ``refused``, and last its account."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    _be_punctual()
    try:
        loops = _ready(raw, specs, period_ns)
    except JoulemeterError as refusal:
        _say({"refused": type(refusal).__name__, "fact": refusal.fact, "remedy": refusal.remedy})
        return
    for loop in loops:
        loop.at_a_step()
    stop = bytearray(1)
    threads = [threading.Thread(target=loop.run, args=(stop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    start_cpu_s = _cpu_s()
    _say({"ready": time.monotonic_ns(), "pid": os.getpid()})
    _wait(parent)
    stop_cpu_s, stop_ns = _cpu_s(), time.monotonic_ns()
    stop[0] = 1
    for thread in threads:
        thread.join(timeout=1.0)
    for loop in loops:
        loop.at_a_step()
        loop.past(stop_ns)
    _say({**_account(loops), "reading_cpu_s": stop_cpu_s - start_cpu_s})
    for loop in loops:
        loop.source.close()


def _be_punctual() -> None:
    """Wakes when due: the default timer slack is 50 µs (prctl(2)), and a busy machine lets a reading wait for
    milliseconds. Priority takes CAP_SYS_NICE; without it readings come late under load."""
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1", encoding="ascii")
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)


def _ready(raw: Path, specs: Sequence[str], period_ns: int | None) -> list[_Loop]:
    """The loops, their rails on disk. Raises RunFolderError where the disk takes nothing."""
    try:
        loops = _open(raw, specs, period_ns)
        rails = [renumbered(rail, loop.first_rail).to_json() for loop in loops for rail in loop.source.rails]
        _write_whole(raw / "rails.json", rails)
    except OSError as fault:
        if fault.errno not in _NO_ROOM:
            raise
        raise RunFolderError(
            f"{raw.parent}: cannot be written ({fault.strerror})",
            "make room, or -o with a place that has some",
        ) from fault
    return loops


def _open(raw: Path, specs: Sequence[str], period_ns: int | None) -> list[_Loop]:
    from joulemeter import sources

    loops: list[_Loop] = []
    first = 0
    for number, spec in enumerate(specs):
        source = sources.open_spec(spec)
        refresh = min((rail.period_ns for rail in source.rails), default=SLOWEST_NS)
        period = period_ns or min(max(refresh, FASTEST_NS), SLOWEST_NS)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        loops.append(_Loop(source, first, period, os.open(raw / f"readings-{number}.bin", flags, 0o644)))
        first += len(source.rails)
    return loops


def _wait(parent: int) -> None:
    """Until stdin ends or speaks, or the parent has died (a forked child may hold the pipe open)."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 0.5)
        if readable:
            return


def _account(loops: Sequence[_Loop]) -> dict[str, Any]:
    return {
        "stopped": time.monotonic_ns(),
        "cpu_s": _cpu_s(),
        "sources": [
            {
                "spec": loop.source.spec,
                "period_ns": loop.period_ns,
                "reads": loop.reads,
                "failed": loop.failed,
                "lost": loop.lost,
                "faults": loop.faults,
            }
            for loop in loops
        ],
    }


def _cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(message: dict[str, Any]) -> None:
    try:
        os.write(1, (json.dumps(message) + "\n").encode())
    except BrokenPipeError:
        return  # nobody is left to hear it; the readings are on disk


def _write_whole(path: Path, data: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data), encoding="utf-8")
    partial.replace(path)


# ── the handle ───────────────────────────────────────────────────────────────────────────────────────


class Sampler:
    """A sampler process at work on the sources named by ``specs``, writing into ``raw``.

    Raises what the sources raise: SourceUnavailable where one refuses, UsageError for a name nobody offers.
    The process leaves Ctrl-C to the script: it is in a session of its own.
    """

    def __init__(self, raw: Path, specs: Sequence[str], period_ns: int | None = None) -> None:
        command = [sys.executable, "-P", "-m", "joulemeter.sampler", str(raw), str(period_ns or 0), *specs]
        self.started_ns = time.monotonic_ns()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=_environment()
        )
        message = self._hear(_READY_TIMEOUT_S)
        if message is None:
            died = self._process.poll() is not None
            self._process.kill()
            status = self._process.wait()
            self._close()
            how = (
                f"ended at once (status {status})"
                if died
                else f"did not start within {_READY_TIMEOUT_S:.0f} s"
            )
            raise SourceError(
                f"the sampler {how} ({', '.join(specs)})", f"joulemeter doctor --source {','.join(specs)}"
            )
        if "refused" in message:
            self._process.wait()
            self._close()
            raise getattr(errors, message["refused"])(message["fact"], message["remedy"])
        self.ready_ns: int = message["ready"]

    @property
    def pid(self) -> int:
        """The sampler's process id."""
        return self._process.pid

    def stop(self) -> tuple[dict[str, Any], list[str]]:
        """Ends the sampling; returns the sampler's account (empty where it died) and notes for the reader."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(b"stop\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already: hearing nothing from it, below, says so
        account = self._hear(5.0)
        if account is None:
            self._process.kill()
        status = self._process.wait()
        self._close()
        if account is None:
            return {}, [
                f"the sampler died during the run (status {status}): "
                "what came after its last reading was not metered"
            ]
        return account, _notes(account)

    def _hear(self, timeout_s: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if readable else b""
        return json.loads(line) if line else None

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # closing flushes a word to a process that is gone


def _environment() -> dict[str, str]:
    """This process's environment, with the package found where it was found here."""
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _notes(account: dict[str, Any]) -> list[str]:
    notes = []
    for source in account["sources"]:
        if source["failed"]:
            why = "; ".join(f"{text} ({count}×)" for text, count in source["faults"].items())
            failed = f"{source['failed']} of {source['reads']} reads failed"
            notes.append(f"{source['spec']}: {failed}{': ' + why if why else ''}")
        if source["lost"]:
            notes.append(f"{source['spec']}: {source['lost']} readings could not be written (disk full?)")
    return notes


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2]) or None)
