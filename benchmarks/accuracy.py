"""How far attribution lies from the truth, and how often its intervals hold, on machines of known powers.

    python benchmarks/accuracy.py                        the whole table, 20 seeds; about an hour of one core
    python benchmarks/accuracy.py --seeds 3 --program loop --meter RAPL
    python benchmarks/accuracy.py --house other          the same on machines of other habits
    python benchmarks/accuracy.py --part runs.json --stop-after 280      kept, run by run; again: it goes on
    python benchmarks/accuracy.py --merge *.json --write docs/accuracy.md

Each row is a program under a meter; each seed draws another program (sites, powers, lengths, order), another idle
with another drift, and another meter (lag, ticks, quantum, and whether the rail states its lag).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machines
import other_machines
from joulemeter import attribution
from joulemeter.ledger import Ledger
from joulemeter.timeline import Timeline

HEAD = (
    "| program | meter | error | known | by time | held | resolved | worst resolved | joint | site-runs |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
)
HOUSES = {"usual": machines, "other": other_machines}


@dataclass(frozen=True)
class Outcome:
    """One run: ``error``, ``known`` and ``by_time`` are energy-weighted mean absolute errors, as fractions of the true
    energy; ``known`` is the estimate's were lag, window and ticks known exactly."""

    house: str
    program: str
    meter: str
    seed: int
    error: float
    known: float
    by_time: float
    held: int
    sites: int
    resolved: float
    worst: float
    joint: float
    conserves: float


def true_joules(made: machines.Machine, read: Timeline, lag_ns: int) -> np.ndarray:
    """What each site truly drew by itself while the rail saw it (s,)."""
    spans = made.spans
    low, high = read.t_ns[0] - lag_ns, read.t_ns[-1] - lag_ns
    seen = np.maximum(np.minimum(spans.end_ns, high) - np.maximum(spans.start_ns, low), 0).astype(float)
    for gap in read.gaps:
        start, end = gap.start_ns - lag_ns, gap.end_ns - lag_ns
        seen -= np.maximum(np.minimum(spans.end_ns, end) - np.maximum(spans.start_ns, start), 0)
    own, nested = seen.copy(), spans.parent >= 0
    np.subtract.at(own, spans.parent[nested], seen[nested])
    return np.bincount(spans.site, weights=own / 1e9 * made.call_w, minlength=len(made.sites))


def outcome(house: str, program: str, meter: str, seed: int, duration_s: float) -> Outcome:
    """One program under one meter, drawn from one seed."""
    rng = np.random.default_rng([seed, zlib.crc32((program + meter).encode())])
    made = HOUSES[house].PROGRAMS[program](rng, duration_s)
    read = HOUSES[house].METERS[meter](rng, made)
    ledger = attribution.attribute([read.timeline], made.sites, made.spans)
    ledger.check()
    lag_ns = ledger.rails[0].lag_ns
    true = true_joules(made, read.timeline, lag_ns)
    plain = attribution.share_by_time([read.timeline], made.sites, made.spans)
    entries = [site.rails[0] for site in ledger.sites]
    found, resolved = _exclusive(ledger), np.array([entry.resolved for entry in entries])
    off = np.abs(found - true)
    held = sum(e.exclusive.low_j <= t <= e.exclusive.high_j for e, t in zip(entries, true, strict=True))
    rail = ledger.rails[0]
    parts = rail.attributed_j + rail.idle.energy_j + rail.unattributed_j
    return Outcome(
        house=house,
        program=program,
        meter=meter,
        seed=seed,
        error=float(off.sum() / true.sum()),
        known=_known(made, read.known) if seed % 4 == 0 else float("nan"),
        by_time=float(np.abs(_exclusive(plain) - true).sum() / true.sum()),
        held=int(held),
        sites=len(true),
        resolved=float(true[resolved].sum() / true.sum()),
        worst=float((off / true)[resolved].max(initial=0.0)),
        joint=_twins(ledger, true),
        conserves=abs(parts / rail.energy.energy_j - 1),
    )


def _known(made: machines.Machine, read: Timeline) -> float:
    """The error that is left where lag, window and every tick are known; looked at for every fourth seed."""
    ledger = attribution.attribute([read], made.sites, made.spans)
    true = true_joules(made, read, ledger.rails[0].lag_ns)
    return float(np.abs(_exclusive(ledger) - true).sum() / true.sum())


def _exclusive(ledger: Ledger) -> np.ndarray:
    return np.array([site.rails[0].exclusive.energy_j for site in ledger.sites])


