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

The counters stand still between refreshes, about a millisecond apart, so a reading tells the energy of its
last refresh, not of its own moment: at 100 W up to 0.1 J less, 1 % of a window of 100 ms. So now and then
one counter is watched as it moves; that tells when its later refreshes happen (`Refresh`), and a reading
is stamped with the refresh it shows. Where refreshes come at no steady pace a reading keeps its own moment.

A counter wraps at ``max_energy_range_uj``. From its fall one wrap between two reads can be told, two
cannot: reads must be closer than `polling_bound_s`, range over power, for the usual 262,144 J some 262 s
at 1 kW. Whoever reads at this source's period stays below it by four orders of magnitude.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from joulemeter.errors import SourceUnavailable
from joulemeter.reading import Polled, Rail, Reading
from joulemeter.refresh import NEAR_NS, REFRESH_NS, Refresh

try:
    from joulemeter._powercap import rounds as _rounds
except ImportError:
    _rounds = None

METERS_THIS_MACHINE = True
ROOT = "/sys/class/powercap"
RELATIVE_ERROR = 0.0
"""The counters' own gain is taken as true: on Haswell and later they are measured, within some percent of
a reference at the supply lines (Khan et al., "RAPL in Action", 2018), and nothing here can tell which way."""

_FOLDER = re.compile(r"(?P<control>[a-z][\w-]*)(?P<numbers>(:\d+)+)")
_PACKAGE = re.compile(r"package-(?P<which>\d+(-die-\d+)?)")
_PSYS_WATCH_S = 0.02
_WATCHING_SHARE, _WATCHING_NS = 0.002, 40_000_000
"""What watching may cost: this share of a core, and so much at once when the source is new."""
_EDGES = 7
"""From so many refreshes in a row the pace is learned."""
_AHEAD_NS = 150_000
"""How much earlier than a refresh we wake to see it: a sleep ends some 100 µs late."""
_QUIET_REFRESHES = 5
"""A counter that has not moved for so many refreshes draws nothing or has frozen: its reading is given."""
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
    ask the processor. A zone that does not answer reads NaN, alone; a zone with nothing new is left out
    for a few refreshes. ``clock``, ``sleep`` and ``pread`` stand in for the operating system's.
    """

    def __init__(
        self,
        root: Path,
        zones: list[Zone],
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
        pread: Callable[[int, int, int], bytes] = os.pread,
    ) -> None:
        self._root = root
        self._clock, self._sleep, self._pread = clock, sleep, pread
        self.rails = rails_of(zones)
        self._fds = [os.open(zone.energy_file, os.O_RDONLY) for zone in zones]
        self._refreshes = [Refresh() for _ in zones]
        self._given: dict[int, Reading] = {}
        self._look_ns = [0 for _ in zones]
        self._next_look_ns = 0
        self._watching_ns, self._watched_ns = _WATCHING_NS, clock()
        self.poll = self._rounds if _rounds is not None and pread is os.pread else None
        if all(math.isnan(self._joules(number)) for number in range(len(zones))):
            self.close()
            raise SourceUnavailable(f"rapl: no counter below {root} answers", f"cat {zones[0].energy_file}")

    @property
    def spec(self) -> str:
        """``rapl``, with the root where it is not this machine's own."""
        return "rapl" if str(self._root) == ROOT else f"rapl:{self._root}"

    def read(self) -> list[Reading]:
        """All zones that have something new or do not answer. Now and then waits some ms for a refresh."""
        seen = self._watched_move() if self._clock() >= self._next_look_ns else []
        for number in range(len(self._fds)):
            reading = self._reading(number)
            if reading is not None:
                seen.append(reading)
        return seen

    def _rounds(self, file: int, first_rail: int, due_ns: int, period_ns: int, stop: bytearray) -> Polled:
        """What ``Source`` promises of ``poll``: reads in C until a counter should be watched again."""
        zones = [self._state(number) for number in range(len(self._fds))]
        until_ns = max(self._next_look_ns, self._may_watch_from_ns())
        *polled, doubted, given = _rounds(zones, file, first_rail, due_ns, period_ns, until_ns, stop)
        self._given = {number: Reading(number, *each) for number, each in enumerate(given) if each}
        if doubted >= 0:
            self._doubt(doubted)
        return Polled(*polled)

    def _state(self, number: int) -> tuple[int, bool, float, float, int, bool, int, float]:
        refresh, given = self._refreshes[number], self._given.get(number, Reading(number, 0, 0.0))
        pace = (refresh.known, refresh.edge_ns, refresh.period_ns, refresh.trusted_until_ns)
        return (self._fds[number], *pace, number in self._given, given.t_ns, given.value)

    def _doubt(self, number: int) -> None:
        """A second value within one refresh: it is not where we think it is."""
        self._refreshes[number].doubt()
        soon_ns = self._clock() + self._refreshes[number].look_after_ns
        self._look_ns[number] = min(self._look_ns[number], soon_ns)
        self._next_look_ns = min(self._look_ns)

    def _reading(self, number: int) -> Reading | None:
        refresh = self._refreshes[number]
        t_ns, value = self._between_refreshes(number)
        before = self._given.get(number)
        if before is not None and value == before.value:
            if t_ns - before.t_ns < _QUIET_REFRESHES * refresh.period_ns:
                return None
        elif not math.isnan(value):
            refreshed_ns = self._refreshed_ns(number, t_ns, before)
            if refreshed_ns is None:
                return None
            t_ns = refreshed_ns
        reading = Reading(number, t_ns, value)
        if not math.isnan(value):
            self._given[number] = reading
        return reading

    def _refreshed_ns(self, number: int, t_ns: int, before: Reading | None) -> int | None:
        """When the counter took the value read at ``t_ns``; None where by its pace it cannot have,
        and where that is too near to a refresh to say: the next reading holds those joules."""
        refresh = self._refreshes[number]
        if t_ns > refresh.trusted_until_ns:
            return t_ns
        if refresh.clear_of(t_ns):
            return None
        edge_ns = round(refresh.before(t_ns))
        if before is not None and edge_ns <= before.t_ns:
            self._doubt(number)
            return None
        return edge_ns

    def _between_refreshes(self, number: int) -> tuple[int, float]:
        """A value read well between two refreshes, as far as three tries can do it, and its moment."""
        refresh = self._refreshes[number]
        for _ in range(3):
            wait_ns = refresh.clear_of(self._clock())
            if wait_ns:
                self._sleep(wait_ns / 1e9)
            t_ns, value = self._stamped(number)
            if not refresh.clear_of(t_ns):
                break
        return t_ns, value

    def _stamped(self, number: int) -> tuple[int, float]:
        """A value and the moment it was read; read again where something else ran in between."""
        for _ in range(3):
            start_ns = self._clock()
            value = self._joules(number)
            end_ns = self._clock()
            if end_ns - start_ns < NEAR_NS:
                break
        return (start_ns + end_ns) // 2, value

    def _joules(self, number: int) -> float:
        try:
            return int(self._pread(self._fds[number], _READ_BYTES, 0)) / 1e6
        except (OSError, ValueError):
            # EIO, ENODATA, ENODEV after a hot-unplug, or an empty answer: this zone did not answer this time.
            return math.nan

    def _watched_move(self) -> list[Reading]:
        """Watches a counter as it moves, where that is due, to keep its pace known; returns its moves."""
        start_ns = self._clock()
        if not self._fds or not self._may_watch(start_ns):
            return []
        number = self._look_ns.index(min(self._look_ns))
        refresh = self._refreshes[number]
        if start_ns < refresh.counted_until_ns:
            moves = self._watch_one(number, refresh)
        else:
            moves = self._moves(number, _EDGES, (_EDGES + 1) * REFRESH_NS)
            refresh.acquire([move.t_ns for move in moves])
        self._look_ns[number] = self._clock() + refresh.look_after_ns
        self._next_look_ns = min(self._look_ns)
        if moves:
            self._given[number] = moves[-1]
        return moves

    def _may_watch(self, now_ns: int) -> bool:
        """Whether watching has not yet used up its share of a core."""
        earned_ns = round(_WATCHING_SHARE * (now_ns - self._watched_ns))
        self._watching_ns, self._watched_ns = min(self._watching_ns + earned_ns, _WATCHING_NS), now_ns
        return self._watching_ns > 0

    def _may_watch_from_ns(self) -> int:
        return self._watched_ns + math.ceil(max(0, -self._watching_ns) / _WATCHING_SHARE) + 1

    def _watch_one(self, number: int, refresh: Refresh) -> list[Reading]:
        now = self._clock()
        ahead_ns = round(2 * refresh.error_ns(now)) + _AHEAD_NS
        next_ns = refresh.before(now) + refresh.period_ns
        if next_ns - now < ahead_ns:
            next_ns += refresh.period_ns
        self._sleep((next_ns - ahead_ns - now) / 1e9)
        if self._clock() > next_ns - ahead_ns + _AHEAD_NS - NEAR_NS:
            return []  # woken too late to see it: that says nothing about the pace
        moves = self._moves(number, 1, 2 * ahead_ns)
        if moves:
            refresh.learn(moves[0].t_ns)
        else:
            refresh.doubt()
        return moves

    def _moves(self, number: int, count: int, patience_ns: int) -> list[Reading]:
        """The counter's next ``count`` moves, stamped when they happened; fewer where they take too long."""
        moves: list[Reading] = []
        before_ns, before = self._stamped(number)
        deadline_ns = before_ns + patience_ns
        while len(moves) < count and before_ns < deadline_ns:
            t_ns, value = self._stamped(number)
            self._watching_ns -= min(t_ns - before_ns, NEAR_NS)
            # A longer gap between the two reads means that something else ran: the moment is not known.
            if value != before and not math.isnan(value - before) and t_ns - before_ns < NEAR_NS:
                moves.append(Reading(number, (before_ns + t_ns) // 2, value))
            before_ns, before = t_ns, value
        return moves

    def close(self) -> None:
        """Closes the counters' files."""
        while self._fds:
            os.close(self._fds.pop())


def find_zones(root: Path) -> list[Zone]:
    """Every zone with an energy counter below ``root``, parents before children, sockets in numeric order.

    Takes the flat layout of the class folder (links) as well as the nested one of the devices.
    """
    patterns = ("*/*/*:*", "*/*:*", "*:*")  # the shortest way to a folder is kept
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
        """Whether ``zone`` lies within ``other``."""
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
    text = _text(zone.energy_file) or ""
    return int(text) / 1e6 if text.isdigit() else math.nan


def polling_bound_s(rail: Rail, power_w: float) -> float:
    """The longest time between two reads of a counter that cannot hide a wrap, at ``power_w`` or less:
    ``range / power``. Infinite for a counter that does not wrap."""
    return math.inf if rail.range_j is None else rail.range_j / power_w


def _absent(root: Path) -> SourceUnavailable:
    fact = f"rapl: {root} holds no RAPL zone"
    if str(root) != ROOT:
        return SourceUnavailable(fact, "a folder laid out as /sys/class/powercap")
    if "hypervisor" in (_text(Path("/proc/cpuinfo")) or ""):
        return SourceUnavailable(
            f"{fact}: a virtual machine is not shown the counters",
            "joulemeter doctor, on the host itself (nothing in here can mend it)",
        )
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return SourceUnavailable(
            f"{fact}: the container masks it",
            "docker run --security-opt systempaths=unconfined … (as root on a host with RAPL)",
        )
    return SourceUnavailable(fact, "sudo modprobe intel_rapl_msr (AMD too; Linux ≥ 5.8)")
