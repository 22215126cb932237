"""A program run several times: its energy as mean and interval, its outliers, and what disturbed it.

SERIES/
├── series.json   schema, argv, seed, order, cooldown
└── 1/ 2/ …       a run folder each
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulemeter import comparison, run, window
from joulemeter.comparison import Repeated
from joulemeter.errors import RunFolderError
from joulemeter.isolation import Interval
from joulemeter.ledger import Energy, number
from joulemeter.run import Run
from joulemeter.supervisor import Outcome

HEADER = "series.json"


@dataclass(frozen=True, slots=True)
class Series:
    """The runs of a series and what they say together. Energies are gross, start to end of the program."""

    folder: Path
    runs: tuple[Run, ...]
    energies: tuple[Energy, ...]
    energy_j: Repeated
    time_s: Repeated
    notes: tuple[str, ...]

    @property
    def energy(self) -> Energy:
        """The mean with a 95 % interval: the scatter between runs, and the meters' own error on top."""
        return of_repeated(self.energy_j.mean, self.runs)

    def to_json(self) -> dict[str, Any]:
        """One plain object; null where not known."""
        return {
            "schema": 1,
            "runs": [str(each.folder) for each in self.runs],
            "origins": sorted({rail.origin for each in self.runs for rail in each.rails}),
            "energy": self.energy.to_json(),
            "energies_j": [number(value) for value in self.energy_j.values],
            "time_s": [number(value) for value in self.time_s.values],
            "outliers": [i + 1 for i in self.energy_j.outliers],
            "notes": list(self.notes),
        }


def of_repeated(mean: Interval, runs: tuple[Run, ...]) -> Energy:
    """The mean of repetitions as an Energy, the largest relative error of their rails added."""
    error = max((rail.relative_error for each in runs for rail in each.rails), default=0.0)
    wide = mean.widened(error)
    return Energy(wide.value, max(0.0, wide.low), wide.high)


def is_series(folder: Path) -> bool:
    """Whether ``folder`` holds a series of runs."""
    return (folder / HEADER).is_file()


def record(
    supervise: Callable[[Path], Outcome],
    folder: Path,
    times: int,
    *,
    argv: list[str],
    cooldown_s: float = 0.0,
    randomize: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Series, int]:
    """Runs a program ``times`` times into ``folder``; returns the series and the last exit status.

    Between runs it pauses ``cooldown_s``, with ``randomize`` anything from half to one and a half of it, so
    that a job which another program runs every minute does not always hit the same phase. Stops at
    the first run that fails.
    """
    _make(folder, force)
    draw = random.Random(seed).uniform
    pauses = [cooldown_s * (draw(0.5, 1.5) if randomize else 1.0) for _ in range(times)]
    status = 0
    for number_, pause_s in enumerate(pauses, 1):
        if number_ > 1:
            time.sleep(pause_s)
        outcome = supervise(folder / str(number_))
        status = outcome.status
        if progress is not None:
            progress(number_ / times)
        if status != 0:
            break
    header = {"schema": 1, "argv": argv, "seed": seed, "cooldown_s": cooldown_s, "pauses_s": pauses}
    (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return load(folder), status


def numbered() -> Path:
    """``joulemeter-series-1`` here, or the first number that is free."""
    return next(path for n in itertools.count(1) if not (path := Path(f"joulemeter-series-{n}")).exists())


def _make(folder: Path, force: bool) -> None:
    if folder.exists() and force and is_series(folder):
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunFolderError(
            f"{folder}: exists already, and is not overwritten", "another -o, or --force"
        ) from None
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made ({error.strerror})", "-o with a writable place"
        ) from None


