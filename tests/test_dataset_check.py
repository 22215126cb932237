"""Gates: each finds its defect where it was planted, and nothing in sound data."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from joulemeter import dataset_check, dataset_import
from joulemeter.record import Record

DATA = Path(__file__).parents[2] / "shared" / "data" / "deepen2023"


def sound(count: int = 30) -> list[Record]:
    """Energy follows work, with 1 % noise, at 2 W, above 0.5 W idle."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        flops = 1e6 * 1.3**i
        time_s = flops * 1e-9 * float(np.exp(0.01 * random.normal()))
        made.append(Record(level="kernel", family="relu", origin="simulated", device="d", shape={"elements": 100 + i},
                           flops=flops, read_bytes=flops, write_bytes=flops, parameters=0.0,
                           time_s=time_s, power_w=2.0, idle_power_w=0.5, energy_j=2.0 * time_s,
                           facts={"id": f"K{i}"}))  # fmt: skip
    return made


def test_sound_data_pass_every_gate() -> None:
    assert dataset_check.check(sound()) == []


Plant = Callable[[list[Record]], list[Record]]


def one(**changes: float) -> Plant:
    return lambda rows: [*rows[:3], replace(rows[3], **changes), *rows[4:]]  # type: ignore[arg-type]


PLANTED: list[tuple[str, str, Plant]] = [
    ("energy", "no energy", one(energy_j=math.nan)),
    ("energy", "no energy", one(energy_j=0.0)),
    ("time", "zero or less", one(time_s=0.0)),
    ("power × time", "differs", one(energy_j=1.0)),
    ("power", "20 times from the median: 1 row", one(power_w=2141.3)),
    ("power", "above 20000 W: 1 row", one(power_w=25_000.0)),
    ("power", "below the idle", one(power_w=0.4)),
    ("duplicates", "again", lambda rows: [*rows, rows[5]]),
    ("devices", "2 devices", lambda rows: [*rows, replace(rows[5], device="e")]),
    ("units", "power of a thousand", lambda rows: [replace(r, time_s=r.time_s * 1e3) for r in rows]),
    ("units", "200 × power × time", lambda rows: [replace(r, energy_j=r.energy_j * 200) for r in rows]),
    ("monotone", "hardly follows", lambda rows: [replace(r, flops=s.flops) for r, s in zip(rows, rows[::-1], strict=True)]),
    ("repeats", "scatter", lambda rows: [*rows, *[replace(r, energy_j=1.3 * r.energy_j) for r in rows]]),
]  # fmt: skip


@pytest.mark.parametrize(("gate", "fact", "plant"), PLANTED)
def test_a_planted_defect_is_found(gate: str, fact: str, plant: Plant) -> None:
    import re

    found = dataset_check.check(plant(sound()), fit=False)
    assert any(each.gate == gate and re.search(fact, each.fact) for each in found), found


def test_the_limit_that_is_told_is_the_devices() -> None:
    rows = one(power_w=9.0)(sound())
    gates = [each.fact for each in dataset_check.check(rows, fit=False, limit_w=8.0) if each.gate == "power"]
    assert gates == ["power above 8 W: 1 row(s) (relu K3)"]
    assert dataset_check.power_is_possible(rows) == []


def test_a_machine_that_wanders_is_told_by_its_reference_kernel() -> None:
    def timed(spread: float) -> list[Record]:
        return [replace(r, facts={**r.facts, "reference_s": 1e-3 * (1 + spread * i / 29)})
                for i, r in enumerate(sound())]  # fmt: skip

    assert dataset_check.steady(timed(0.15)) == []
    (found,) = dataset_check.steady(timed(0.5))
    assert found.fact == (
        "the machine's speed wandered: the reference kernel took 1.02 to 1.47 ms "
        "(5th to 95th percentile of 30 groups, median 1.25 ms)"
    )


def test_what_rounding_explains_is_told_apart_from_what_it_does_not() -> None:
    rows = [replace(r, energy_j=2e-6, time_s=3e-6, power_w=0.8, idle_power_w=0.1, facts={"resolution_j": 1e-6})
            for r in sound(10)]  # fmt: skip
    found = [f for f in dataset_check.energy_is_power_times_time(rows)]
    assert len(found) == 1
    assert "rounding explains" in found[0].fact


def test_energies_that_have_nothing_to_do_with_the_configuration_lose_to_a_constant() -> None:
    random = np.random.default_rng(1)
    rows = [replace(r, energy_j=1e-3 * float(np.exp(random.normal()))) for r in sound(40)]
    assert any("constant" in f.fact for f in dataset_check.constant_beats_fit(rows))


@pytest.mark.skipif(not DATA.is_dir(), reason="the published measurements are not here")
def test_the_known_defects_of_the_published_kernels_are_found() -> None:
    records = dataset_import.load(DATA / "kernels_cpu.csv").records
    found = dataset_check.check(records, fit=False)
    outliers = [records[i] for f in found if "20 times" in f.fact for i in f.rows]
    assert [(r.name, round(r.power_w)) for r in outliers] == [("concat", 2141)]
    assert any("as rounding explains: 37 row(s)" in f.fact for f in found)
