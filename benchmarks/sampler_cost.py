"""What the sampler takes from what it measures: python benchmarks/sampler_cost.py [--rounds N] [--threads N]

A RAPL tree whose counter a writer moves every millisecond; a PyTorch training loop on the CPU, by turns without a
meter, metered every 10 ms and every 1 ms, interleaved in one run. Prints the loop's slowdown (median over rounds, with
their quartiles) and the sampler's CPU time while it samples. The writer runs in every turn, so it
weighs on all alike; it and the sampler have a core to share when the loop leaves one free.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

import joulemeter

TURNS: dict[str, float | None] = {"no meter": None, "every 10 ms": 0.010, "every 1 ms": 0.001}


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


def training_loop(seconds: float) -> float:
    """Seconds a step of a small network's training takes, over ``seconds``."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    data, labels = torch.randn(256, 256), torch.randint(0, 10, (256,))
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data), labels).backward()
        optimiser.step()
        steps += 1
    return (time.perf_counter() - start) / steps


def turn(spec: str, period_s: float | None, seconds: float) -> tuple[float, float]:
    """Seconds a step, and the sampler's share of a core while the loop ran (zero without one)."""
    if period_s is None:
        return training_loop(seconds), 0.0
    with joulemeter.Meter(sources=[spec], period_s=period_s) as meter:
        pid = meter._sampler.pid
        before_ns, start_ns = cpu_ns(pid), time.monotonic_ns()
        step_s = training_loop(seconds)
        share = (cpu_ns(pid) - before_ns) / (time.monotonic_ns() - start_ns)
    return step_s, share


def main() -> None:
    """Interleaves the turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder))
        writer = os.fork()
        if writer == 0:
            write_counter(root / "intel-rapl:0" / "energy_uj")
        try:
            compare(f"rapl:{root}", given.rounds, given.seconds)
        finally:
            os.kill(writer, 9)
            os.waitpid(writer, 0)


def alone(spec: str, seconds: float) -> float:
    """The sampler's share of a core at 10 ms, caches its own."""
    with joulemeter.Meter(sources=[spec], period_s=0.010) as meter:
        time.sleep(1.0)
        before_ns, start_ns = cpu_ns(meter._sampler.pid), time.monotonic_ns()
        time.sleep(2 * seconds)
        return (cpu_ns(meter._sampler.pid) - before_ns) / (time.monotonic_ns() - start_ns)


def compare(spec: str, rounds: int, seconds: float) -> None:
    """All turns, round by round."""
    training_loop(1.0)
    slowdowns: dict[str, list[float]] = {name: [] for name in TURNS}
    shares: dict[str, list[float]] = {name: [] for name in TURNS}
    for _ in range(rounds):
        seen = {name: turn(spec, period_s, seconds) for name, period_s in TURNS.items()}
        for name, (step_s, share) in seen.items():
            slowdowns[name].append(step_s / seen["no meter"][0] - 1)
            shares[name].append(share)
    print(
        f"| metered | loop slowed by (median; quartiles of {rounds}) | sampler, of one core |\n|---|---|---|"
    )
    print(f"| every 10 ms, nothing else running | | {alone(spec, seconds):.2%} |")
    for name in list(TURNS)[1:]:
        low, middle, high = statistics.quantiles(slowdowns[name], n=4)
        print(
            f"| {name} | {middle:+.2%} ({low:+.2%} to {high:+.2%}) | {statistics.median(shares[name]):.2%} |"
        )


if __name__ == "__main__":
    main()
