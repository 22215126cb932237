"""What this machine is: its caches from the kernel's tables, its peaks by trying."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joulemeter.device import Device, MemoryLevel
from joulemeter.errors import UsageError

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def device(name: str = "cpu", *, measure: bool = True, threads: int | None = None, root: str = "/") -> Device:
    """The device ``cpu`` or ``cuda:N`` of this host; ``measure`` tries its peaks for a second or so.

    Raises UsageError where there is no such device.
    """
    if name.startswith("cuda"):
        return _cuda(name, measure)
    if name != "cpu":
        raise UsageError(f"there is no device '{name}' here", "cpu or cuda:0")
    threads = threads or len(os.sched_getaffinity(0))
    memory = MemoryLevel("memory", float(_memory_bytes(root)))
    found = Device(_model(root), "cpu", threads, {}, (*caches(root, threads), memory), _software())
    return _measured(found, "cpu") if measure else found


def has(fingerprint: str) -> bool:
    """Whether a device of this host has that fingerprint; PyTorch is asked only for one of CUDA's."""
    if not fingerprint.startswith("cuda-"):
        return device(measure=False).fingerprint == fingerprint
    try:
        import torch
    except ImportError:
        return False
    count = torch.cuda.device_count()
    return any(_cuda(f"cuda:{i}", measure=False).fingerprint == fingerprint for i in range(count))


def caches(root: str = "/", threads: int = 1) -> tuple[MemoryLevel, ...]:
    """The data caches of the first CPU, smallest first, as many instances as ``threads`` reach."""
    levels = []
    for index in sorted(Path(root, "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
        sharing = _cpus((index / "shared_cpu_list").read_text().strip())
        if match:
            size = int(match[1]) * _UNITS[match[2]] * max(1, -(-threads // sharing))
            levels.append(MemoryLevel(f"L{(index / 'level').read_text().strip()}", float(size)))
    return tuple(sorted(levels, key=lambda level: level.size_bytes))


def _cpus(text: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names."""
    ranges = [part.split("-") for part in text.split(",") if part]
    return sum(int(each[-1]) - int(each[0]) + 1 for each in ranges) or 1


def _model(root: str) -> str:
    try:
        text = Path(root, "proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model|stepping)\s*:\s*(.*)$", text, re.MULTILINE))
    words = [fields.get("model name", platform.machine())]
    words += [f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields]
    return " ".join(words)


def _memory_bytes(root: str) -> int:
    try:
        match = re.search(r"MemTotal:\s*(\d+) kB", Path(root, "proc/meminfo").read_text())
    except OSError:
        return 0
    # Rounded to GiB: a kernel's update must not make another machine of it.
    return round(int(match[1]) / 1024**2) * 1024**3 if match else 0


def _software() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for package in ("torch", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cuda(name: str, measure: bool) -> Device:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"there is no device '{name}' here: PyTorch sees no CUDA device", "--device cpu")
    index = torch.device(name).index or 0
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"there is no device '{name}' here", f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    facts = torch.cuda.get_device_properties(index)
    levels = (MemoryLevel("L2", float(facts.L2_cache_size)), MemoryLevel("memory", float(facts.total_memory)))
    software = {**_software(), "cuda": str(torch.version.cuda)}
    found = Device(facts.name, "cuda", facts.multi_processor_count, {}, levels, software)
    return _measured(found, f"cuda:{index}") if measure else found


def _measured(found: Device, where: str) -> Device:
    """``found`` with the best arithmetic and bandwidths that a few tries reach."""
    import torch

    wait = torch.cuda.synchronize if where != "cpu" else _nothing
    n = 1024 if where == "cpu" else 8192
    a = torch.rand(n, n, device=where)
    peak = 2 * n**3 / _best(lambda: a @ a, wait)
    levels = []
    inner = 0.0
    for level in found.levels:
        # A copy that fills half of the level but not the one before it; reads and writes both count.
        size = min(level.size_bytes / 2, 2.0**28) if inner else level.size_bytes / 2
        x = torch.zeros(max(1024, int(size) // 8), device=where)
        y = torch.empty_like(x)
        rate = 2 * x.numel() * 4 / _best(lambda x=x, y=y: y.copy_(x), wait)  # type: ignore[misc]
        levels.append(MemoryLevel(level.name, level.size_bytes, rate))
        inner = level.size_bytes
    # A smaller level cannot be slower than a larger one: where the call's own cost hides it, it is as fast.
    for i in range(len(levels) - 2, -1, -1):
        fastest = max(levels[i].bandwidth_bytes_per_s, levels[i + 1].bandwidth_bytes_per_s)
        levels[i] = MemoryLevel(levels[i].name, levels[i].size_bytes, fastest)
    return Device(found.model, found.kind, found.threads, {"float32": peak}, tuple(levels), found.software)


def _nothing() -> None:
    return None


def _best(call: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """The shortest of the times of ``call`` within 0.15 s."""
    best, end = float("inf"), time.perf_counter() + 0.15
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best
