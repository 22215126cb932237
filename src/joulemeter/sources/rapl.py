"""RAPL counters of Intel and AMD processors, as Linux' powercap shows them.

``rapl`` reads ``/sys/class/powercap``; ``rapl:/another/root`` reads another tree of the same layout
(https://docs.kernel.org/power/powercap/powercap.html).

What contains what, which the folders do not say:

- ``package`` holds ``core`` (PP0) and ``uncore`` (PP1, on most clients the graphics). On AMD the ``core``
  zone reads the counter of one core only (Linux reads MSR_AMD_CORE_ENERGY_STATUS on one CPU a package).
- ``dram`` is listed below its package and yet lies outside it: the package domain is the processor die,
  the DRAM domain is the memory attached to it (Intel SDM volume 3B, "RAPL Domains").
- ``psys`` is the platform, where the board has the wiring for it: it then holds packages and memory. A
  board without it shows a counter that moves slower than the packages it should hold; that ``psys`` is
  left out.
- ``intel-rapl-mmio:0`` is the package of ``intel-rapl:0`` once more, through another register.

A counter wraps at ``max_energy_range_uj``. From its fall one wrap between two reads can be told, two
cannot: reads must be closer than `polling_bound_s`, range over power, for the usual 262,144 J some 262 s
at 1 kW. Whoever reads at this source's period stays below it by four orders of magnitude.
"""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from joulemeter.errors import SourceUnavailable
from joulemeter.reading import Rail, Reading

METERS_THIS_MACHINE = True
ROOT = "/sys/class/powercap"
REFRESH_NS = 1_000_000
"""Intel SDM volume 3B: the energy status registers are "updated approximately every ~1 msec"."""
RELATIVE_ERROR = 0.0
"""The counters' own gain is taken as true: on Haswell and later they are measured, within some percent of
a reference at the supply lines (Khan et al., "RAPL in Action", 2018), and nothing here can tell which way."""

_FOLDER = re.compile(r"(?P<control>[a-z][\w-]*)(?P<numbers>(:\d+)+)")
_PACKAGE = re.compile(r"package-(?P<which>\d+(-die-\d+)?)")
_PSYS_WATCH_S = 0.02
_READ_BYTES = 32


@dataclass(frozen=True, slots=True)
class Zone:
    """One folder of the powercap tree. ``numbers`` are those of its name: (0, 1) of ``intel-rapl:0:1``."""

    folder: Path
    control: str
    numbers: tuple[int, ...]
    kind: str
    """The content of ``name`` without a package's number: package, core, uncore, dram, psys."""
    label: str
    """A name that no other zone has: ``package-10``, ``dram-10``, ``psys``."""
    range_j: float | None

    @property
    def energy_file(self) -> Path:
        """Where its cumulative microjoules are."""
        return self.folder / "energy_uj"


def open(argument: str = "") -> Powercap:
    """The RAPL counters below the root ``argument`` (empty: this machine's).

    Raises SourceUnavailable where there are none, and where they may not be read: since 2020 only root
    may, because of CVE-2020-8694.
    """
    root = Path(argument or ROOT)
    zones = find_zones(root)
    if not zones:
        raise _absent(root)
    return Powercap(root, _without_unwired_psys([zone for zone in zones if _is_readable(zone, root)]))


class Powercap:
    """The RAPL zones ``zones`` below ``root``, a rail each.

    The counters' files stay open: a reading is one ``pread``, about 1 µs plus what the kernel takes to
    ask the processor. A zone that does not answer reads NaN, alone.
    """

    def __init__(self, root: Path, zones: list[Zone]) -> None:
        self._root = root
        self.rails = rails_of(zones)
        self._fds = [os.open(zone.energy_file, os.O_RDONLY) for zone in zones]
        if all(math.isnan(reading.value) for reading in self.read()):
            self.close()
            raise SourceUnavailable(f"rapl: no counter below {root} answers", f"cat {zones[0].energy_file}")

    @property
    def spec(self) -> str:
        """``rapl``, with the root where it is not this machine's own."""
        return "rapl" if str(self._root) == ROOT else f"rapl:{self._root}"

    def read(self) -> list[Reading]:
        """All zones, each stamped right after its own read."""
        readings = []
        for number, fd in enumerate(self._fds):
            value = _joules(fd)
            readings.append(Reading(number, time.monotonic_ns(), value))
        return readings

    def close(self) -> None:
        """Closes the counters' files."""
        while self._fds:
            os.close(self._fds.pop())


def find_zones(root: Path) -> list[Zone]:
    """Every zone with an energy counter below ``root``, parents before children, sockets in numeric order.

    Takes the flat layout of the class folder (links) as well as the nested one of the devices.
    """
    patterns = ("*:*", "*/*:*", "*/*/*:*")
    folders = {folder.name: folder for pattern in patterns for folder in root.glob(pattern)}
    zones = [zone for folder in folders.values() if (zone := _zone(folder)) is not None]
    return _without_twins(sorted(zones, key=lambda zone: (zone.control, zone.numbers)))


