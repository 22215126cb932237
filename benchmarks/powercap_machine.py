"""A machine of known power made of files, and what it can be put through: the calibration behind ``peers.py``.

A powercap tree laid over /sys/class/powercap, whose counters a writer moves every millisecond.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RANGE_UJ = 262_143_328_850
POWERCAP = Path("/sys/class/powercap")
CONTROL, COUNTERS, LATE = "control", "devices", "late"
LATE_NS = 200_000
"""A refresh that comes later than this is noted: the machine was off its calibration then."""


@dataclass(frozen=True)
class Scenario:
    """A load with a fault, both in seconds from the start of the (first) window."""

    name: str
    load: str = "constant"
    windows: tuple[tuple[float, int], ...] = ((3.3, 1),)
    fault: str = ""
    fault_from_s: float = 0.0
    fault_to_s: float = 0.0
    dram_w: float = 0.0


SCENARIOS = (
    Scenario("constant 100 W, 3.3 s"),
    Scenario("step 20 → 100 W, 3.3 s", "step"),
    Scenario("bursts of 100 ms, 3.3 s", "bursts"),
    Scenario("windows of 10 ms", windows=((0.01, 20),)),
    Scenario("windows of 100 ms", windows=((0.1, 20),)),
    Scenario("windows of 100 ms, bursts", "bursts", windows=((0.1, 20),)),
    Scenario("windows of 1 s", windows=((1.0, 4),)),
    Scenario("a wrap inside", fault="wrap", fault_from_s=1.6),
    Scenario(
        "one read of eleven fails", windows=((10.6, 1),), fault="empty", fault_from_s=5.2, fault_to_s=6.25
    ),
    Scenario("a counter only root may read", fault="forbidden"),
    Scenario("a domain that vanishes", fault="vanish", fault_from_s=1.6, fault_to_s=1e9, dram_w=10.0),
    Scenario("memory beside the package", dram_w=10.0),
)
IDLE_W, BUSY_W, STEP_S, BURST_S = 20.0, 100.0, 1.6, 0.1


def package_j(scenario: Scenario, elapsed_s: float) -> float:
    """The truth: joules of the package since the schedule's start (before it, 100 W)."""
    if scenario.load == "constant" or elapsed_s < 0:
        return BUSY_W * elapsed_s
    if scenario.load == "step":
        return IDLE_W * elapsed_s + (BUSY_W - IDLE_W) * max(0.0, elapsed_s - STEP_S)
    turns, rest_s = divmod(elapsed_s, 2 * BURST_S)
    return IDLE_W * elapsed_s + (BUSY_W - IDLE_W) * (turns * BURST_S + min(rest_s, BURST_S))


def truth_j(scenario: Scenario, scheduled_ns: int, stretch: tuple[int, int]) -> float:
    """Joules of package and memory over a stretch."""
    start_s, end_s = ((moment - scheduled_ns) / 1e9 for moment in stretch)
    return package_j(scenario, end_s) - package_j(scenario, start_s) + scenario.dram_w * (end_s - start_s)


