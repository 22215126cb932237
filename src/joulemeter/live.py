"""Rails watched as they run: energy so far, power now, and what was not seen, reading by reading."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joulemeter import run, sources, timeline
from joulemeter.errors import RunFolderError, SourceError
from joulemeter.ledger import Energy, Ledger
from joulemeter.reading import Rail, Reading, Source


@dataclass(frozen=True, slots=True)
class RailState:
    """One rail at one moment. ``power_w`` is NaN before the second reading and across a gap."""

    rail: Rail
    energy_j: float
    """Joules seen since the watch began: gaps are left out, and counted in ``unseen_s``."""
    power_w: float
    unseen_s: float
    failed: int

    @property
    def energy(self) -> Energy:
        """The joules with the 95 % interval that the meter's own accuracy leaves."""
        half_j = self.energy_j * self.rail.relative_error
        return Energy(self.energy_j, max(0.0, self.energy_j - half_j), self.energy_j + half_j)


class LiveRail:
    """Adds up one rail's readings as they come; wraps and gaps are the timeline's business."""

    def __init__(self, rail: Rail) -> None:
        self.rail = rail
        self._last: Reading | None = None
        self._state = RailState(rail, 0.0, math.nan, 0.0, 0)

    @property
    def state(self) -> RailState:
        """The rail as of its last reading."""
        return self._state

    def feed(self, reading: Reading) -> None:
        """Takes the next reading; a NaN is a read that failed."""
        now = self._state
        if math.isnan(reading.value):
            self._state = RailState(self.rail, now.energy_j, math.nan, now.unseen_s, now.failed + 1)
            return
        last, self._last = self._last, reading
        if last is None or reading.t_ns <= last.t_ns:
            return
        pair = timeline.from_readings(
            self.rail, np.array([last.t_ns, reading.t_ns]), np.array([last.value, reading.value])
        )
        seconds = (reading.t_ns - last.t_ns) / 1e9
        if math.isnan(pair.total_j):
            self._state = RailState(self.rail, now.energy_j, math.nan, now.unseen_s + seconds, now.failed)
        else:
            power_w = pair.total_j / seconds
            self._state = RailState(self.rail, now.energy_j + pair.total_j, power_w, now.unseen_s, now.failed)


class Followed:
    """The ledger of a run that is being recorded, worked out again and again on a thread of its own.

    Whoever shows it never waits, and the work takes a fifth of the time at most, since it runs beside what is
    measured. ``with Followed(folder) as followed: followed.latest``.
    """

    REST = 4.0
    """Pause after each ledger, in times of what it took."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = folder
        self._latest: Ledger | None = None
        self._fault = ""
        self._stop = threading.Event()
        run.load(folder)  # a folder that is no run is refused here, not on the thread
        self._thread = threading.Thread(target=self._follow, name="joulemeter-follow", daemon=True)
        self._thread.start()

    def __enter__(self) -> Followed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the following; a ledger under way is waited for a second, then left to itself."""
        self._stop.set()
        self._thread.join(timeout=1)

    @property
    def latest(self) -> Ledger | None:
        """The last ledger; None until the first is done."""
        return self._latest

    @property
    def fault(self) -> str:
        """Why there is no newer one; empty where nothing is wrong."""
        return self._fault

    def _follow(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            try:
                self._latest, self._fault = run.load(self._folder).ledger(), ""
            except RunFolderError as error:
                self._fault = str(error)
            except RuntimeError:  # the interpreter ends amid a ledger and starts no more threads
                if self._stop.is_set():
                    return
                raise
            pause_s = max(0.5, self.REST * (time.monotonic() - began))


class Watch:
    """Reads sources on a thread, once a ``period_s`` (default one second), until closed.

    Raises what the sources raise on opening. ``with Watch([...]) as watch: watch.states()``.
    """

    def __init__(self, specs: Sequence[str] | None = None, period_s: float = 1.0) -> None:
        self._sources: list[tuple[Source, list[LiveRail]]] = []
        for spec in sources.default_specs() if specs is None else specs:
            source = sources.open_spec(spec)
            self._sources.append((source, [LiveRail(rail) for rail in source.rails]))
        self._period_s = period_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.read()
        self._thread = threading.Thread(target=self._run, name="joulemeter-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reading. Calling it twice does no harm."""
        self._stop.set()
        self._thread.join(timeout=self._period_s + 1)
        for source, _ in self._sources:
            source.close()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.read()

    def read(self) -> None:
        """Takes one reading of everything now."""
        with self._lock:
            for source, rails in self._sources:
                for reading in _readings(source):
                    rails[reading.rail].feed(reading)

    def states(self) -> list[RailState]:
        """Every rail, as of its last reading."""
        with self._lock:
            return [rail.state for _, rails in self._sources for rail in rails]


def _readings(source: Source) -> list[Reading]:
    try:
        return source.read()
    except (SourceError, OSError):
        now = time.monotonic_ns()
        return [Reading(rail.id, now, math.nan) for rail in source.rails]
