"""What each level costs a PyTorch training step: bare, api, module, operator, and PyTorch's own profiler.

    python benchmarks/levels.py [--rounds 40] [--steps 100] [--batch 128] [--json FILE]

All variants run in one process, interleaved in random order within every round, on one thread, whose CPU
time is taken: nothing here waits, and what other processes do shows in it less than in wall time. A variant's
ratio is the median over rounds of its ratio to bare within the round, with the interval that holds 95 % of the
medians of resampled rounds; the ratio of the fastest blocks stands beside it. `operator` and `torch.profiler`
are given twice: while the steps run, and all told, with what it takes to start and to have the operators as
spans or events (ours writes them to the run folder; PyTorch's makes its list of events).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from joulemeter.frameworks import kineto
from joulemeter.frameworks import torch as modules
from joulemeter.launch import Compiler, Plan
from joulemeter.recorder import Recorder

STEP = """
import torch

def step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
"""
Step = Callable[[Any, Any, Any, Any], None]


def network(batch: int) -> tuple[Any, Any, Any, Any]:
    """A small perceptron, its optimizer and a batch: 0.3 to 0.6 ms a step on one core with batch 128."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return model, optimizer, torch.randn(batch, 64), torch.randint(10, (batch,))


def compiled(recorder: Recorder | None) -> Step:
    """The step, with gates before its calls where there is a recorder."""
    space: dict[str, Any] = {}
    if recorder is None:
        exec(compile(STEP, "step.py", "exec"), space)
    else:
        plan = Plan(raw="", kind="code", program=STEP, apis=("torch",), levels=("api",))
        exec(Compiler(plan, recorder).code(STEP, "step.py"), space)
    made: Step = space["step"]
    return made


@contextmanager
def traced(tracer: Any, recorder: Recorder) -> Iterator[None]:
    """Runs a tracer."""
    tracer.start(recorder)
    try:
        yield
    finally:
        tracer.stop()


def blocks(folder: Path) -> dict[str, Callable[[int, Any], dict[str, float]]]:
    """By name, a function that runs so many steps and returns seconds a step, by what is counted in."""
    recorder = Recorder(folder)
    bare, gated = compiled(None), compiled(recorder)

    def plainly(step: Step, label: str, tracer: Callable[[], Any] | None = None) -> Any:
        def run(steps: int, what: Any) -> dict[str, float]:
            made = None if tracer is None else tracer()
            started = time.thread_time()
            if made is not None:
                made.start(recorder)
            began = time.thread_time()
            for _ in range(steps):
                step(*what)
            ran = time.thread_time()
            if made is not None:
                made.stop()
            ended = time.thread_time()
            found = {label: (ran - began) / steps}
            if label == "operator":
                found["operator, all told"] = (ended - started) / steps
            return found

        return run

    def profiled(steps: int, what: Any) -> dict[str, float]:
        started = time.thread_time()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as theirs:
            began = time.thread_time()
            for _ in range(steps):
                bare(*what)
            ran = time.thread_time()
        theirs.events()
        ended = time.thread_time()
        return {
            "torch.profiler": (ran - began) / steps,
            "torch.profiler, all told": (ended - started) / steps,
        }

    return {
        "bare": plainly(bare, "bare"),
        "api": plainly(gated, "api"),
        "module": plainly(bare, "module", lambda: modules.tracer("module")),
        "operator": plainly(bare, "operator", lambda: kineto.tracer("operator")),
        "torch.profiler": profiled,
    }


def measure(rounds: int, steps: int, batch: int) -> dict[str, list[float]]:
    """Seconds a step of every variant, one figure a round."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        variants, what = list(blocks(Path(folder)).values()), network(batch)
        for each in variants:
            each(20, what)
        for number in range(rounds):
            random.Random(number).shuffle(variants)
            for each in variants:
                for name, seconds in each(steps, what).items():
                    found.setdefault(name, []).append(seconds)
            if sys.stderr.isatty():
                print(f"round {number + 1} of {rounds}", file=sys.stderr, end="\r")
    return found


def compared(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The median over rounds of the ratio within a round, and the ends of its 95 % interval (bootstrap)."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return statistics.median(ratios), medians[50], medians[-51]


def table(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row a variant, against bare."""
    bare = found["bare"]
    plain = ["bare", "api", "module", "operator", "torch.profiler"]
    rows = []
    for name in [*plain, "operator, all told", "torch.profiler, all told"]:
        ratio, low, high = compared(found[name], bare)
        row = {"variant": name, "step_us": 1e6 * statistics.median(found[name]), "ratio": ratio}
        rows.append({**row, "low": low, "high": high, "of_fastest": min(found[name]) / min(bare)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.rounds, options.steps, options.batch)
    rows = table(found)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.processor() or platform.machine()}"
    )
    print(f"{options.rounds} rounds of {options.steps} steps, batch {options.batch}")
    print(f"{'':26}{'µs a step':>10}{'× bare':>8}{'95 % of medians':>18}{'of fastest':>12}")
    for row in rows:
        interval = f"{row['low']:.3f} … {row['high']:.3f}"
        print(
            f"{row['variant']:26}{row['step_us']:10.0f}{row['ratio']:8.3f}{interval:>18}{row['of_fastest']:12.3f}"
        )
    for kind in ("", ", all told"):
        ratio, low, high = compared(found[f"operator{kind}"], found[f"torch.profiler{kind}"])
        print(f"operator{kind}: {ratio:.3f} ({low:.3f} … {high:.3f}) of torch.profiler{kind} (asked: ≤ 1)")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
