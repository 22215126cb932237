"""Attribution of 10 million spans and 1 million readings: seconds, and the most memory it took.

    python benchmarks/report_scale_attribution.py
    python benchmarks/report_scale_attribution.py --spans 1e6 --readings 1e5

Calls of about 100 µs in modules of 10 ms inside one run, under a counter read every millisecond. Printed are the
wall time, the processor time (what a machine with nothing else to do needs) and the peak resident memory, the
arrays of spans and readings included.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from joulemeter import attribution, timeline
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans

SITES = 40
CALL_NS = 100_000
MODULE_NS = 10_000_000


def program(count: int) -> tuple[tuple[Site, ...], Spans]:
    """About ``count`` calls on one lane, a hundred in each module, all inside one run."""
    rng = np.random.default_rng(0)
    per_module = MODULE_NS // CALL_NS
    modules = max(count // per_module, 1)
    start = (
        10**9
        + np.arange(modules * per_module) * CALL_NS
        + rng.integers(0, CALL_NS // 4, modules * per_module)
    )
    end = start + rng.integers(CALL_NS // 4, CALL_NS // 2, len(start))
    module = 10**9 + np.arange(modules) * MODULE_NS
    finish = 10**9 + modules * MODULE_NS
    site = np.concatenate([[0], np.ones(modules), rng.integers(2, SITES, len(start))]).astype(np.int32)
    parent = np.concatenate([[-1], np.zeros(modules), 1 + np.repeat(np.arange(modules), per_module)]).astype(
        np.int64
    )
    spans = Spans(
        site,
        np.zeros(len(site), np.int32),
        np.concatenate([[10**9 - 5], module, start]),
        np.concatenate([[finish + 5], module + MODULE_NS - 10, end]),
        parent,
    )
    sites = (
        Site(0, "train.py", "run"),
        Site(1, "forward", "module"),
        *(Site(i, f"call{i}") for i in range(2, SITES)),
    )
    return sites, spans


def readings(spans: Spans, count: int) -> timeline.Timeline:
    """A counter under that run, at powers that differ by site."""
    rng = np.random.default_rng(1)
    t_ns = np.linspace(0, int(spans.end_ns.max()) + 10**9, count).astype(np.int64)
    watts = np.linspace(15, 120, SITES)[spans.site]
    joules = watts * (spans.end_ns - spans.start_ns) / 1e9
    calls = spans.site >= 2
    grown = np.concatenate([[0.0], np.cumsum(joules[calls])])
    energy = 20.0 * t_ns / 1e9 + grown[np.searchsorted(spans.end_ns[calls], t_ns)] + 1e-3 * rng.random(count)
    rail = Rail(id=0, name="package-0", kind="counter", origin="simulated", period_ns=1_000_000)
    return timeline.from_readings(rail, t_ns, np.maximum.accumulate(energy))


def main() -> None:
    """Prints what one attribution took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spans", type=float, default=1e7)
    parser.add_argument("--readings", type=float, default=1e6)
    args = parser.parse_args()
    sites, spans = program(int(args.spans))
    read = readings(spans, int(args.readings))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter(), time.process_time()
    ledger = attribution.attribute([read], sites, spans)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ledger.check()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(spans):,} spans, {len(read.t_ns):,} readings: {wall:.1f} s wall, {cpu:.1f} s of processor time"
    )
    print(f"peak {peak:.2f} GiB, of which {before:.2f} GiB before attribution began")


if __name__ == "__main__":
    main()
