"""How long a page of ten million spans takes to write and to open: `python benchmarks/html_spans.py [SPANS]`."""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np

import sample_run
import web
from joulemeter.ledger import Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.report import html
from joulemeter.run import Run
from joulemeter.span import Site, Spans

PATTERN = [
    (-1, 0, 9000),
    (0, 100, 3000),
    (0, 3000, 6000),
    (0, 6000, 8900),
    (1, 100, 1000),
    (1, 1000, 2900),
    (2, 3000, 4000),
    (2, 4000, 5500),
    (3, 6000, 7000),
    (3, 7000, 8000),
]
"""Parent and nanoseconds of ten spans three deep, repeated."""


def spans(count: int) -> Spans:
    """``count`` spans of random length, three deep on one lane."""
    groups = count // len(PATTERN)
    first = np.arange(groups)[:, None] * len(PATTERN)
    above = np.array([parent for parent, _, _ in PATTERN])
    parent = np.where(above >= 0, first + above, -1)
    begun = sample_run.START + np.arange(groups)[:, None] * 10_000
    start = begun + np.array([a for _, a, _ in PATTERN])
    end = begun + np.array([b for _, _, b in PATTERN]) - np.random.default_rng(0).integers(0, 90, start.shape)
    site = np.broadcast_to(np.arange(len(PATTERN)), start.shape)
    lane = np.zeros(start.size, np.int32)
    return Spans(site.astype(np.int32).ravel(), lane, start.ravel(), end.ravel(), parent.ravel())


def run_and_ledger(count: int) -> tuple[Run, Ledger]:
    """A run of one rail with its energy shared evenly."""
    many = spans(count)
    sites = tuple(Site(i, f"site {i}", "operator", "big.py", i + 1) for i in range(len(PATTERN)))
    t = np.arange(sample_run.START, int(many.end_ns.max()), 10**7)
    joules = np.cumsum(0.3 + 0.1 * np.sin(np.arange(len(t)) / 100))
    rails = sample_run.RAILS[:1]
    run = Run(Path("big"), {"argv": ["big.py"]}, rails, sites, many, np.zeros(len(t), np.int16), t, joules)
    whole = run.timelines()[0].total_j
    share = Energy(*(whole / len(sites) * k for k in (0.6, 0.5, 0.7)))
    entries = (SiteRail(0, True, (), share, share),)
    idle = Energy(*(whole * k for k in (0.3, 0.29, 0.31)))
    rail = RailLedger(rails[0], Energy(whole, 0.99 * whole, 1.01 * whole), idle, 0.6 * whole, 0.1 * whole)
    return run, Ledger((rail,), tuple(SiteLedger(s, count // 10, 1.0, 1.0, entries) for s in sites))


def main() -> None:
    """Writes and opens the page, and prints how long each took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    run, ledger = run_and_ledger(count)
    began = time.perf_counter()
    text = html.render(run, ledger)
    wrote_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, web.browser() as chromium:
        place = Path(folder) / "big.html"
        place.write_text(text)
        page = chromium.new_page()
        began = time.perf_counter()
        page.goto(place.as_uri())
        page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
        opened_s = time.perf_counter() - began
    size = len(text) / 1e6
    print(f"{count:,} spans: written in {wrote_s:.2f} s ({size:.2f} MB), opened in {opened_s:.2f} s")


if __name__ == "__main__":
    main()