def load(folder: Path) -> Series:
    """The series in ``folder``; a run folder is a series of one.

    A run that was interrupted is left out where others are whole, for it repeats none of them; a note tells.
    """
    if is_series(folder):
        places = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    else:
        places = [folder]
    every = tuple(run.load(place) for place in places)
    runs = tuple(each for each in every if not each.interrupted) or every
    energies = tuple(program_energy(each) for each in runs)
    notes = [note for each in runs for note in [*each.header.get("notes", ()), *remarks(each)]]
    if len(runs) < len(every):
        cut = ", ".join(each.folder.name for each in every if each.interrupted)
        notes.append(f"left out of all figures, for it was interrupted: run {cut}")
    return Series(
        folder,
        runs,
        energies,
        comparison.repeated([energy.energy_j for energy in energies]),
        comparison.repeated([_seconds(each) for each in runs]),
        tuple(_counted(notes)),
    )


def _counted(notes: list[str]) -> list[str]:
    """Notes that differ in their figures alone become one, with their number."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(re.sub(r"[\d.]+", "#", note), []).append(note)
    return [
        each[0] if len(each) == 1 else f"{each[0]}; and {len(each) - 1} more such" for each in alike.values()
    ]


def program_energy(recorded: Run) -> Energy:
    """The gross energy from the start to the end of the program, idle before and after left out."""
    start_ns, end_ns = _program(recorded)
    return window.energy_between(recorded.timelines(), start_ns, end_ns)


def _program(recorded: Run) -> tuple[int, int]:
    """The program's own stretch; of a foreign folder, all its readings."""
    program = recorded.header.get("program")
    if isinstance(program, dict):
        return int(program["start_ns"]), int(program["end_ns"])
    lines = [line for line in recorded.timelines() if len(line.t_ns)]
    if not lines:
        return 0, 0
    return max(int(line.t_ns[0]) for line in lines), min(int(line.t_ns[-1]) for line in lines)


def _seconds(recorded: Run) -> float:
    start_ns, end_ns = _program(recorded)
    return (end_ns - start_ns) / 1e9 if end_ns > start_ns else math.nan


# ── what disturbed a run ─────────────────────────────────────────────────────────────────────────────


def remarks(recorded: Run) -> list[str]:
    """Whether the idle power drifted, or stayed the same although the program worked."""
    lines = recorded.timelines()
    start_ns, end_ns = _program(recorded)
    ends = [(int(line.t_ns[0]), int(line.t_ns[-1])) for line in lines if len(line.t_ns) > 1]
    if not ends or "program" not in recorded.header:
        return []
    first_ns, last_ns = max(e[0] for e in ends), min(e[1] for e in ends)
    before, during, after = (
        _power(recorded, a, b) for a, b in ((first_ns, start_ns), (start_ns, end_ns), (end_ns, last_ns))
    )
    return [*_drift(before, after), *_flat(recorded, before, during, end_ns - start_ns)]


def _power(recorded: Run, start_ns: int, end_ns: int) -> Interval:
    """Mean watts of a stretch with its bounds; NaN for one shorter than 50 ms."""
    seconds = (end_ns - start_ns) / 1e9
    if seconds < 0.05:
        return Interval(math.nan, math.nan, math.nan)
    energy = window.energy_between(recorded.timelines(), start_ns, end_ns)
    return Interval(energy.energy_j / seconds, energy.low_j / seconds, energy.high_j / seconds)


def _drift(before: Interval, after: Interval) -> list[str]:
    apart = after.low > before.high or after.high < before.low
    if not apart or abs(after.value - before.value) <= 0.05 * before.value:
        return []
    return [f"idle power drifted: {before.value:.3g} W before the program, {after.value:.3g} W after it"]


def _flat(recorded: Run, before: Interval, during: Interval, elapsed_ns: int) -> list[str]:
    cpu_s = recorded.header.get("program", {}).get("cpu_s", 0.0)
    busy = elapsed_ns > 0 and cpu_s > 0.5 * elapsed_ns / 1e9
    if not busy or math.isnan(before.value) or abs(during.value - before.value) > 0.02 * before.value:
        return []
    return [
        "flat but busy: the program worked, yet the power stayed at its idle level; does this meter see it?"
    ]
