"""Kernels draw on their device, calls on their host: which rail gives to whom."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from joulemeter import timeline
from joulemeter.attribution import attribute
from joulemeter.feeds import fed
from joulemeter.ledger import Ledger
from joulemeter.occupancy import occupy
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans
from simulated_machine import MS, S

HOST_W, KERNEL_W = [8.0, 12.0, 5.0], [90.0, 160.0]
KINDS = ["call", "call", "call", "kernel", "kernel"]
SITES = tuple(Site(i, f"{kind}{i}", kind) for i, kind in enumerate(KINDS))  # type: ignore[arg-type]


def _rail(number: int, source: str, name: str = "rail") -> Rail:
    return Rail(
        id=number, name=name, kind="counter", origin="simulated", period_ns=10 * MS, lag_ns=0, source=source
    )


def _program(seed: int) -> Spans:
    """Two calls launch a kernel each, the third waits for both: the device is busy while the host is, too."""
    rng, t, rows = np.random.default_rng(seed), S, []
    while t < 9 * S:
        free = t
        for call, kernel in ((0, 3), (1, 4)):
            start, t = t, t + int(rng.uniform(0.5, 3) * MS)
            rows.append((call, 0, start, t, -1))
            start = max(free, t)
            free = start + int(rng.uniform(1, 8) * MS)
            rows.append((kernel, 1, start, free, len(rows) - 1))
        rows.append((2, 0, t, free, -1))
        t = free + int(rng.exponential(2 * MS))
    return Spans(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))


def _read(spans: Spans, watts: list[float], rail: Rail) -> tuple[timeline.Timeline, np.ndarray]:
    """What a counter shows of a machine whose sites draw ``watts`` above 20 W, and each site's joules."""
    at = np.arange(0, 10 * S, 10 * MS)
    power = np.array(watts)[spans.site]
    ran = np.minimum(spans.end_ns, at[:, None]) - np.minimum(spans.start_ns, at[:, None])
    shown = 20.0 * at / S + ran @ power / S
    joules = np.bincount(
        spans.site, weights=power * (spans.end_ns - spans.start_ns) / S, minlength=len(watts)
    )
    return timeline.from_readings(rail, at, shown), joules


@pytest.fixture(scope="module")
def found() -> tuple[Ledger, np.ndarray, np.ndarray]:
    spans = _program(1)
    host, host_j = _read(spans, [*HOST_W, 0.0, 0.0], _rail(0, "rapl", "package-0"))
    device, device_j = _read(spans, [0.0, 0.0, 0.0, *KERNEL_W], _rail(1, "nvml", "gpu-0"))
    ledger = attribute([host, device], SITES, spans)
    ledger.check()
    return ledger, host_j, device_j


def test_a_call_takes_nothing_of_a_devices_rail_nor_a_kernel_of_its_hosts(
    found: tuple[Ledger, np.ndarray, np.ndarray],
) -> None:
    ledger, host_j, device_j = found
    for site, on_host, on_device in zip(ledger.sites, host_j, device_j, strict=True):
        for entry, true in zip(site.rails, (on_host, on_device), strict=True):
            own = entry.exclusive
            assert entry.resolved
            assert own.low_j <= true <= own.high_j
            assert own.energy_j == pytest.approx(true, rel=0.02, abs=1e-12)
    assert "feeds kernels alone" in ledger.rails[1].notes
    assert any("no kernels" in note for note in ledger.rails[0].notes)


def test_a_call_that_launches_a_kernel_has_its_energy_with_what_it_called(
    found: tuple[Ledger, np.ndarray, np.ndarray],
) -> None:
    ledger, _, _ = found
    for launch, kernel in ((0, 3), (1, 4)):
        mine, its = ledger.sites[launch].rails[1], ledger.sites[kernel].rails[1]
        assert mine.inclusive.energy_j == pytest.approx(its.exclusive.energy_j)
        assert mine.inclusive.low_j == pytest.approx(its.exclusive.low_j)
    assert ledger.sites[2].rails[1].inclusive.energy_j == 0


def test_who_feeds_whom() -> None:
    host, device = _rail(0, "rapl", "package-0"), _rail(1, "nvml", "gpu-0")
    calls, kernels = [True, True, True, False, False], [False, False, False, True, True]
    ran = occupy(SITES, _program(1))
    assert fed(device, [host, device], ran).tolist() == kernels
    assert fed(host, [host, device], ran).tolist() == calls
    # Without a meter of its own a device may draw on its host's supply (it may be part of the processor).
    assert fed(host, [host], ran).all()
    elsewhere = replace(device, host="node2")
    assert fed(host, [host, elsewhere], ran).all()
    # The whole platform's rail and a wall meter feed all.
    assert fed(_rail(0, "rapl", "psys"), [host, device], ran).all()
    assert fed(_rail(0, ""), [host, device], ran).all()
    # Where no kernel was recorded, calls stand for them.
    assert fed(device, [host, device], occupy(SITES[:3], Spans.empty())).all()


