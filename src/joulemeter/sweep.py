"""A training plan into a data set: each run in a process of its own, metered, recorded once.

    DATASET/
    ├── sweep.json           the plan's name and fingerprint; a sweep goes on with its own plan only
    ├── sweep.lock           held while a sweep runs
    └── part-<key>.parquet   one record; the key is the hash of configuration and repetition

A record's part is named by its key and appears whole or not at all. So a sweep may be killed at any instant:
what has a part is done, everything else is run again, and a run that somebody ran twice has one record. The
data set may lie at any URL that fsspec knows.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from joulemeter import butter, dataset, storage, training_data
from joulemeter.errors import DatasetError
from joulemeter.ledger import number
from joulemeter.plan import SEQUENCES, Configuration, Plan
from joulemeter.reading import Origin
from joulemeter.record import Record
from joulemeter.storage import Hold, Where
from joulemeter.trial import Job

PLAN_FILE, LOCK_FILE = "sweep.json", "sweep.lock"
START_S = 4.0
"""A run's process, PyTorch and the meter: from nothing to the first batch."""
LAYER_S = 60e-6
"""A layer forward, backward and in the optimizer, whatever its arithmetic: PyTorch's own time."""
_ERROR_TAIL = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sweep is estimated to take: rough, within a factor of three or so until runs are known."""

    runs: int
    time_s: float
    energy_j: float

    def to_json(self) -> dict[str, Any]:
        """A plain object; an energy that no meter saw is null."""
        return {"runs": self.runs, "time_s": self.time_s, "energy_j": number(self.energy_j)}


@dataclass
class Tally:
    """What a sweep did; ``before`` were recorded already."""

    before: int = 0
    done: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, record: Record) -> None:
        """Counts a run that was recorded."""
        if record.facts["status"] == "done":
            self.done += 1
            return
        self.failed += 1
        self.errors[str(record.facts["error"])] += 1

    def to_json(self) -> dict[str, Any]:
        """A plain object."""
        return {**asdict(self), "errors": dict(self.errors)}


Work = Callable[[Job], dict[str, Any]]
"""Runs a job and says its outcome, as ``outcome`` does."""
Progress = Callable[[int, int, float, float], None]
"""Called before the first run and after each: runs done, of how many, estimated seconds done, of how many."""


def sweep(
    folder: Where,
    plan: Plan,
    *,
    tables: Path,
    sources: Sequence[str] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Tally:
    """Runs what ``plan`` has and ``folder`` has not, one after the other.

    Raises DatasetError where ``folder`` is of another plan, is in use, or is there and ``resume`` is not set.
    """
    with opened(folder, plan, resume) as hold:
        left = missing(folder, plan)
        tally = Tally(before=len(plan.configurations) - len(left))
        finished = watched(left, progress)
        for configuration in left:
            hold.check()
            tally.count(record_one(folder, Job(configuration, tables, _tuple(sources))))
            finished(configuration)
    return tally


def watched(left: Sequence[Configuration], progress: Progress | None) -> Callable[[Configuration], None]:
    """Tells ``progress`` that the runs of ``left`` begin; call what it returns with each that is over."""
    whole_s = math.fsum(map(seconds, left))
    count, done_s = 0, 0.0

    def finished(configuration: Configuration) -> None:
        """Counts a run that ended, and tells ``progress``."""
        nonlocal count, done_s
        count, done_s = count + 1, done_s + seconds(configuration)
        if progress:
            progress(count, len(left), done_s, whole_s)

    if progress and left:
        progress(0, len(left), 0.0, whole_s)
    return finished


def prepare(plan: Plan, tables: Path, *, network: bool = True) -> dict[str, str]:
    """Fetches the plan's tables once, so that no run waits for a network; where each comes from.

    After one table could not be had from the network the others are not asked for.
    """
    found: dict[str, str] = {}
    for name in sorted({each.dataset for each in plan.configurations}):
        found[name] = training_data.prepare(name, tables, network=network)
        network = network and found[name] != training_data.STAND_IN
    return found


@contextmanager
def opened(folder: Where, plan: Plan, resume: bool = True) -> Iterator[Hold]:
    """The data set, made or gone on with, and held: two sweeps never write one folder."""
    if not dataset.is_dataset(folder):
        dataset.append(folder, [], name=plan.name, part="0-start")
    elif not resume:
        raise DatasetError(f"{folder}: there is a data set already", "without --no-resume to go on with it")
    with ExitStack() as stack:
        try:
            hold = stack.enter_context(storage.place(folder).held(LOCK_FILE))
        except BlockingIOError:
            raise DatasetError(f"{folder}: another sweep is writing here", "wait for it") from None
        check_plan(folder, plan)
        if not storage.place(folder).holds(PLAN_FILE):
            said = {"schema": 1, "plan": plan.name, "fingerprint": plan.fingerprint}
            storage.place(folder).put(PLAN_FILE, json.dumps(said).encode())
        yield hold


def check_plan(folder: Where, plan: Plan) -> None:
    """Raises DatasetError where ``folder`` holds what another plan's sweep wrote, or no sweep."""
    if not dataset.is_dataset(folder):
        return
    place = storage.place(folder)
    if not place.holds(PLAN_FILE):
        if dataset.parts(folder) - {"0-start"}:
            raise DatasetError(f"{folder}: holds records that no sweep wrote", "another folder")
        return
    try:
        found = json.loads(place.read(PLAN_FILE))
        known, name = found["fingerprint"], found["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{folder}/{PLAN_FILE}: cannot be read ({error})", "another folder") from error
    if known != plan.fingerprint:
        raise DatasetError(
            f"{folder}: is of the plan '{name}' ({known}), this is '{plan.name}' ({plan.fingerprint})",
            "another folder, or the plan as it was",
        )


