"""A small run with everything a report must show: two rails, a gap, a device lane, sites that cannot be told apart."""

import math
from pathlib import Path

import numpy as np

from joulemeter.ledger import UNKNOWN, Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.reading import Rail
from joulemeter.run import Run
from joulemeter.span import Site, Spans

START = 1_000_000_000
S = 1_000_000_000

RAILS = (
    Rail(id=0, name="package-0", kind="counter", origin="measured", period_ns=S // 100, source="rapl"),
    Rail(id=1, name="gpu-0", kind="gauge", origin="estimated", period_ns=S // 10, source="nvml"),
    Rail(
        id=2, name="cores-0", kind="counter", origin="measured", period_ns=S // 100, inside=0, source="rapl"
    ),
)


def sites(script: str) -> tuple[Site, ...]:
    def seen(*shapes: tuple[int, int, int]) -> dict[str, object]:
        tensor = {"type": "torch.Tensor", "dtype": "torch.float32", "device": "cpu"}
        each = [{**tensor, "shape": [a, b], "bytes": 4 * a * b, "count": n} for a, b, n in shapes]
        return {"described": 40, "of": 40, "each": {"0": each}}

    sizes = seen((32, 128, 30), (64, 128, 10))
    return (
        Site(0, "train.py", "run", script, 1),
        Site(1, "torch.nn.functional.linear", "operator", script, 3, 4, "step", sizes),
        Site(2, "torch.relu <b>&amp;</b>; inner", "operator", script, 4, 4, "step", seen((32, 64, 40))),
        Site(3, "encoder.layer", "module", script, 2, 0, "main"),
        Site(4, "sgemm_128x64", "kernel"),
        Site(5, "json.loads", "call", script, 6, 0, "main"),
    )


def spans() -> Spans:
    """Root over 10 s; 40 modules of 0.2 s with a linear and a relu in each, and a kernel beside each linear."""
    rows = [(0, 0, START, START + 10 * S, -1)]
    for number in range(40):
        at, root = START + S + number * S // 5, len(rows)
        rows.append((3, 0, at, at + S * 18 // 100, 0))
        rows.append((1, 0, at + S // 100, at + S // 10, root))
        rows.append((2, 0, at + S // 10, at + S * 17 // 100, root))
        rows.append((4, 1, at + S // 50, at + S // 10, root + 1))
    rows.append((5, 0, START + S * 95 // 10, START + S * 99 // 10, 0))
    columns = np.array(rows, np.int64).T
    return Spans(columns[0].astype(np.int32), columns[1].astype(np.int32), *columns[2:])


def readings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = START + np.arange(0, 1001) * (S // 100)
    watts = 20 + 25 * ((t > START + S) & (t < START + 9 * S)) + 5 * np.sin(np.arange(1001) / 7)
    joules = np.concatenate([[0], np.cumsum(watts[1:] / 100)])
    slow = t[::10]
    gauge = np.where((slow > START + 4 * S) & (slow < START + 5 * S), np.nan, 60.0)
    rail = np.repeat([0, 1, 2], [len(t), len(slow), len(t)])
    return rail.astype(np.int16), np.concatenate([t, slow, t]), np.concatenate([joules, gauge, joules * 0.6])


def run(folder: Path, script: Path | None = None) -> Run:
    """The run, recorded in ``folder``; its sites lie in ``script``."""
    header = {
        "schema": 1,
        "state": "finished",
        "argv": ["train.py", "--epochs", "1"],
        "cwd": str(folder),
        "host": {"name": "bench-7", "cpu": "Example CPU", "cpus": 8, "python": "3.11.7"},
        "start": {"wall_ns": 1_700_000_000 * S, "monotonic_ns": START},
        "lanes": ["MainThread", "cuda stream 7"],
        "notes": [],
    }
    return Run(folder, header, RAILS, sites(str(script or "train.py")), spans(), *readings())


def around(value: float, share: float = 0.05) -> Energy:
    return Energy(value, value * (1 - share), value * (1 + share))


EXCLUSIVE = {0: (4.0, 2.0, 2.0), 1: (120.0, 210.0, 80.0), 2: (46.0, math.nan, 20.0), 3: (7.0, 0.5, 3.0)}
EXCLUSIVE |= {4: (0.0, 180.0, 0.0), 5: (6.0, 0.01, 4.0)}


def ledger(of: Run, scale: float = 1.0) -> Ledger:
    """Its ledger, by hand: parts that add up; relu unknown on the gpu; two sites that cannot be told apart."""
    timelines = of.timelines()
    site_ledgers = []
    for site in of.sites:
        entries = []
        for rail in range(3):
            value = EXCLUSIVE[site.id][rail] * scale
            joined = rail == 0 and site.id in (3, 5)
            exclusive = UNKNOWN if math.isnan(value) else around(value, 0.9 if joined else 0.06)
            inclusive = (
                around(sum(EXCLUSIVE[k][rail] for k in (0, 1, 3, 4, 5)) * scale)
                if site.id == 0
                else exclusive
            )
            joint = around(13.0 * scale, 0.1) if joined else None
            entries.append(
                SiteRail(rail, not joined, (8 - site.id,) if joined else (), exclusive, inclusive, joint)
            )
        calls = {0: 1, 5: 1}.get(site.id, 40)
        site_ledgers.append(SiteLedger(site, calls, calls * 0.09, calls * 0.07, tuple(entries)))
    rails = []
    for timeline in timelines:
        whole = timeline.total_j * scale
        attributed = math.fsum(
            v[timeline.rail.id] * scale for v in EXCLUSIVE.values() if not math.isnan(v[timeline.rail.id])
        )
        idle = around((whole - attributed) * 0.7)
        rails.append(
            RailLedger(
                timeline.rail,
                around(whole, 0.02),
                idle,
                attributed,
                whole - attributed - idle.energy_j,
                tail_j=1.5 if timeline.rail.id == 1 else 0.0,
                gaps=timeline.gaps,
                notes=("idle power was seen before the first span",) if timeline.rail.id == 0 else (),
            )
        )
    return Ledger(tuple(rails), tuple(site_ledgers), ("the sampler used 0.4 % of a core",))
