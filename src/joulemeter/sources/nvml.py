"""NVIDIA GPUs, through NVML (the ``nvidia-ml-py`` package and the driver's ``libnvidia-ml.so.1``).

``nvml`` meters the GPUs that CUDA_VISIBLE_DEVICES leaves visible, ``nvml:0,2`` those with these numbers
or UUIDs, ``nvml:fake`` stand-ins (`joulemeter.sources.fake_nvml`).

A GPU that counts its energy (Volta and later: ``nvmlDeviceGetTotalEnergyConsumption``, millijoules since the
driver was loaded) is one counter. Another is read as power, as instant power with average power inside it
where the driver has both (``NVML_FI_DEV_POWER_INSTANT``, ``NVML_FI_DEV_POWER_AVERAGE``), else as
``nvmlDeviceGetPowerUsage``. What the latter averages over is NVIDIA's own word: one second on Ampere (save
GA100) and later, nothing on GA100 and before
(https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html).

The sensors are refreshed every 20 to 100 ms, and on A100 and H100 each refresh saw only 25 ms of 100 (Yang,
Adamek and Armour, "Part-time power measurements", https://arxiv.org/abs/2312.02741): a load that keeps step
with the refresh can be off further than `RELATIVE_ERROR`, NVIDIA's ±5 %.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from joulemeter.errors import SourceUnavailable
from joulemeter.reading import Kind, Origin, Rail, Reading

METERS_THIS_MACHINE = True
RELATIVE_ERROR = 0.05
POLL_NS = 20_000_000
"""How often a GPU is asked: as often as the fastest of them refresh."""
_QUIET_NS = 500_000_000
"""A counter that has not moved for so long is no longer waiting for its refresh: its reading is given."""
_CONTAINER = "in a container: docker run --gpus all …"
_AVERAGE_NS = 1_000_000_000
_MILLI = 1e-3
_AMPERE = 7
_GA100_DEVICES = 0x2000
"""The first byte of the PCI device numbers of GA100 (A100, A30, A800), the Ampere that does not average."""


@dataclass(frozen=True, slots=True)
class _Gauge:
    """A way to ask for power: ``ask`` returns milliwatts or raises the library's error."""

    suffix: str
    ask: Callable[[], int]
    window_ns: int | None
    note: str


def open(argument: str = "") -> Nvml:
    """The GPUs that ``argument`` names (empty: all that are visible).

    Raises SourceUnavailable with the reason where there is no driver, no GPU, no permission, or where one of
    the GPUs is split by MIG: its meter then counts its other tenants too.
    """
    if argument.partition(":")[0] == "fake":
        from joulemeter.sources import fake_nvml

        return Nvml(fake_nvml.made_of(argument.partition(":")[2]), argument=argument, origin="simulated")
    import pynvml

    chosen = argument or os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return Nvml(pynvml, [word.strip() for word in chosen.split(",") if word.strip()], argument)