def missing(folder: Where, plan: Plan) -> list[Configuration]:
    """The runs of ``plan`` without a record in ``folder``, in the plan's order; failed ones have one."""
    if not dataset.is_dataset(folder):
        return list(plan.configurations)
    parts = dataset.parts(folder)
    left = [each for each in plan.configurations if each.key not in parts]
    if left and any(len(stem) > len(left[0].key) for stem in parts):
        # Parts of another name come from `compact`: their rows say which runs they hold.
        known = {record.facts.get("key") for record in dataset.read(folder).records}
        left = [each for each in left if each.key not in known]
    return left


def record_one(folder: Where, job: Job, work: Work | None = None) -> Record:
    """Runs ``job`` in a process of its own and appends its record, also where it fails or crashes.

    ``work`` takes the place of ``outcome``.
    """
    record = record_of(job.configuration, (work or outcome)(job))
    dataset.append(folder, [record], part=job.configuration.key)
    return record


def outcome(job: Job, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the run's process said; where it said nothing, how it ended. ``environment`` None is our own."""
    command = [sys.executable, "-m", "joulemeter.trial"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    try:
        out, err = process.communicate(job.to_json())
    except BaseException:
        process.kill()
        process.wait()
        raise
    said = out.strip().splitlines()
    if process.returncode == 0 and said:
        found: dict[str, Any] = json.loads(said[-1])
        return found
    how = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
    last = (err.strip().splitlines() or ["no message"])[-1][:_ERROR_TAIL]
    return {"status": "failed", "error": f"the run's process ended with {how}: {last}"}


def record_of(configuration: Configuration, found: dict[str, Any]) -> Record:
    """The record of a run from what its process said. Unknown figures are NaN, never zero."""

    def figure(name: str) -> float:
        """A figure of the run; NaN where it is not known."""
        value = found.get(name)
        return math.nan if value is None else float(value)

    settings = asdict(configuration)
    described = training_data.facts(configuration.dataset)
    facts = {
        "inputs": described.inputs, "outputs": described.outputs, "rows": described.rows, **settings,
        **{k: v for k, v in found.items() if k not in ("energy_j", "low_j", "high_j", "time_s", "origin")},
        "key": configuration.key, "seed": configuration.seed, "host": socket.gethostname(),
    }  # fmt: skip
    energy_j, time_s, idle_w = figure("energy_j"), figure("time_s"), figure("idle_w")
    idle_j = idle_w * time_s
    return Record(
        level="run", family=_family(configuration.shape), origin=_origin(found.get("origin")),
        name=configuration.key, network=configuration.shape, device=configuration.device, backend="torch",
        dtype=configuration.dtype, batch=configuration.batch_size, direction="training",
        parameters=figure("parameters"), time_s=time_s, power_w=energy_j / time_s if time_s > 0 else math.nan,
        idle_power_w=idle_w, energy_j=energy_j, energy_low_j=figure("low_j"), energy_high_j=figure("high_j"),
        net_energy_j=energy_j - idle_j, source=str(found.get("source", "")), facts=facts,
    )  # fmt: skip


def _family(shape: str) -> str:
    return shape if shape in SEQUENCES else "mlp"


def _origin(said: Any) -> Origin:
    """``measured`` only where every rail is: one estimate among them makes the sum an estimate."""
    return cast("Origin", said) if said in get_args(Origin) else "estimated"


# ── what it will cost ────────────────────────────────────────────────────────────────────────────────────


def seconds(configuration: Configuration, flops_per_s: float = 2e10) -> float:
    """A rough time: the start, each layer of each batch, and 6 FLOPs per parameter and trained row.

    The factor 6 is that of models/hierarchy/training.py. Sequence networks work on every input of a row.
    """
    facts = training_data.facts(configuration.dataset)
    batches = math.ceil(facts.rows * (1 - butter.TEST_SHARE) / configuration.batch_size)
    places = facts.inputs if configuration.shape in SEQUENCES else 1
    overhead_s = batches * configuration.depth * LAYER_S
    flops = 6.0 * configuration.size * facts.rows * places
    if configuration.shape == "transformer":
        # Scores and their sums, 4·places²·width forward; 12·width² parameters make a block.
        width = math.sqrt(configuration.size / (12 * configuration.depth))
        flops += 12.0 * configuration.depth * width * facts.rows * places**2
    return START_S + configuration.epochs * (overhead_s + flops / flops_per_s)


def estimate(runs: Sequence[Configuration], sources: Sequence[str] | None = None) -> Cost:
    """What ``runs`` will take here, after half a second of matrix products under the meter."""
    flops_per_s, watts = _tried(sources)
    time_s = math.fsum(seconds(each, flops_per_s) for each in runs)
    return Cost(len(runs), time_s, time_s * watts)


def _tried(sources: Sequence[str] | None) -> tuple[float, float]:
    """FLOP/s of the fastest of many small matrix products, and the power that they draw.

    The fastest, and half of them on one thread, for other work may hold a core now.
    """
    import numpy as np

    from joulemeter.meter import Meter
    from joulemeter.models.threads import one_thread

    side = 256
    a = np.ones((side, side), dtype=np.float32)

    def fastest_s() -> float:
        """The fastest product within a quarter of a second."""
        stamps = [time.perf_counter()]
        while stamps[-1] < stamps[0] + 0.25 or len(stamps) < 10:
            a @ a
            stamps.append(time.perf_counter())
        return float(np.diff(stamps).min())

    with Meter(None if sources is None else list(sources)) as meter:
        best_s = fastest_s()
        with one_thread():
            best_s = min(best_s, fastest_s())
    return 2.0 * side**3 / best_s, meter.energy_j / meter.time_s


def _tuple(sources: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if sources is None else tuple(sources)