def _zone(folder: Path) -> Zone | None:
    match = _FOLDER.fullmatch(folder.name)
    # Other control types (dtpm) estimate power from a model: those are no meters.
    if match is None or "rapl" not in match["control"] or not (folder / "energy_uj").exists():
        return None
    name = _text(folder / "name")
    if name is None:
        return None
    numbers = tuple(int(number) for number in match["numbers"][1:].split(":"))
    range_uj = _text(folder / "max_energy_range_uj")
    range_j = int(range_uj) / 1e6 if range_uj and range_uj.isdigit() and int(range_uj) else None
    kind, label = _kind_and_label(name, folder)
    return Zone(folder, match["control"], numbers, kind, label, range_j)


def _kind_and_label(name: str, folder: Path) -> tuple[str, str]:
    if _PACKAGE.fullmatch(name):
        return "package", name
    parent = _text(folder.parent / f"{folder.name.rpartition(':')[0]}/name") or _text(folder.parent / "name")
    package = _PACKAGE.fullmatch(parent or "")
    return name, f"{name}-{package['which']}" if package else name


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _without_twins(zones: list[Zone]) -> list[Zone]:
    """One zone a label: a package shown by a second control type (MMIO, sorted after MSR) is the same one."""
    kept: dict[str, Zone] = {}
    for zone in zones:
        kept.setdefault(zone.label, zone)
    return list(kept.values())


def rails_of(zones: list[Zone]) -> tuple[Rail, ...]:
    """A rail for each zone, its id the zone's place in the list, nested as the module's docstring says."""
    return tuple(
        Rail(
            id=number,
            name=zone.label,
            kind="counter",
            origin="measured",
            period_ns=REFRESH_NS,
            range_j=zone.range_j,
            inside=_container(zone, zones),
            source="rapl",
            note="one core only on AMD" if zone.kind == "core" else "",
        )
        for number, zone in enumerate(zones)
    )


def _container(zone: Zone, zones: list[Zone]) -> int | None:
    def is_container(other: Zone) -> bool:
        if zone.kind in ("package", "dram"):
            return other.kind == "psys"
        return other.kind == "package" and (other.control, other.numbers) == (zone.control, zone.numbers[:-1])

    return next((number for number, other in enumerate(zones) if is_container(other)), None)


def _is_readable(zone: Zone, root: Path) -> bool:
    """Whether the zone may be read. One that may not is left out if its package counts it, else refused."""
    if os.access(zone.energy_file, os.R_OK):
        return True
    if zone.kind in ("core", "uncore"):
        return False
    raise SourceUnavailable(
        f"rapl: {zone.energy_file} may not be read", f"sudo chmod a+r {root}/{zone.control}:*/energy_uj"
    )


def _without_unwired_psys(zones: list[Zone]) -> list[Zone]:
    """``zones`` without a psys that moves slower than the packages it should hold. With a psys: 20 ms."""
    platform = [zone for zone in zones if zone.kind == "psys"]
    packages = [zone for zone in zones if zone.kind == "package"]
    if not platform or not packages:
        return zones
    watched = (platform[0], *packages)
    before = [_file_joules(zone) for zone in watched]
    time.sleep(_PSYS_WATCH_S)
    psys_j, *package_j = (_file_joules(zone) - first for zone, first in zip(watched, before, strict=True))
    # 0.8 leaves room for counters that refresh out of step during so short a look.
    return [zone for zone in zones if zone.kind != "psys"] if psys_j < 0.8 * sum(package_j) else zones


def _file_joules(zone: Zone) -> float:
    fd = os.open(zone.energy_file, os.O_RDONLY)
    try:
        return _joules(fd)
    finally:
        os.close(fd)


def _joules(fd: int) -> float:
    try:
        return int(os.pread(fd, _READ_BYTES, 0)) / 1e6
    except (OSError, ValueError):
        # EIO, ENODATA, ENODEV after a hot-unplug, or an empty answer: this zone did not answer this time.
        return math.nan


def polling_bound_s(rail: Rail, power_w: float) -> float:
    """The longest time between two reads of a counter that cannot hide a wrap, at ``power_w`` or less:
    ``range / power``. Infinite for a counter that does not wrap."""
    return math.inf if rail.range_j is None else rail.range_j / power_w


def _absent(root: Path) -> SourceUnavailable:
    fact = f"rapl: {root} holds no RAPL zone"
    if str(root) != ROOT:
        return SourceUnavailable(fact, "a folder laid out as /sys/class/powercap")
    if "hypervisor" in (_text(Path("/proc/cpuinfo")) or ""):
        return SourceUnavailable(f"{fact}: a virtual machine is not shown the counters")
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return SourceUnavailable(
            f"{fact}: the container masks it",
            "docker run --security-opt systempaths=unconfined … (as root on a host with RAPL)",
        )
    return SourceUnavailable(fact, "sudo modprobe intel_rapl_msr (AMD too; Linux ≥ 5.8)")
