"""The whole check on a real NVIDIA GPU, in one go: kernels where they ran, joules where they went, and the cost.

    python benchmarks/gpu.py [--seconds 5] [--rehearse]

Where torch sees no GPU it says so and ends. Else it runs two loads (a matrix product, bound by arithmetic,
and an addition, bound by memory), each its own call, with rests between, under every level, metered by NVML,
and then a training step with and without the kernel level, and writes to docs/performance.md, under the
device's name:

- how many launches have a device record, an operator, a call and a source line;
- how far the kernels' time is from that of CUDA's own events, and how many kernels begin before their launch;
- how far the two calls' joules are from what the GPU's counter rose by while each ran alone;
- what the kernel level costs a training step, beside torch.profiler.

`--rehearse` walks the same way on the CPU with a simulated meter and writes nothing: it shows that this
script works, and says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import joulemeter
from joulemeter.frameworks import kineto
from joulemeter.recorder import Recorder
from joulemeter.units import joules, si

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks/gpu.py -->", "<!-- end of benchmarks/gpu.py -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load and each rest lasts")
    parser.add_argument(
        "--rehearse", action="store_true", help="on the CPU, with a simulated meter; writes nothing"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.rehearse:
        print(f"no GPU: torch {torch.__version__} sees no CUDA device; nothing was measured, nothing written")
        return
    device = torch.device("cpu" if options.rehearse else "cuda")
    name = platform.machine() if options.rehearse else torch.cuda.get_device_name()
    lines = [*placed(device, options.seconds), *cost(device)]
    text = "\n".join(
        [f"### {name}", "", f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}", "", *lines]
    )
    print(text)
    if not options.rehearse:
        write(PAGE, text)


# ── two loads: where their kernels ran, and where their joules went ─────────────────────────────────


def loads(device: torch.device) -> dict[str, Callable[[], Any]]:
    """A matrix product bound by arithmetic and an addition bound by memory."""
    size, length = (4096, 1 << 28) if device.type == "cuda" else (512, 1 << 20)
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    long = torch.ones(length, device=device)
    return {"product": lambda: torch.mm(a, b), "addition": lambda: long.add_(1.0)}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def placed(device: torch.device, seconds: float) -> list[str]:
    """Runs the loads by turns under every level, metered; the facts as lines of Markdown."""
    sources = ["nvml"] if device.type == "cuda" else ["simulated:load=cpu,idle=20,busy=100"]
    windows: dict[str, tuple[int, int]] = {}
    event_s: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        with joulemeter.Meter(sources=sources, folder=Path(folder) / "run") as meter:
            recorder = meter._recorder
            assert recorder is not None
            for each in loads(device).values():
                each()
            synchronize(device)
            tracers = [kineto.tracer(level) for level in ("operator", "kernel")]
            for tracer in tracers:
                tracer.start(recorder)
            time.sleep(seconds)
            for line, (name, work) in enumerate(loads(device).items(), 1):
                windows[name], event_s[name] = alone(device, recorder, (name, line), work, seconds)
                time.sleep(seconds)
            for tracer in reversed(tracers):
                tracer.stop()
        gross = {name: meter.energy_between(*window) for name, window in windows.items()}
        return [*placement(meter, event_s), *energies(meter, windows, gross, seconds)]


def alone(
    device: torch.device, recorder: Recorder, place: tuple[str, int], work: Callable[[], Any], seconds: float
) -> tuple[tuple[int, int], float]:
    """One load for so long, each call a call site of its own; its window and the seconds CUDA's events saw."""
    name, line = place
    site = recorder.site(name, "call", "gpu.py", line, 0, "alone")
    cuda = device.type == "cuda"
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if cuda else (None, None)
    start_ns, until = time.monotonic_ns(), time.monotonic() + seconds
    if first is not None:
        first.record()
    while time.monotonic() < until:
        # So many launches ahead of the device that launching is not what limits it, and no more.
        for _ in range(10):
            recorder.enter(site)
            work()
            recorder.exit()
        synchronize(device)
    if last is not None:
        last.record()
    synchronize(device)
    end_ns = time.monotonic_ns()
    wall_s = (end_ns - start_ns) / 1e9
    return (start_ns, end_ns), first.elapsed_time(last) / 1e3 if first and last else wall_s