class Nvml:
    """The GPUs ``wanted`` (numbers or UUIDs; none: all) of ``library``, the ``pynvml`` module or its like."""

    def __init__(
        self,
        library: Any,
        wanted: Sequence[str] = (),
        argument: str = "",
        origin: Origin = "measured",
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._library, self._argument, self._clock = library, argument, clock
        self._asks: list[Callable[[], int]] = []
        self._given: dict[int, Reading] = {}
        self._start()
        try:
            self.rails = self._rails(self._handles(wanted), origin)
        except library.NVMLError as error:
            self.close()
            raise self._refusal("nvml: the driver does not answer", error) from error
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        self._open = False
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise self._refusal("nvml: no NVIDIA driver answers", error) from error
        self._open = True

    def _refusal(self, what: str, error: Any) -> SourceUnavailable:
        library = self._library
        remedies = {
            library.NVML_ERROR_LIBRARY_NOT_FOUND: f"install the NVIDIA driver; {_CONTAINER}",
            library.NVML_ERROR_DRIVER_NOT_LOADED: "sudo modprobe nvidia",
            library.NVML_ERROR_NO_PERMISSION: "sudo chmod a+rw /dev/nvidiactl /dev/nvidia[0-9]*",
            library.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "sudo rmmod nvidia && sudo modprobe nvidia",
            library.NVML_ERROR_GPU_IS_LOST: "sudo nvidia-smi --gpu-reset",
        }
        return SourceUnavailable(
            f"{what} ({error})", remedies.get(error.value, "nvidia-smi, which says more")
        )

    def _handles(self, wanted: Sequence[str]) -> dict[str, Any]:
        """The GPUs to meter, by name (``gpu-0``), refused as a whole where one of them cannot be."""
        library = self._library
        count = library.nvmlDeviceGetCount()
        if count == 0:
            raise SourceUnavailable("nvml: the driver sees no GPU", _CONTAINER)
        every = [library.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        uuids = [_as_text(library.nvmlDeviceGetUUID(handle)) for handle in every]
        numbers = [_number(word, uuids) for word in wanted] if wanted else list(range(count))
        for number in numbers:
            self._refuse_if_split(number, every[number], [n for n in range(count) if n != number])
        return {f"gpu-{number}": every[number] for number in numbers}

    def _refuse_if_split(self, number: int, handle: Any, others: list[int]) -> None:
        mode = self._answer(lambda: self._library.nvmlDeviceGetMigMode(handle)[0])
        if mode != 1:
            return
        remedy = f"sudo nvidia-smi -i {number} -mig 0"
        if others:
            remedy += f", or --source nvml:{','.join(map(str, others))} to meter the other GPUs"
        raise SourceUnavailable(f"nvml: GPU {number} is split by MIG: its meter counts every tenant", remedy)

    def _answer(self, ask: Callable[[], int]) -> int | None:
        """What the GPU answers, None where it does not support the question; refuses without permission."""
        library = self._library
        try:
            return ask()
        except library.NVMLError as error:
            if error.value == library.NVML_ERROR_NO_PERMISSION:
                raise self._refusal("nvml: the GPU may not be read", error) from error
            return None

    # ── rails ────────────────────────────────────────────────────────────────────────────────────────

    def _rails(self, handles: dict[str, Any], origin: Origin) -> tuple[Rail, ...]:
        rails: list[Rail] = []
        for name, handle in handles.items():
            energy = partial(self._library.nvmlDeviceGetTotalEnergyConsumption, handle)
            if self._answer(energy) is not None:
                self._asks.append(energy)
                rails.append(_rail(len(rails), name, "counter", origin))
                continue
            outer = None
            for gauge in self._gauges(name, handle):
                self._asks.append(gauge.ask)
                rails.append(_rail(len(rails), name + gauge.suffix, "gauge", origin, outer, gauge))
                outer = rails[-1].id if outer is None else outer
        return tuple(rails)

    def _gauges(self, name: str, handle: Any) -> list[_Gauge]:
        library = self._library

        def field(number: int) -> Callable[[], int]:
            """Reads field ``number`` of the card."""
            return lambda: self._field(handle, number)

        instant, average = field(library.NVML_FI_DEV_POWER_INSTANT), field(library.NVML_FI_DEV_POWER_AVERAGE)
        named = [
            _Gauge("", instant, None, "instant power; what a refresh averages over is not documented"),
            _Gauge("/average", average, _AVERAGE_NS, "power averaged over one second"),
        ]
        found = [gauge for gauge in named if self._answer(gauge.ask) is not None]
        if found:
            return found

        def usage() -> int:
            """Milliwatts by the older call; cards differ in whether it is an average."""
            milliwatts: int = library.nvmlDeviceGetPowerUsage(handle)
            return milliwatts

        if self._answer(usage) is None:
            raise SourceUnavailable(
                f"nvml: {name} meters neither energy nor power",
                "--source nvml:NUMBER with another GPU, or --source estimate",
            )
        averages = self._averages(handle)
        note = "power averaged over one second" if averages else "instant power"
        return [_Gauge("", usage, _AVERAGE_NS if averages else None, note)]

    def _averages(self, handle: Any) -> bool:
        """Whether ``nvmlDeviceGetPowerUsage`` averages over a second on this GPU's architecture."""
        library = self._library
        architecture = self._answer(lambda: library.nvmlDeviceGetArchitecture(handle)) or 0
        device = (self._answer(lambda: library.nvmlDeviceGetPciInfo(handle).pciDeviceId) or 0) >> 16
        return architecture >= _AMPERE and not (architecture == _AMPERE and device & 0xFF00 == _GA100_DEVICES)

    def _field(self, handle: Any, number: int) -> int:
        library = self._library
        value = library.nvmlDeviceGetFieldValues(handle, [number])[0]
        if value.nvmlReturn != library.NVML_SUCCESS:
            raise library.NVMLError(value.nvmlReturn)
        milliwatts: int = value.value.uiVal
        return milliwatts

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def spec(self) -> str:
        """``nvml``, with the GPUs where they were named."""
        return f"nvml:{self._argument}" if self._argument else "nvml"

    def read(self) -> list[Reading]:
        """Every GPU that has something new; NaN for one that does not answer."""
        readings = (self._reading(rail) for rail in self.rails)
        return [reading for reading in readings if reading is not None]

    def _reading(self, rail: Rail) -> Reading | None:
        try:
            value = self._asks[rail.id]() * _MILLI
        except self._library.NVMLError:
            return Reading(rail.id, self._clock(), math.nan)
        reading = Reading(rail.id, self._clock(), value)
        before = self._given.get(rail.id)
        waiting = before is not None and before.value == value and reading.t_ns - before.t_ns < _QUIET_NS
        if rail.kind == "counter" and waiting:
            return None
        self._given[rail.id] = reading
        return reading

    def close(self) -> None:
        """Lets go of the driver."""
        if self._open:
            self._open = False
            self._library.nvmlShutdown()


def _rail(
    number: int, name: str, kind: Kind, origin: Origin, inside: int | None = None, gauge: _Gauge | None = None
) -> Rail:
    return Rail(
        id=number,
        name=name,
        kind=kind,
        origin=origin,
        period_ns=POLL_NS,
        lag_ns=None,
        inside=inside,
        source="nvml",
        window_ns=gauge.window_ns if gauge else None,
        relative_error=RELATIVE_ERROR,
        note=gauge.note if gauge else "the GPU's own energy counter",
    )


def _number(word: str, uuids: list[str]) -> int:
    if word.isdigit() and int(word) < len(uuids):
        return int(word)
    if word.startswith("MIG-"):
        raise SourceUnavailable(
            f"nvml: {word} is a slice of a GPU, and only whole GPUs have a meter", "sudo nvidia-smi -mig 0"
        )
    for number, uuid in enumerate(uuids):
        if uuid.startswith(word) and word.startswith("GPU-"):
            return number
    raise SourceUnavailable(f"nvml: there is no GPU '{word}'", "a number or UUID of `nvidia-smi -L`")


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
