"""A real sweep killed with kill -9 at random moments, gone on with each time: what it lost, and what it did twice.

    python benchmarks/kill_points.py [KILLS] [SEED]

Each kill hits ``joulemeter sweep`` somewhere between its start and three times what its first record took: in its
imports, in a run, in a write. A second part kills the writer of records alone, every few milliseconds of a loop that does nothing but append.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from joulemeter import dataset

RUNS = 24
PLAN = f"""
name = "kills"
datasets = ["sklearn_iris"]
depths = [2]
sizes = [32]
threads = [1]
repetitions = {RUNS}
"""
APPEND = """
import sys
from joulemeter import dataset
from joulemeter.record import Record
print("go", flush=True)
for k in range(10**6):
    dataset.append(sys.argv[1], [Record(level="run", family="mlp", origin="simulated", facts={"key": k})], part=f"{k:06}")
"""


def keys(folder: Path) -> list[str]:
    """The key of every record; raises where a part is torn."""
    return [str(record.facts["key"]) for record in dataset.read(folder).records]


def killed_after(command: list[str], delay_s: float, *, ready: bool = False) -> None:
    """Starts ``command`` and kills it, and nothing but it, ``delay_s`` later (from its first line on where ``ready``)."""
    pipe = subprocess.PIPE if ready else subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True)
    if process.stdout is not None:
        process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.wait()


def first_record_s(command: list[str], folder: Path) -> float:
    """From the start of ``command`` to its first record, on this machine as it is; then it is killed."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    began = time.monotonic()
    while not (dataset.is_dataset(folder) and dataset.parts(folder) - {"0-start"}):
        time.sleep(0.05)
    process.kill()
    process.wait()
    return time.monotonic() - began


def sweeps(kills: int, chance: random.Random) -> None:
    """Kills the sweep, and looks after each kill at what is there."""
    with tempfile.TemporaryDirectory() as name:
        plan, folder = Path(name) / "kills.toml", Path(name) / "data"
        plan.write_text(PLAN)
        command = [sys.executable, "-m", "joulemeter", "sweep", str(plan), "-o", str(folder), "--offline"]
        longest_s = 3 * first_record_s(command, folder)
        before = set(keys(folder))
        lost = twice = grew = 0
        for _ in range(kills):
            killed_after(command, chance.uniform(0.01, longest_s))
            now = keys(folder) if dataset.is_dataset(folder) else []
            lost += len(before - set(now))
            twice += len(now) - len(set(now))
            grew += len(set(now)) > len(before)
            before = set(now)
        print(
            f"{kills} kills of a sweep, {grew} after a new record: {len(before)} of {RUNS} recorded, {lost} lost, {twice} twice"
        )
        subprocess.run([*command, "--json"], check=True, stderr=subprocess.DEVNULL)
        now = keys(folder)
        print(
            f"then let finish: {len(now)} records, {len(set(now))} different, of {RUNS} runs; {left_over(folder)}"
        )


def writes(kills: int, chance: random.Random) -> None:
    """Kills a loop of appends, and checks that its records are the first ones without a gap."""
    with tempfile.TemporaryDirectory() as name:
        torn = gaps = 0
        for kill in range(kills):
            folder = Path(name) / str(kill)
            killed_after([sys.executable, "-c", APPEND, str(folder)], chance.uniform(0.0, 0.2), ready=True)
            found = sorted(int(key) for key in keys(folder)) if dataset.is_dataset(folder) else []
            torn += sum(path.suffix == ".partial" for path in folder.glob("*")) if folder.exists() else 0
            gaps += found != list(range(len(found)))
        print(f"{kills} kills among writes: {torn} hit a write half done, {gaps} left a gap or a torn record")


def left_over(folder: Path) -> str:
    """Files of writes that were cut off: they are no records."""
    count = sum(each.endswith(".partial") for each in os.listdir(folder))
    return f"{count} unfinished files"


def main() -> None:
    """Prints what was lost."""
    kills, seed = (int(text) for text in (sys.argv[1:] + ["30", "1"][len(sys.argv) - 1 :]))
    chance = random.Random(seed)
    began = time.monotonic()
    writes(kills, chance)
    sweeps(kills, chance)
    print(f"{time.monotonic() - began:.0f} s, seed {seed}")


if __name__ == "__main__":
    main()
