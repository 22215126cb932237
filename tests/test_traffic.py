"""Bytes at each memory level, and the least time they take."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulemeter import traffic
from joulemeter.device import Device, MemoryLevel
from joulemeter.errors import DatasetError
from joulemeter.kernel import Work

DEVICE = Device(
    "toy",
    "cpu",
    2,
    {"float32": 1e9},
    (MemoryLevel("L1", 1e3, 1e10), MemoryLevel("L2", 1e5, 1e9), MemoryLevel("memory", 1e9, 1e8)),
)


def test_a_product_moves_two_numbers_for_each_root_of_the_cache() -> None:
    """2 · 1000 MACs / √(400 / 4 = 100 numbers) = 200 numbers of 4 bytes."""
    assert traffic.product_bytes(1000, 400, 4) == 800


@given(st.floats(1, 1e9), st.floats(0, 1e12), st.floats(1, 1e9))
def test_what_moves_is_never_less_than_the_operands(size: float, macs: float, cache: float) -> None:
    work = Work(2 * macs, size, size)
    assert traffic.moved_bytes(work, macs, cache) >= work.bytes


def test_warm_operands_that_fit_a_cache_do_not_come_from_behind_it_but_weights_do() -> None:
    moved = traffic.by_level(Work(0, 3_000, 1_000, parameters=500), 0, DEVICE)
    assert moved == {"L1": 4_000, "L2": 4_000, "memory": 2_000}


def test_the_least_time_is_the_longest_roof() -> None:
    # 2e9 FLOPs at 1e9 a second beat 4 kB from anywhere; without FLOPs, 2 kB of weights at 1e8 B/s are 20 µs.
    assert traffic.least_time_s(Work(2e9, 3_000, 1_000), 1e9, DEVICE) == pytest.approx(2.0)
    assert traffic.least_time_s(Work(0, 3_000, 1_000, 500), 0, DEVICE) == pytest.approx(2e-5)


def test_an_unknown_bandwidth_is_left_out() -> None:
    blind = Device("toy", "cpu", 1, {}, (MemoryLevel("memory", 1e9),))
    assert traffic.least_time_s(Work(1e9, 1e6, 1e6), 5e8, blind) == 0


def test_a_device_survives_json_and_its_fingerprint_is_of_the_hardware_alone() -> None:
    again = Device.from_json(DEVICE.to_json())
    assert again == DEVICE
    measured_anew = Device("toy", "cpu", 2, {"float32": 2e9}, DEVICE.levels)
    assert measured_anew.fingerprint == DEVICE.fingerprint
    assert Device("toy", "cpu", 4, {}, DEVICE.levels).fingerprint != DEVICE.fingerprint
    unknown = Device("toy", "cpu", 1, {}, (MemoryLevel("memory", 8.0),))
    assert math.isnan(Device.from_json(unknown.to_json()).levels[0].bandwidth_bytes_per_s)
    with pytest.raises(DatasetError, match="lacks"):
        Device.from_json({"model": "x"})