def build_tree(work: Path, dram: bool) -> None:
    """The devices' tree and its class folder (which is mounted already), as the kernel lays them out."""
    zones = {"intel-rapl:0": "package-0", **({"intel-rapl:0:0": "dram"} if dram else {})}
    devices, links = work / COUNTERS, work / "class"
    shutil.rmtree(devices, ignore_errors=True)
    for link in links.iterdir():
        link.unlink()
    control_type = devices / "intel-rapl"
    for zone, name in zones.items():
        folder = control_type / "intel-rapl:0" / zone if zone.count(":") == 2 else control_type / zone
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "enabled").write_text("1\n")
        (folder / "energy_uj").write_text(f"{0:015d}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        (links / zone).symlink_to(folder)
        (folder / "subsystem").symlink_to(links)
    (links / "intel-rapl").symlink_to(control_type)
    (control_type / "subsystem").symlink_to(links)


def mount_tree(links: Path) -> None:
    """Lays the class folder over /sys/class/powercap; where that does not exist, rebuilds /sys/class around it."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if not POWERCAP.exists():
        classes = {
            entry.name: os.readlink(entry) if entry.is_symlink() else None
            for entry in POWERCAP.parent.iterdir()
        }
        real = links.parent / "sys-class"
        real.mkdir(exist_ok=True)
        subprocess.run(["mount", "--rbind", POWERCAP.parent, real], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", POWERCAP.parent], check=True)
        for name in classes:
            (POWERCAP.parent / name).symlink_to(real / name)
        POWERCAP.mkdir()
    subprocess.run(["mount", "--rbind", links, POWERCAP], check=True)


class Counter:
    """One energy_uj file that a writer keeps at a number of joules, or breaks."""

    def __init__(self, file: Path, start_j: float) -> None:
        self._file, self._fd, self._broken = file, os.open(file, os.O_WRONLY), False
        self.start_j = start_j

    def show(self, energy_j: float) -> None:
        """The counter's figure, wrapped at the real range; zero-padded, so that it is replaced in one write."""
        os.pwrite(self._fd, b"%015d\n" % (round((self.start_j + energy_j) * 1e6) % RANGE_UJ), 0)

    def empty(self) -> None:
        """A read that does not answer: nothing comes back, whether the file was opened just now or before."""
        os.ftruncate(self._fd, 0)

    def vanish(self) -> None:
        """The whole domain goes away."""
        if not self._broken:
            self._broken = True
            shutil.rmtree(self._file.parent)


def write_counters(work: Path, scenario: Scenario, stop: Callable[[], bool]) -> None:
    """Moves the counters at every whole millisecond until ``stop``, with the priority of a real-time task."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    package = Counter(work / COUNTERS / "intel-rapl/intel-rapl:0/energy_uj", 1_030.0)
    dram_file = work / COUNTERS / "intel-rapl/intel-rapl:0/intel-rapl:0:0/energy_uj"
    dram = Counter(dram_file, 55.0) if scenario.dram_w else None
    control = os.open(work / CONTROL, os.O_RDONLY)
    late = os.open(work / LATE, os.O_WRONLY | os.O_APPEND)
    first_ns, scheduled_ns = time.monotonic_ns(), 0
    while not stop():
        due_ns = time.monotonic_ns() // 1_000_000 * 1_000_000 + 1_000_000
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        now = time.monotonic_ns()
        if now - due_ns > LATE_NS:
            os.write(late, b"%d %d\n" % (due_ns, now))
        if (
            not scheduled_ns
            and (scheduled_ns := int(os.pread(control, 32, 0) or 0))
            and scenario.fault == "wrap"
        ):
            lead_s = (scheduled_ns - first_ns) / 1e9 + scenario.fault_from_s
            package.start_j = RANGE_UJ / 1e6 - BUSY_W * lead_s
        before_s = ((scheduled_ns or now) - first_ns) / 1e9
        elapsed_s = (now - scheduled_ns) / 1e9 if scheduled_ns else 0.0
        broken = bool(scheduled_ns) and scenario.fault_from_s <= elapsed_s < scenario.fault_to_s
        if broken and scenario.fault == "empty":
            package.empty()
        else:
            package.show(BUSY_W * before_s + package_j(scenario, elapsed_s))
        if dram is not None:
            dram.vanish() if broken and scenario.fault == "vanish" else dram.show(
                scenario.dram_w * (before_s + elapsed_s)
            )


def watch_core(work: Path, core: int, stop: Callable[[], bool]) -> None:
    """Notes when the host held up ``core``, between the counters' moves: whoever reads there is held up too.
    With real-time priority, so that what else runs on the machine is no such stall."""
    os.sched_setaffinity(0, {core})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    late = os.open(work / LATE, os.O_WRONLY | os.O_APPEND)
    while not stop():
        due_ns = (time.monotonic_ns() - 500_000) // 1_000_000 * 1_000_000 + 1_500_000
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        now = time.monotonic_ns()
        if now - due_ns > LATE_NS:
            os.write(late, b"%d %d\n" % (due_ns, now))
