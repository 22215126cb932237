"""What the sampler takes from what it measures: python benchmarks/sampler_cost.py [--pairs N] [--threads N]

A RAPL tree whose counter a writer moves every millisecond, and a PyTorch training loop on the CPU, metered every
10 ms, then every 1 ms. The loop never ends; by turns of a quarter of a second the sampler is held (SIGSTOP) and let
go on (SIGCONT), each pair in an order drawn by lot, so that a machine whose speed drifts does so in both. Prints the
median over pairs of how much slower a step is with the sampler than without, its 95 % interval (order statistics),
and the sampler's CPU time while it samples. The writer runs throughout; it and the sampler have a core to share
when the loop leaves one free.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

import torch

import joulemeter

PERIODS = {"every 10 ms": 0.010, "every 1 ms": 0.001}
SETTLED_S = 0.005


def tree(root: Path) -> Path:
    """One package of a powercap tree."""
    zone = root / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    (zone / "energy_uj").write_text(f"{0:015d}\n")
    return root


def write_counter(file: Path) -> None:
    """Moves the counter at every whole millisecond, at 100 W, until killed."""
    fd = os.open(file, os.O_WRONLY)
    with contextlib.suppress(PermissionError):
        # As steady as hardware, where root may ask for it: rapl looks for the counter's pace.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    while True:
        now = time.monotonic_ns()
        time.sleep((1_000_000 - now % 1_000_000) / 1e9)
        os.pwrite(fd, b"%015d\n" % (time.monotonic_ns() // 1_000_000 * 100_000), 0)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


class Loop:
    """A small network in training, which goes on where it was."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.data, self.labels = torch.randn(256, 256), torch.randint(0, 10, (256,))

    def step_s(self, seconds: float) -> float:
        """Seconds a step takes, over ``seconds``."""
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.data), self.labels).backward()
            self.optimiser.step()
            steps += 1
        return (time.perf_counter() - start) / steps


def slowdowns(spec: str, period_s: float, pairs: int, seconds: float) -> tuple[list[float], float]:
    """Of each pair the slowdown by the sampler; and its share of a core while it was let run."""
    loop, found, busy_ns, let_ns = Loop(), [], 0, 0
    loop.step_s(1.0)
    lot = random.Random(0)
    with joulemeter.Meter(sources=[spec], period_s=period_s) as meter:
        pid = meter._sampler.pid
        for _ in range(pairs):
            took = {}
            for let in lot.sample([True, False], 2):
                os.kill(pid, signal.SIGCONT if let else signal.SIGSTOP)
                time.sleep(SETTLED_S)
                before_ns, start_ns = cpu_ns(pid), time.monotonic_ns()
                took[let] = loop.step_s(seconds)
                if let:
                    busy_ns += cpu_ns(pid) - before_ns
                    let_ns += time.monotonic_ns() - start_ns
            found.append(took[True] / took[False] - 1)
        os.kill(pid, signal.SIGCONT)
    return found, busy_ns / let_ns


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the order statistics that bound it with 95 % (the binomial's normal approximation)."""
    ordered, n = sorted(values), len(values)
    off = round(0.98 * n**0.5)
    return statistics.median(ordered), ordered[max(n // 2 - off, 0)], ordered[min((n - 1) // 2 + off, n - 1)]


def main() -> None:
    """Interleaves the turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.25, help="of a turn")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder))
        writer = os.fork()
        if writer == 0:
            write_counter(root / "intel-rapl:0" / "energy_uj")
        try:
            compare(f"rapl:{root}", given.pairs, given.seconds)
        finally:
            os.kill(writer, 9)
            os.waitpid(writer, 0)


def alone(spec: str, windows: int = 20) -> list[float]:
    """The sampler's share of a core at 10 ms, caches its own, in each of some seconds."""
    shares = []
    with joulemeter.Meter(sources=[spec], period_s=0.010) as meter:
        for _ in range(1 + windows):
            before_ns, start_ns = cpu_ns(meter._sampler.pid), time.monotonic_ns()
            time.sleep(1.0)
            shares.append((cpu_ns(meter._sampler.pid) - before_ns) / (time.monotonic_ns() - start_ns))
    return shares[1:]  # in the first it learns the counter's pace


def compare(spec: str, pairs: int, seconds: float) -> None:
    """Prints the table."""
    print(
        f"| metered | loop slowed by (median of {pairs} pairs; 95 %) | sampler, of one core |\n|---|---|---|"
    )
    middle, low, high = median_interval(alone(spec))
    print(f"| every 10 ms, nothing else running | | {middle:.2%} ({low:.2%} to {high:.2%}) |")
    for name, period_s in PERIODS.items():
        found, share = slowdowns(spec, period_s, pairs, seconds)
        middle, low, high = median_interval(found)
        print(f"| {name} | {middle:+.2%} ({low:+.2%} to {high:+.2%}) | {share:.2%} |")


if __name__ == "__main__":
    main()
