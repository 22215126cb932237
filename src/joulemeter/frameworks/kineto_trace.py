"""What one cycle of PyTorch's profiler saw, out of its events or of the JSON that it exports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

SHORT_NS = 1_000
"""Operators that took less, and launched nothing, are left in the time of whatever is around them."""
DEVICE_KINDS = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
HOST_KINDS = frozenset({"cpu_op", "user_annotation"})
LAUNCH_WORDS = ("Launch", "Memcpy", "Memset")


class Operator(NamedTuple):
    """One operator on a host thread (its native id); stamps are Unix nanoseconds."""

    name: str
    start_ns: int
    end_ns: int
    thread: int
    id: int


class DeviceWork(NamedTuple):
    """One kernel, copy or fill on a device stream; ``device`` as the process counts those that it may see,
    ``operator`` the id of its launcher, 0 if none."""

    name: str
    start_ns: int
    end_ns: int
    device: int
    stream: int
    operator: int


class Trace(NamedTuple):
    """What one cycle saw. ``launches`` counts the host's requests for device work that has a record."""

    operators: list[Operator]
    device: list[DeviceWork]
    launches: int = 0

    @property
    def unseen(self) -> int:
        """Launches whose work has no record: it was still running when the cycle ended."""
        return max(0, self.launches - len(self.device))


def from_host_events(events: Iterable[Any]) -> Trace:
    """The trace in the profiler's events where no device was recorded, without the short operators.

    Each question to an event costs a tenth of a microsecond: a training step has hundreds of them.
    """
    made = Operator._make
    operators = [
        made((each.name(), each.start_ns(), each.end_ns(), each.device_resource_id(), 0))
        for each in events
        if each.duration_ns() >= SHORT_NS
    ]
    return Trace(operators, [])


def from_events(events: Iterable[Any]) -> Trace:
    """The trace in the profiler's own events (``_KinetoEvent`` of ``torch.autograd``)."""
    operators, device, launches = [], [], 0
    for each in events:
        kind = each.activity_type()
        if kind in HOST_KINDS:
            thread = each.device_resource_id()
            operators.append(
                Operator(each.name(), each.start_ns(), each.end_ns(), thread, each.correlation_id())
            )
        elif kind in DEVICE_KINDS:
            place, launcher = (each.device_index(), each.device_resource_id()), each.linked_correlation_id()
            device.append(DeviceWork(each.name(), each.start_ns(), each.end_ns(), *place, launcher))
        elif _launches(kind, each.name()):
            launches += 1
    return Trace(operators, device, launches)


def from_chrome(trace: dict[str, Any]) -> Trace:
    """The trace in the JSON object that ``export_chrome_trace`` writes."""
    base_ns = int(trace.get("baseTimeNanoseconds", 0))
    operators, device, launches = [], [], 0
    for each in trace["traceEvents"]:
        if each.get("ph") != "X":
            continue
        kind, name, known = each.get("cat", ""), each["name"], each.get("args", {})
        start_ns = base_ns + round(each["ts"] * 1e3)
        end_ns = start_ns + round(each["dur"] * 1e3)
        if kind in HOST_KINDS:
            operators.append(Operator(name, start_ns, end_ns, int(each["tid"]), known.get("External id", 0)))
        elif kind in DEVICE_KINDS:
            place = int(known["device"]), int(known["stream"])
            device.append(DeviceWork(name, start_ns, end_ns, *place, known.get("External id", 0)))
        elif _launches(kind, name):
            launches += 1
    return Trace(operators, device, launches)


def _launches(kind: str, name: str) -> bool:
    return kind in ("cuda_runtime", "cuda_driver") and any(word in name for word in LAUNCH_WORDS)
