"""What recording costs: spans, gates, metered calls, memory, and the compiling of sources.

    python benchmarks/overhead.py [--quick] [--engine pure]

Every figure is taken beside its baseline, turn by turn in one process; medians over the turns, with the
lower and upper quartiles. Times are CPU times of the thread, which other processes stretch less.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joulemeter.frameworks import calls, rewrite
from joulemeter.recorder import Recorder

SOURCE = """
import math
def own(x): return x
class Own:
    def method(self, x): return x
thing = Own()
def call_function(n):
    for _ in range(n): own(1)
def call_method(n):
    for _ in range(n): thing.method(1)
def call_builtin(n):
    for _ in range(n): len("x")
def call_class(n):
    for _ in range(n): Own()
def call_metered(n):
    for _ in range(n): math.sin(1.0)
"""
TARGETS = {"call_metered": 1000}


def beside(bare: Callable[[int], None], gated: Callable[[int], None], n: int, turns: int) -> list[float]:
    """Nanoseconds a call that ``gated`` takes longer than ``bare``, a figure a turn."""
    extra = []
    for _ in range(turns):
        start = time.thread_time_ns()
        bare(n)
        middle = time.thread_time_ns()
        gated(n)
        extra.append((time.thread_time_ns() - middle - (middle - start)) / n)
    return extra


def row(name: str, values: list[float], unit: str, target: str) -> None:
    low, middle, high = statistics.quantiles(values, n=4)
    print(f"| {name} | {middle:.3g} {unit} | {low:.3g} … {high:.3g} | {target} |", flush=True)


def gates(engine: Any, n: int, turns: int) -> None:
    """Calls that pass a gate, beside the same calls without."""
    recorder = Recorder(tempfile.mkdtemp(), engine)
    made = recorder.gates(calls.Judge(recorder, ("math",)), calls.special())
    bare: dict[str, Any] = {}
    exec(compile(SOURCE, "bare.py", "exec"), bare)
    compiled = rewrite.compiled(SOURCE, "gated.py")
    gated: dict[str, Any] = {}
    place = [("gated.py", at.line, at.column, at.function) for at in compiled.places]
    code = rewrite.fill(compiled.code, lambda i: made.gate(compiled.places[i].kind, place[i]))
    exec(code, gated)
    for name in ("call_function", "call_method", "call_builtin", "call_class", "call_metered"):
        values = beside(bare[name], gated[name], n, turns)
        row(f"{name.replace('_', ' ')}, over bare", values, "ns", f"≤ {TARGETS.get(name, 150)} ns")
    recorder.close()


def spans(engine: Any, n: int, turns: int) -> None:
    """``with span()`` and enter/exit, beside an empty loop."""
    recorder = Recorder(tempfile.mkdtemp(), engine)
    site = recorder.site("f", "call")

    def empty(count: int) -> None:
        for _ in range(count):
            pass

    def span(count: int) -> None:
        for _ in range(count):
            with recorder.span("x"):
                pass

    def pair(count: int) -> None:
        enter, leave = recorder.enter, recorder.exit
        for _ in range(count):
            enter(site)
            leave()

    row("with span(), enter and exit", beside(empty, span, n, turns), "ns", "≤ 1500 ns")
    values = beside(empty, pair, n, turns)
    row("spans a second", [1e9 / value for value in values], "", "≥ 500000")
    recorder.close()
    size = sum(path.stat().st_size for path in Path(recorder._folder).glob("lane-*.bin"))
    print(f"| bytes a span | {size / (2 * n * turns):.0f} | | ≤ 40 |")


def memory(count: int) -> None:
    """The largest resident size of a process that makes ``count`` metered calls."""
    program = f"""
import math
from joulemeter.frameworks import calls
from joulemeter.recorder import Recorder
import tempfile, shutil
folder = tempfile.mkdtemp(dir={tempfile.gettempdir()!r})
recorder = Recorder(folder)
gate = recorder.gates(calls.Judge(recorder, ("math",)), calls.special()).gate(0, ("x", 1, 0, ""))
def peak(): return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
sin = math.sin
for _ in range({count}): gate(sin)(1.0)
recorder.close()
print(before, peak())
shutil.rmtree(folder)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    print(
        f"| {count:,} metered calls, resident | {after / 1024:.0f} MiB | {before / 1024:.0f} MiB before | < 300 MiB |"
    )