def _twins(ledger: Ledger, true: np.ndarray) -> float:
    """How far the joint energy of the first two sites is off, where they are twins and said to be confounded."""
    entry = ledger.sites[0].rails[0]
    if not ledger.sites[0].site.name.startswith("twin") or entry.joint is None:
        return float("nan")
    group = [0, *entry.confounded_with]
    return float(abs(entry.joint.energy_j / true[group].sum() - 1))


def _row(runs: list[Outcome]) -> str:
    program, meter = runs[0].program, runs[0].meter
    held, sites = sum(run.held for run in runs), sum(run.sites for run in runs)
    joints = [run.joint for run in runs if not np.isnan(run.joint)]
    joint = (
        f"{100 * np.mean(joints):.1f} % ({len(joints)}/{len(runs)})"
        if program.startswith("twins") and joints
        else ""
    )
    error, known, by_time, resolved = (
        100 * float(np.nanmean([getattr(run, name) for run in runs]))
        for name in ("error", "known", "by_time", "resolved")
    )
    worst = 100 * max(run.worst for run in runs)
    return (
        f"| {program} | {meter} | {error:.1f} % | {known:.1f} % | {by_time:.0f} % | {100 * held / sites:.1f} % "
        f"| {resolved:.0f} % | {worst:.0f} % | {joint} | {sites} |"
    )


def table(runs: list[Outcome], house: str) -> str:
    """The rows of a house's table."""
    rows = []
    for program in HOUSES[house].PROGRAMS:
        for meter in HOUSES[house].METERS:
            mine = [run for run in runs if (run.house, run.program, run.meter) == (house, program, meter)]
            rows += [_row(mine)] if mine else []
    seeds = sorted({run.seed for run in runs if run.house == house})
    worst = max(run.conserves for run in runs if run.house == house)
    note = f"Seeds {seeds[0]} to {seeds[-1]}; totals conserve to {worst:.1e} relative."
    return HEAD + "\n".join(rows) + "\n\n" + note


@dataclass(frozen=True)
class Task:
    """One run to be made, as ``outcome`` takes it."""

    house: str
    program: str
    meter: str
    seed: int
    duration_s: float


def measured(tasks: list[Task], jobs: int, part: Path | None, stop_after_s: float) -> list[Outcome]:
    """Runs in order; those that ``part`` holds already are not made again, and each that is made is put there."""
    made = _kept(part) if part and part.exists() else []
    done = {(run.house, run.program, run.meter, run.seed) for run in made}
    left = [task for task in tasks if (task.house, task.program, task.meter, task.seed) not in done]
    end = time.monotonic() + stop_after_s
    with ProcessPoolExecutor(jobs) as pool:
        for low in range(0, len(left), jobs):
            if time.monotonic() > end:
                print(f"{len(left) - low} runs are left for another time", file=sys.stderr)
                break
            made += pool.map(_outcome, left[low : low + jobs])
            if part:
                whole = part.with_suffix(".partial")
                whole.write_text(json.dumps([asdict(run) for run in made]))
                whole.replace(part)
    return made


def _outcome(task: Task) -> Outcome:
    return outcome(*astuple(task))


def _kept(path: Path) -> list[Outcome]:
    return [Outcome(**each) for each in json.loads(path.read_text())]


def _written(page: Path, house: str, text: str) -> None:
    begin, end = (f"<!-- attribution table, {house}: {each} -->" for each in ("begin", "end"))
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def main() -> None:
    """Prints the table, writes it between the marks of a page, or keeps the runs for later."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--house", choices=HOUSES, default="usual", help="whose machines")
    parser.add_argument("--program", default="", help="only programs whose name holds this")
    parser.add_argument("--meter", default="", help="only meters whose name holds this")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds that a program runs")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--part", type=Path, help="keep the runs in this file, and go on from those it holds")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="seconds after which no run is begun"
    )
    parser.add_argument("--merge", type=Path, nargs="+", help="runs kept before, in place of new ones")
    parser.add_argument("--write", type=Path, help="put the tables into this page")
    args = parser.parse_args()
    if args.merge:
        runs = [run for path in args.merge for run in _kept(path)]
    else:
        house = HOUSES[args.house]
        tasks = [
            Task(args.house, program, meter, seed, args.duration)
            for seed in range(args.first, args.first + args.seeds)
            for program in house.PROGRAMS
            for meter in house.METERS
            if args.program in program and args.meter in meter
        ]
        runs = measured(tasks, args.jobs, args.part, args.stop_after)
    for name in HOUSES:
        if any(run.house == name for run in runs):
            text = table(runs, name)
            print(text)
            if args.write:
                _written(args.write, name, text)


if __name__ == "__main__":
    main()