def test_a_device_whose_kernels_took_no_time_gives_nothing_to_calls() -> None:
    spans = _program(2)
    calls = spans.site < 3
    alone = Spans(*(each[calls] for each in (spans.site, spans.lane, spans.start_ns, spans.end_ns)),
                  np.full(int(calls.sum()), -1))  # fmt: skip
    device, _ = _read(alone, [30.0, 30.0, 30.0, 0.0, 0.0], _rail(0, "nvml", "gpu-0"))
    ledger = attribute([device], SITES, alone)
    ledger.check()
    rail = ledger.rails[0]
    assert rail.attributed_j == 0
    assert rail.unattributed_j > 0.9 * (rail.energy.energy_j - rail.idle.energy_j)
    assert all(site.rails[0].exclusive.high_j == 0 for site in ledger.sites[:3])


LANES = ("MainThread", "gpu-0 stream 7", "gpu-1 stream 7")


@pytest.fixture(scope="module")
def two_gpus() -> tuple[Spans, list[timeline.Timeline], list[np.ndarray]]:
    """Kernels of the same names on two GPUs at once, the second drawing half of what the first does."""
    one, two = _program(3), _program(4)
    two = Spans(two.site, np.where(two.lane == 1, 2, 3), two.start_ns, two.end_ns, two.parent)
    spans = Spans(
        *(
            np.concatenate([getattr(one, name), getattr(two, name) + (two.parent >= 0) * at])
            for name, at in (("site", 0), ("lane", 0), ("start_ns", 0), ("end_ns", 0), ("parent", len(one)))
        )
    )
    watts = [0.0, 0.0, 0.0, *KERNEL_W]
    lines, joules = zip(
        *(
            _read(spans.only(np.isin(spans.lane, [lane])), [each * share for each in watts], rail)
            for lane, share, rail in (
                (1, 1.0, _rail(0, "nvml", "gpu-0")),
                (2, 0.5, _rail(1, "nvml", "gpu-1")),
            )
        ),
        strict=True,
    )
    return spans, list(lines), list(joules)


def test_a_kernel_draws_on_the_gpu_that_its_lane_is_called_after(
    two_gpus: tuple[Spans, list[timeline.Timeline], list[np.ndarray]],
) -> None:
    """Each GPU's rail weighed the kernels of both: with lanes that do not tell, they are 3 to 6 % off."""
    spans, lines, joules = two_gpus
    ledger = attribute(lines, SITES, spans, lanes=LANES)
    ledger.check()
    for site in ledger.sites[3:]:
        for entry, true in zip(site.rails, joules, strict=True):
            assert entry.resolved
            assert entry.exclusive.low_j <= true[site.site.id] <= entry.exclusive.high_j
            assert entry.exclusive.energy_j == pytest.approx(true[site.site.id], rel=0.02)
    launch = ledger.sites[0].rails
    kernel = ledger.sites[3].rails
    assert [each.inclusive.energy_j for each in launch] == pytest.approx(
        [each.exclusive.energy_j for each in kernel]
    )
    assert ledger.notes == ()


def test_what_a_gpu_without_a_meter_drew_is_not_known(
    two_gpus: tuple[Spans, list[timeline.Timeline], list[np.ndarray]],
) -> None:
    spans, (first, _), (joules, _) = two_gpus
    mine = np.where((spans.lane == 2) & (spans.site == 4), 5, spans.site)
    spans = replace(spans, site=mine)
    sites = (*SITES, Site(5, "kernel of the other", "kernel"))
    ledger = attribute([first], sites, spans, lanes=LANES)
    ledger.check()
    alone = ledger.sites[5].rails[0]
    assert not alone.resolved
    assert math.isnan(alone.exclusive.energy_j)
    assert ledger.sites[4].rails[0].exclusive.energy_j == pytest.approx(joules[4], rel=0.02)
    assert any("no meter was asked for" in note for note in ledger.notes)
    assert "unknown" in str(ledger)


def test_other_programs_load_makes_no_joules_where_a_rail_feeds_nothing(
    found: tuple[Ledger, np.ndarray, np.ndarray],
) -> None:
    spans = _program(1)
    host, _ = _read(spans, [*HOST_W, 0.0, 0.0], _rail(0, "rapl", "package-0"))
    device, _ = _read(spans, [0.0, 0.0, 0.0, *KERNEL_W], _rail(1, "nvml", "gpu-0"))
    ledger = attribute([replace(host, others=0.5), device], SITES, spans)
    quiet, _, _ = found
    assert all(site.rails[0].exclusive.high_j == 0 for site in ledger.sites[3:])
    for site, before in zip(ledger.sites[:3], quiet.sites[:3], strict=True):
        assert site.rails[0].exclusive.high_j > before.rails[0].exclusive.high_j