def placement(meter: Any, event_s: dict[str, float]) -> list[str]:
    """Whether kernels know their operator, call and line, and run when the device says."""
    run = meter.run
    sites, spans = {site.id: site for site in run.sites}, run.spans
    kind = np.array([sites[site].kind for site in spans.site.tolist()])
    kernels = np.flatnonzero(kind == "kernel")
    if not len(kernels):
        return ["- no device record: nothing ran on a GPU"]
    owned = kernels[spans.parent[kernels] >= 0]
    lined = sum(1 for row in kernels.tolist() if sites[int(spans.site[row])].line)
    early = int((spans.start_ns[owned] < spans.start_ns[spans.parent[owned]]).sum())
    took_s = {name: 0.0 for name in event_s}
    for row in kernels.tolist():
        line = sites[int(spans.site[row])].line
        if 0 < line <= len(event_s):
            took_s[list(event_s)[line - 1]] += (spans.end_ns[row] - spans.start_ns[row]) / 1e9
    lanes = spans.lane[kernels]
    overlapping = sum(overlaps(spans, kernels[lanes == lane]) for lane in np.unique(lanes))
    return [
        f"- {len(kernels):,} device records; {len(owned) / len(kernels):.2%} know their operator, "
        f"{lined / len(kernels):.2%} their call and source line",
        f"- {early:,} begin before the operator that launched them; {overlapping:,} overlap another on their stream",
        *(
            f"- {name}: kernels took {took_s[name]:.3f} s, CUDA's events saw {event_s[name]:.3f} s "
            f"({took_s[name] / event_s[name] - 1:+.1%})"
            for name in event_s
        ),
    ]


def overlaps(spans: Any, rows: Any) -> int:
    """How many spans of one lane begin before the one before them has ended."""
    order = rows[np.argsort(spans.start_ns[rows])]
    return int((spans.start_ns[order][1:] < spans.end_ns[order][:-1]).sum())


def energies(
    meter: Any, windows: dict[str, tuple[int, int]], gross: dict[str, Any], seconds: float
) -> list[str]:
    """Each load's attributed joules beside what the counter rose by, less the rest, while it ran alone."""
    began_ns, second = windows["product"][0], 1e9 * seconds
    rest = meter.energy_between(began_ns - round(0.6 * second), began_ns - round(0.1 * second))
    rest_w = rest.energy_j / (0.5 * seconds)
    ledger, lines = meter.ledger, [f"- at rest: {si(rest_w, 'W')}"]
    for line, name in enumerate(windows, 1):
        start_ns, end_ns = windows[name]
        net_j = gross[name].energy_j - rest_w * (end_ns - start_ns) / 1e9
        mine = [each for each in ledger.sites if each.site.line == line]
        attributed = sum(entry.exclusive.energy_j for each in mine for entry in each.rails)
        lines.append(
            f"- {name}: attributed {joules(attributed)}, the counter rose by {joules(net_j)} above rest "
            f"({attributed / net_j - 1:+.1%})"
        )
    ledger.check()
    return lines


# ── what the kernel level costs ──────────────────────────────────────────────────────────────────────


def cost(device: torch.device) -> list[str]:
    """A training step bare, under the kernel level, and under torch.profiler, by turns."""
    rounds, steps = (7, 100) if device.type == "cuda" else (2, 3)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(1024, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(1024, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(256, 1024, device=device), torch.randint(10, (256,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def block() -> float:
        synchronize(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(device)
        return (time.perf_counter() - began) / steps

    found: dict[str, list[float]] = {"bare": [], "kernel level": [], "torch.profiler": []}
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Recorder(folder)) as recorder:
        block()
        for _ in range(rounds):
            found["bare"].append(block())
            tracer = kineto.tracer("kernel")
            tracer.start(recorder)
            found["kernel level"].append(block())
            tracer.stop()
            with torch.profiler.profile(activities=activities):
                found["torch.profiler"].append(block())
    middle = {name: statistics.median(seconds) for name, seconds in found.items()}
    shown = (f"{name} {si(each, 's')} ({each / middle['bare']:.2f} ×)" for name, each in middle.items())
    return [f"- a training step: {', '.join(shown)}"]


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────


def write(page: Path, text: str) -> None:
    """Puts ``text`` between the page's marks; a page without them gets them at its end."""
    section = f"{BEGIN}\n## On a GPU\n\n{text}\n{END}\n"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n\n"
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END) + "\n?", re.DOTALL)
    found = pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old.rstrip()}\n\n{section}"
    page.write_text(found, encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
