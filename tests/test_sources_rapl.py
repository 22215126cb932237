"""RAPL: recorded machines as sysfs trees, planted faults, and readings stamped with their refresh."""

import errno
import math
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import timeline
from joulemeter.errors import SourceUnavailable
from joulemeter.reading import outermost
from joulemeter.refresh import NEAR_NS, Refresh
from joulemeter.sources import rapl
from test_sources_contract import powercap_tree

LAPTOP = {
    "intel-rapl:0": ("package-0", 10_000_000),
    "intel-rapl:0:0": ("core", 4_000_000),
    "intel-rapl:0:1": ("uncore", 1_000_000),
    "intel-rapl:0:2": ("dram", 2_000_000),
    "intel-rapl:1": ("psys", 20_000_000),
    "intel-rapl-mmio:0": ("package-0", 10_000_000),
}
TWO_SOCKETS = {
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("dram", 100_000),
    "intel-rapl:1": ("package-1", 2_000_000),
    "intel-rapl:1:0": ("dram", 200_000),
    "intel-rapl:10": ("package-10", 4_000_000),
    "intel-rapl:10:0": ("dram", 400_000),
}
ONE = {"intel-rapl:0": ("package-0", 0)}


def nesting(source: rapl.Powercap) -> dict[str, str | None]:
    return {r.name: None if r.inside is None else source.rails[r.inside].name for r in source.rails}


def test_a_laptops_platform_holds_package_and_memory_and_the_mmio_twin_is_left_out(tmp_path):
    source = rapl.open(str(powercap_tree(tmp_path, LAPTOP)))
    assert nesting(source) == {
        "package-0": "psys",
        "core-0": "package-0",
        "uncore-0": "package-0",
        "dram-0": "psys",
        "psys": None,
    }
    assert all(rail.range_j == pytest.approx(262_143.32885) for rail in source.rails)


def test_memory_lies_beside_its_package_and_package_10_is_not_package_1(tmp_path):
    source = rapl.open(str(powercap_tree(tmp_path, TWO_SOCKETS)))
    assert list(nesting(source).items()) == [
        (f"{kind}-{socket}", None) for socket in (0, 1, 10) for kind in ("package", "dram")
    ]
    total = sum(
        reading.value for reading in source.read() if source.rails[reading.rail] in outermost(source.rails)
    )
    assert total == pytest.approx(7.7)


def test_the_flat_layout_of_the_class_folder_is_the_same_machine(tmp_path):
    nested = powercap_tree(tmp_path / "devices", LAPTOP)
    flat = tmp_path / "class"
    flat.mkdir()
    for folder in nested.rglob("*:*"):
        (flat / folder.name).symlink_to(folder)
    assert rapl.open(str(flat)).rails == rapl.open(str(nested)).rails


def test_a_die_of_a_package_keeps_its_own_name(tmp_path):
    tree = powercap_tree(tmp_path, {f"intel-rapl:{n}": (f"package-0-die-{n}", 1) for n in (0, 1)})
    (tree / "intel-rapl:1").joinpath("energy_uj").write_text("7\n")
    assert [rail.name for rail in rapl.open(str(tree)).rails] == ["package-0-die-0", "package-0-die-1"]


def test_zones_that_model_power_or_lack_a_counter_are_no_rails(tmp_path):
    tree = powercap_tree(tmp_path, {**ONE, "dtpm:0": ("cpu0", 5)})
    (tree / "intel-rapl:3").mkdir()
    assert [rail.name for rail in rapl.open(str(tree)).rails] == ["package-0"]


def test_a_platform_slower_than_its_packages_is_not_wired_and_left_out(tmp_path, monkeypatch):
    tree = powercap_tree(tmp_path, LAPTOP)

    def package_moves(seconds: float) -> None:
        (tree / "intel-rapl:0" / "energy_uj").write_text("11000000\n")

    monkeypatch.setattr(rapl.time, "sleep", package_moves)
    rails = rapl.find_zones(tree)
    kept = [zone.label for zone in rapl._without_unwired_psys(rails)]
    assert kept == ["package-0", "core-0", "uncore-0", "dram-0"]