def compiling(turns: int) -> None:
    """CPU time of compiling with gates beside compiling without, on modules of Python's own."""
    for name in ("argparse", "typing", "inspect", "_pydecimal"):
        path = importlib.import_module(name).__file__ or ""
        source = Path(path).read_bytes()
        hundreds = source.count(b"\n") / 100
        extra = []
        for _ in range(turns):
            start = time.process_time_ns()
            compile(source, path, "exec", dont_inherit=True)
            middle = time.process_time_ns()
            rewrite.compiled(source, path)
            extra.append((time.process_time_ns() - middle - (middle - start)) / 1e6 / hundreds)
        row(f"compiling {name}, over bare, per 100 lines", extra, "ms", "≤ 1 ms")


def torch_steps(step_ms: float, steps: int, turns: int) -> None:
    """A torch loop with steps of about ``step_ms``, with gates and without, turn by turn."""
    import torch

    torch.set_num_threads(1)
    size = 32
    source = TORCH
    while True:
        space: dict[str, Any] = {}
        exec(compile(source, "bare.py", "exec"), space)
        net = space["make"](size)
        space["train"](net, 20)
        seen_ms = math.inf
        for _ in range(10):
            start = time.thread_time_ns()
            space["train"](net, 3)
            seen_ms = min(seen_ms, (time.thread_time_ns() - start) / 3e6)
        if seen_ms >= step_ms or size > 1 << 17:
            break
        size = math.ceil(size * 1.25)
    recorder = Recorder(tempfile.mkdtemp())
    made = recorder.gates(calls.Judge(recorder, ("torch",)), calls.special())
    compiled = rewrite.compiled(source, "gated.py")
    place = [("gated.py", at.line, at.column, at.function) for at in compiled.places]
    gated: dict[str, Any] = {}
    exec(rewrite.fill(compiled.code, lambda i: made.gate(compiled.places[i].kind, place[i])), gated)
    ratios, bare_ms = [], []
    for turn in range(turns):
        took: dict[bool, float] = {}
        # The same network for both: where its arrays lie in memory is worth more than what is looked for.
        for metered in (True, False) if turn % 2 else (False, True):
            start = time.thread_time_ns()
            (gated if metered else space)["train"](net, steps)
            took[metered] = (time.thread_time_ns() - start) / steps / 1e6
        ratios.append(100 * (took[True] / took[False] - 1))
        bare_ms.append(took[False])
    recorder.close()
    ratios.sort()
    off = round(0.98 * turns**0.5)
    interval = f"{ratios[turns // 2 - off]:+.2f} … {ratios[turns // 2 + off]:+.2f} (95 % of the median)"
    limit = "≤ 2 %" if step_ms < 1 else "≤ 1 %"
    print(
        f"| torch loop, steps of {statistics.median(bare_ms):.2f} ms, {turns} pairs, slowed by "
        f"| {statistics.median(ratios):+.2f} % | {interval} | {limit} |"
    )


TORCH = """
import torch
import torch.nn.functional as F
from torch import nn
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(64, width), nn.Linear(width, 10)
    def forward(self, x):
        return self.b(F.relu(self.a(x)))
def make(width):
    torch.manual_seed(0)
    net = Net(width)
    return net, torch.optim.SGD(net.parameters(), lr=0.01), torch.randn(64, 64), torch.randint(0, 10, (64,))
def train(made, steps):
    net, optimizer, x, y = made
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
"""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer turns, and a million calls instead of 50")
    parser.add_argument("--engine", default="", help="'pure' for the Python twin")
    options = parser.parse_args()
    engine: Any = importlib.import_module(f"joulemeter.{options.engine or '_recorder'}")
    turns, n = (5, 50_000) if options.quick else (15, 200_000)
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {engine.__name__}\n"
    )
    print("| what | median | quartiles | target |\n|---|---|---|---|")
    gates(engine, n, turns)
    spans(engine, n, turns)
    compiling(turns)
    torch_steps(0.45, 10, 200 * turns)
    torch_steps(5, 4, 40 * turns)
    memory(1_000_000 if options.quick else 50_000_000)


if __name__ == "__main__":
    main()
