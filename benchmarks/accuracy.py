"""How far attribution lies from the truth, and how often its intervals hold, on machines of known powers.

    python benchmarks/accuracy.py                        the whole table, 20 seeds; about an hour of one core
    python benchmarks/accuracy.py --seeds 3 --program loop --meter RAPL
    python benchmarks/accuracy.py --write docs/accuracy.md

Each row is a program under a meter; each seed draws another program (sites, powers, lengths, order), another idle
with another drift, and another meter (lag, ticks, quantum, and whether the rail states its lag).
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machines
from joulemeter import attribution
from joulemeter.ledger import Ledger
from joulemeter.timeline import Timeline

BEGIN, END = "<!-- attribution table: begin -->", "<!-- attribution table: end -->"
HEAD = (
    "| program | meter | error | by time | held | resolved | worst resolved | joint | site-runs |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
)


@dataclass(frozen=True)
class Outcome:
    """One run: ``error`` and ``by_time`` are energy-weighted mean absolute errors, as fractions of the true energy."""

    error: float
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


def outcome(program: str, meter: str, seed: int, duration_s: float) -> Outcome:
    """One program under one meter, drawn from one seed."""
    rng = np.random.default_rng([seed, zlib.crc32((program + meter).encode())])
    made = machines.PROGRAMS[program](rng, duration_s)
    read = machines.METERS[meter](rng, made)
    ledger = attribution.attribute([read], made.sites, made.spans)
    ledger.check()
    true = true_joules(made, read, ledger.rails[0].lag_ns)
    plain = attribution.share_by_time([read], made.sites, made.spans)
    return _compared(ledger, plain, true)


def _compared(ledger: Ledger, plain: Ledger, true: np.ndarray) -> Outcome:
    entries = [site.rails[0] for site in ledger.sites]
    found = np.array([entry.exclusive.energy_j for entry in entries])
    by_time = np.array([site.rails[0].exclusive.energy_j for site in plain.sites])
    resolved = np.array([entry.resolved for entry in entries])
    off = np.abs(found - true)
    held = sum(e.exclusive.low_j <= t <= e.exclusive.high_j for e, t in zip(entries, true, strict=True))
    rail = ledger.rails[0]
    parts = rail.attributed_j + rail.idle.energy_j + rail.unattributed_j
    return Outcome(
        error=float(off.sum() / true.sum()),
        by_time=float(np.abs(by_time - true).sum() / true.sum()),
        held=int(held),
        sites=len(true),
        resolved=float(true[resolved].sum() / true.sum()),
        worst=float((off / true)[resolved].max(initial=0.0)),
        joint=_twins(ledger, true),
        conserves=abs(parts / rail.energy.energy_j - 1),
    )


def _twins(ledger: Ledger, true: np.ndarray) -> float:
    """How far the joint energy of the first two sites is off, where they are twins and said to be confounded."""
    entry = ledger.sites[0].rails[0]
    if not ledger.sites[0].site.name.startswith("twin") or entry.joint is None:
        return float("nan")
    group = [0, *entry.confounded_with]
    return float(abs(entry.joint.energy_j / true[group].sum() - 1))


def _row(program: str, meter: str, runs: list[Outcome]) -> str:
    held, sites = sum(run.held for run in runs), sum(run.sites for run in runs)
    joints = [run.joint for run in runs if not np.isnan(run.joint)]
    joint = (
        f"{100 * np.mean(joints):.1f} % ({len(joints)}/{len(runs)})"
        if program.startswith("twins") and joints
        else ""
    )
    return (
        f"| {program} | {meter} | {100 * np.mean([run.error for run in runs]):.1f} % | {100 * np.mean([run.by_time for run in runs]):.0f} % "
        f"| {100 * held / sites:.1f} % | {100 * np.mean([run.resolved for run in runs]):.0f} % "
        f"| {100 * max(run.worst for run in runs):.0f} % | {joint} | {sites} |"
    )


def table(
    programs: list[str], meters: list[str], seeds: range, duration_s: float, jobs: int
) -> tuple[str, float]:
    """The rows of the table, and the worst relative failure to conserve."""
    worst = 0.0
    rows = []
    with ProcessPoolExecutor(jobs) as pool:
        for program in programs:
            for meter in meters:
                count = len(seeds)
                runs = list(
                    pool.map(outcome, [program] * count, [meter] * count, seeds, [duration_s] * count)
                )
                worst = max(worst, *(run.conserves for run in runs))
                rows.append(_row(program, meter, runs))
                print(rows[-1], file=sys.stderr, flush=True)
    return HEAD + "\n".join(rows), worst


def main() -> None:
    """Prints the table, or writes it between the marks of a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--program", default="", help="only programs whose name holds this")
    parser.add_argument("--meter", default="", help="only meters whose name holds this")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds that a program runs")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", type=Path, help="put the table into this page")
    args = parser.parse_args()
    started = time.time()
    programs = [name for name in machines.PROGRAMS if args.program in name]
    meters = [name for name in machines.METERS if args.meter in name]
    seeds = range(args.first, args.first + args.seeds)
    made, worst = table(programs, meters, seeds, args.duration, args.jobs)
    command = (
        f"python benchmarks/accuracy.py --seeds {args.seeds} --first {args.first} --write docs/accuracy.md"
    )
    note = f"Made by `{command}` in {time.time() - started:.0f} s; totals conserve to {worst:.1e} relative."
    text = f"{BEGIN}\n\n{made}\n\n{note}\n\n{END}"
    if args.write is None:
        print(text)
        return
    page = args.write.read_text()
    before, rest = page.split(BEGIN)
    args.write.write_text(before + text + rest.split(END)[1])


if __name__ == "__main__":
    main()
