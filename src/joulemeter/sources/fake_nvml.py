"""Stand-ins for GPUs behind NVML's interface, for tests and for trying ``nvml:fake`` without a GPU.

Not a meter: what it tells is simulated. It raises ``pynvml``'s own errors and returns its own structures;
the energy counter moves in steps of ``refresh_ns``, instant power is the mean of the last step, average
power that of the last second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

from joulemeter.errors import UsageError

NVMLError = pynvml.NVMLError


@dataclass(slots=True)
class FakeGpu:
    """One GPU. ``errors`` maps an NVML function, or ``field 186``, to the code that it fails with."""

    energy_j: Callable[[float], float]
    """The truth: joules spent, by seconds since the driver was started."""
    uuid: str = "GPU-fake"
    architecture: int = pynvml.NVML_DEVICE_ARCH_HOPPER
    pci_device_id: int = 0x2330_10DE
    refresh_ns: int = 100_000_000
    split: bool = False
    """Whether MIG is on."""
    errors: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """``pynvml`` with ``gpus``; its constants are the real ones. ``errors`` of its own as a GPU's; ``clock``
    is told the time, in ns."""

    NVMLError = NVMLError

    def __init__(self, gpus: Sequence[FakeGpu], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.gpus = list(gpus)
        self.errors: dict[str, int] = {}
        self.open = 0
        self._clock, self._started_ns = clock, clock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        raise AttributeError(f"the stand-in for NVML has no {name}")

    def nvmlInit(self) -> None:
        """Starts a use of the library."""
        _fail(self.errors, "nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:
        """Ends a use of the library; an error where it was not started."""
        self._check()
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        """How many GPUs there are."""
        self._check()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        """The GPU of this number."""
        self._check()
        if not 0 <= index < len(self.gpus):
            raise NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        """As ``nvidia-smi -L`` shows it."""
        self._check(handle, "nvmlDeviceGetUUID")
        return handle.uuid

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:
        """The current and the pending mode; not supported before Ampere."""
        self._check(handle, "nvmlDeviceGetMigMode")
        if handle.architecture < pynvml.NVML_DEVICE_ARCH_AMPERE:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(handle.split), int(handle.split)]

    def nvmlDeviceGetArchitecture(self, handle: FakeGpu) -> int:
        """One of NVML_DEVICE_ARCH_…."""
        self._check(handle, "nvmlDeviceGetArchitecture")
        return handle.architecture

    def nvmlDeviceGetPciInfo(self, handle: FakeGpu) -> Any:
        """An object with ``pciDeviceId``: the device's number, then the vendor's."""
        self._check(handle, "nvmlDeviceGetPciInfo")
        return SimpleNamespace(pciDeviceId=handle.pci_device_id)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeGpu) -> int:
        """Millijoules since the driver was started; not supported before Volta."""
        self._check(handle, "nvmlDeviceGetTotalEnergyConsumption")
        if handle.architecture < pynvml.NVML_DEVICE_ARCH_VOLTA:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return round(handle.energy_j(self._refreshed_s(handle)) * 1e3)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:
        """Milliwatts: mean of a second on Ampere and later, of the last refresh before."""
        self._check(handle, "nvmlDeviceGetPowerUsage")
        averages = handle.architecture >= pynvml.NVML_DEVICE_ARCH_AMPERE
        return self._milliwatts(handle, 1.0 if averages else handle.refresh_ns / 1e9)

    def nvmlDeviceGetFieldValues(self, handle: FakeGpu, fields: Sequence[int]) -> Any:
        """The driver's own structures, each with a return code of its own."""
        self._check(handle, "nvmlDeviceGetFieldValues")
        windows_s = {
            pynvml.NVML_FI_DEV_POWER_INSTANT: handle.refresh_ns / 1e9,
            pynvml.NVML_FI_DEV_POWER_AVERAGE: 1.0,
        }
        values = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, number in zip(values, fields, strict=True):
            value.fieldId = number
            value.nvmlReturn = handle.errors.get(f"field {number}", pynvml.NVML_SUCCESS)
            if number not in windows_s:
                value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
            elif value.nvmlReturn == pynvml.NVML_SUCCESS:
                value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
                value.value.uiVal = self._milliwatts(handle, windows_s[number])
        return values

    def _check(self, handle: FakeGpu | None = None, function: str = "") -> None:
        if self.open == 0:
            raise NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        _fail(self.errors, function)
        if handle is not None:
            _fail(handle.errors, function)

    def _refreshed_s(self, handle: FakeGpu) -> float:
        """The moment of the last refresh."""
        return (self._clock() - self._started_ns) // handle.refresh_ns * handle.refresh_ns / 1e9

    def _milliwatts(self, handle: FakeGpu, window_s: float) -> int:
        end_s = self._refreshed_s(handle)
        start_s = max(0.0, end_s - window_s)
        if end_s == start_s:
            return round(handle.energy_j(1e-3) * 1e6)
        return round((handle.energy_j(end_s) - handle.energy_j(start_s)) / (end_s - start_s) * 1e3)


def made_of(argument: str) -> FakeNvml:
    """Stand-ins that draw a constant power, after an argument such as ``watts=300,gpus=2,arch=6``."""
    figures = {"watts": 300.0, "gpus": 1.0, "arch": float(pynvml.NVML_DEVICE_ARCH_HOPPER)}
    for word in filter(None, argument.split(",")):
        key, _, text = word.partition("=")
        if key not in figures or not text.replace(".", "", 1).isdigit():
            raise UsageError(f"nvml:fake: '{word}' is no figure", f"{', '.join(figures)}, as in watts=300")
        figures[key] = float(text)
    watts = figures["watts"]
    gpus = range(int(figures["gpus"]))
    return FakeNvml([FakeGpu(lambda s: watts * s, f"GPU-fake-{n}", int(figures["arch"])) for n in gpus])


def _fail(errors: dict[str, int], function: str) -> None:
    if function in errors:
        raise NVMLError(errors[function])