def test_no_zone_is_a_reason_with_a_remedy(tmp_path):
    with pytest.raises(SourceUnavailable, match=r"holds no RAPL zone\. Try: "):
        rapl.open(str(tmp_path))


PROBE = """
import sys
sys.path.insert(0, sys.argv[2])
from joulemeter.errors import SourceUnavailable
from joulemeter.sources import rapl
try:
    print([rail.name for rail in rapl.open(sys.argv[1]).rails])
except SourceUnavailable as refusal:
    print(refusal)
"""


def as_nobody_special(tree: Path) -> str:
    """What a user without root's powers is told: root reads any file, so those powers are taken away."""
    powerless = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    if powerless and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed, and root may read anything")
    command = [*powerless, sys.executable, "-c", PROBE, str(tree), str(Path(rapl.__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


def test_a_counter_only_root_may_read_is_refused_with_the_command_that_opens_it(tmp_path):
    tree = powercap_tree(tmp_path, TWO_SOCKETS)
    (tree / "intel-rapl:10" / "energy_uj").chmod(stat.S_IWUSR)
    told = as_nobody_special(tree)
    assert "intel-rapl:10/energy_uj may not be read" in told
    assert f"Try: sudo chmod a+r {tree}/intel-rapl:*/energy_uj" in told


def test_a_sub_zone_only_root_may_read_is_left_out_since_its_package_counts_it(tmp_path):
    tree = powercap_tree(tmp_path, {k: v for k, v in LAPTOP.items() if "rapl:0" in k})
    (tree / "intel-rapl:0" / "intel-rapl:0:0" / "energy_uj").chmod(stat.S_IWUSR)
    assert as_nobody_special(tree) == "['package-0', 'uncore-0', 'dram-0']"


# ── a counter in made-up time ───────────────────────────────────────────────────────────────────────────


class Staircase:
    """A counter refreshed every ``period_ns``, clock and sleep: every call of each takes some time."""

    def __init__(self, power_w=100.0, period_ns=976_562.5, jitter_ns=0, seed=1):
        self.power_w, self.period_ns, self.jitter_ns = power_w, period_ns, jitter_ns
        self.now = 5_000_000_000
        self.chance = random.Random(seed)
        self.faults: dict[int, bytes | OSError] = {}
        self.reads = 0

    def clock(self) -> int:
        self.now += 200
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9) + self.chance.randrange(20_000, 90_000)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self.now += 1_500
        self.reads += 1
        fault = self.faults.get(self.reads)
        if isinstance(fault, OSError):
            raise fault
        if fault is not None:
            return fault
        number = self.now // self.period_ns
        if self.jitter_ns and self.now % self.period_ns < random.Random(number).randrange(self.jitter_ns):
            number -= 1  # this refresh is late
        return b"%d\n" % round(self.power_w * number * self.period_ns / 1e3)

    def metered(self, tree: Path) -> rapl.Powercap:
        return rapl.Powercap(tree, rapl.find_zones(tree), self.clock, self.sleep, self.pread)

    def read_every(self, source: rapl.Powercap, period_s: float, times: int):
        readings = []
        for _ in range(times):
            readings += source.read()
            self.sleep(period_s)
        return readings


def line_of(source, readings):
    t_ns = np.array([reading.t_ns for reading in readings])
    return timeline.from_readings(source.rails[0], t_ns, np.array([reading.value for reading in readings]))


@pytest.mark.parametrize("period_ns", [976_562.5, 1_000_000.0, 1_013_000.0])
@pytest.mark.parametrize("every_s", [0.001, 0.01])
def test_a_reading_is_stamped_with_the_refresh_it_shows(tmp_path, period_ns, every_s):
    counter = Staircase(period_ns=period_ns)
    source = counter.metered(powercap_tree(tmp_path, ONE))
    readings = counter.read_every(source, every_s, 3000)[200:]
    off_ns = np.array([r.t_ns - r.value / counter.power_w * 1e9 for r in readings])
    assert np.abs(off_ns).max() < 60_000
    assert np.abs(off_ns).mean() < 20_000
    assert all(np.diff([r.t_ns for r in readings]) > 0)


def test_windows_of_100_ms_are_right_within_half_a_percent_at_a_reading_a_refresh(tmp_path):
    counter = Staircase()
    source = counter.metered(powercap_tree(tmp_path, ONE))
    line = line_of(source, counter.read_every(source, 0.001, 3000)[200:])
    starts = np.linspace(line.t_ns[0], line.t_ns[-1] - 100_000_000, 400).astype(int)
    energy_j = np.array([line.between(start, start + 100_000_000) for start in starts])
    assert np.abs(energy_j / 10.0 - 1).max() < 0.005


def test_a_counter_refreshed_at_no_steady_pace_keeps_the_moments_of_its_reads(tmp_path):
    counter = Staircase(jitter_ns=900_000)
    source = counter.metered(powercap_tree(tmp_path, ONE))
    line = line_of(source, counter.read_every(source, 0.001, 2000))
    assert line.total_j == pytest.approx(100 * (line.t_ns[-1] - line.t_ns[0]) / 1e9, rel=2e-3)


class Sometimes(Staircase):
    """One refresh in four comes late, by up to most of a period; the others keep their pace."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        number = int(self.now // self.period_ns)
        chance = random.Random(number)
        self.jitter_ns = int(0.9 * self.period_ns) if chance.random() < 0.25 else 0
        return super().pread(fd, size, offset)


@pytest.mark.parametrize("seed", range(8))
def test_refreshes_that_come_late_now_and_then_cost_no_knowledge_of_the_pace(tmp_path, seed):
    counter = Sometimes(period_ns=1_000_000.0, seed=seed)
    source = counter.metered(powercap_tree(tmp_path, ONE))
    readings = counter.read_every(source, 0.01, 8000)[200:]
    off_ns = np.array([r.t_ns - r.value / counter.power_w * 1e9 for r in readings])
    assert np.mean(np.abs(off_ns) < 100_000) > 0.9


def test_a_pace_is_trusted_only_as_far_as_the_refreshes_it_was_learned_from_can_tell():
    chance, away_ns = random.Random(1), []
    for _ in range(500):
        period_ns, refresh = chance.randrange(900_000, 1_100_000), Refresh()
        refresh.acquire([round(1e9 + n * period_ns + chance.gauss(0, 10_000)) for n in range(7)])
        until_ns = refresh.trusted_until_ns
        assert 0 < until_ns < refresh.counted_until_ns
        off_ns = (refresh.before(until_ns) - 1e9) % period_ns
        away_ns.append(min(off_ns, period_ns - off_ns))
    assert np.quantile(away_ns, 0.95) < 4 * NEAR_NS
    assert np.median(away_ns) < NEAR_NS


def test_a_refresh_after_so_long_that_none_can_count_the_periods_teaches_nothing_wrong(tmp_path):
    """A pace 1.2 % off meets the true one every 81 refreshes: whoever looks only then finds it confirmed."""
    counter = Staircase(period_ns=1_000_000.0)
    source = counter.metered(powercap_tree(tmp_path, ONE))
    source._refreshes[0].acquire([counter.now + number * 1_012_345 for number in range(7)])
    readings = counter.read_every(source, 0.0803, 400)[100:]
    off_ns = np.array([r.t_ns - r.value / counter.power_w * 1e9 for r in readings])
    assert np.mean(np.abs(off_ns) < 100_000) > 0.9


def test_a_pace_that_changes_is_learned_anew(tmp_path):
    counter = Staircase()
    source = counter.metered(powercap_tree(tmp_path, ONE))
    counter.read_every(source, 0.001, 1000)
    counter.period_ns = 1_250_000.0
    readings = counter.read_every(source, 0.001, 3000)[-500:]
    off_ns = np.array([r.t_ns - r.value / counter.power_w * 1e9 for r in readings])
    assert np.median(np.abs(off_ns)) < 60_000


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "EIO"), OSError(errno.ENODATA, "ENODATA"), b"", b"\n"])
def test_one_failed_read_is_a_gap_in_the_readings_and_no_joule(tmp_path, fault):
    counter = Staircase()
    source = counter.metered(powercap_tree(tmp_path, ONE))
    readings = counter.read_every(source, 0.01, 50)
    counter.faults = {counter.reads + n: fault for n in range(1, 4)}
    readings += counter.read_every(source, 0.01, 50)
    line = line_of(source, readings)
    assert sum(math.isnan(reading.value) for reading in readings) > 0
    assert line.failed > 0
    assert line.total_j == pytest.approx(100 * (line.t_ns[-1] - line.t_ns[0]) / 1e9, rel=5e-3)


def test_a_zone_that_fails_leaves_the_others_alone(tmp_path):
    counter = Staircase()
    tree = powercap_tree(tmp_path, {"intel-rapl:0": ("package-0", 0), "intel-rapl:0:0": ("dram", 0)})
    source = counter.metered(tree)
    pread, dram = counter.pread, source._fds[1]

    def vanished(fd: int, size: int, offset: int) -> bytes:
        if fd == dram:
            raise OSError(errno.ENODEV, "gone")
        return pread(fd, size, offset)

    source._pread = vanished
    readings = counter.read_every(source, 0.01, 20)
    assert all(math.isnan(reading.value) for reading in readings if reading.rail == 1)
    assert all(reading.value > 0 for reading in readings if reading.rail == 0)


def test_a_source_whose_counters_all_fail_is_refused(tmp_path):
    tree = powercap_tree(tmp_path, ONE)

    def broken(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "EIO")

    with pytest.raises(SourceUnavailable, match=r"no counter below .* answers"):
        rapl.Powercap(tree, rapl.find_zones(tree), pread=broken)


def test_a_frozen_counter_is_read_again_after_a_while_and_never_stamped_ahead(tmp_path):
    counter = Staircase()
    source = counter.metered(powercap_tree(tmp_path, ONE))
    counter.read_every(source, 0.001, 500)
    counter.power_w = 0.0
    still = counter.read_every(source, 0.001, 100)
    assert still
    assert all(reading.t_ns <= counter.now for reading in still)


@settings(max_examples=25, deadline=None)
@given(
    start_uj=st.integers(0, 262_143_328_850),
    seed=st.integers(0, 99),
    range_uj=st.sampled_from([262_143_328_850, 65_532_610_987]),
)
def test_a_wrap_wherever_it_falls_costs_no_joule(start_uj, seed, range_uj):
    with tempfile.TemporaryDirectory() as folder:
        tree = powercap_tree(Path(folder), ONE, range_uj)
        counter = Staircase(power_w=300.0, seed=seed)
        pread = counter.pread

        def wrapping(fd: int, size: int, offset: int) -> bytes:
            return b"%d\n" % ((int(pread(fd, size, offset)) + start_uj) % range_uj)

        source = rapl.Powercap(tree, rapl.find_zones(tree), counter.clock, counter.sleep, wrapping)
        line = line_of(source, counter.read_every(source, 0.01, 60)[20:])
        source.close()
    assert line.total_j == pytest.approx(300 * (line.t_ns[-1] - line.t_ns[0]) / 1e9, rel=5e-3)


def test_the_polling_bound_is_range_over_power(tmp_path):
    rail = rapl.open(str(powercap_tree(tmp_path, ONE, range_uj=65_000_000))).rails[0]
    assert rapl.polling_bound_s(rail, 130.0) == pytest.approx(0.5)


def test_a_jump_earlier_in_the_run_does_not_make_a_later_wrap_ambiguous(tmp_path):
    rail = rapl.open(str(powercap_tree(tmp_path, ONE))).rails[0]
    t_ns = np.arange(8) * 1_001_000
    value = np.array([1.0, 1.1, 262_143.0, 262_143.1, 262_143.2, 262_143.3, 0.07115, 0.17115])
    line = timeline.from_readings(rail, t_ns, value)
    assert [gap.reason for gap in line.gaps] == ["impossible value"]
    assert line.between(t_ns[2], t_ns[7]) == pytest.approx(0.5)
