"""What this machine is, read from a recorded tree."""

from pathlib import Path

import pytest

from joulemeter import host
from joulemeter.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An 8-core desktop: 32 kB L1 and 1 MB L2 a core, 32 MB L3 for all."""
    for index, (level, kind, size, shared) in enumerate(
        [
            ("1", "Data", "32K", "0"),
            ("1", "Instruction", "32K", "0"),
            ("2", "Unified", "1M", "0"),
            ("3", "Unified", "32768K", "0-7"),
        ]
    ):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "model name\t: Toy CPU\ncpu family\t: 1\nmodel\t\t: 2\nstepping\t: 3\n"
    )
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16280000 kB\n")
    return tmp_path


def test_private_caches_count_once_a_thread_and_shared_ones_once(root: Path) -> None:
    found = host.device("cpu", measure=False, threads=4, root=str(root))
    sizes = {level.name: level.size_bytes for level in found.levels}
    assert sizes == {"L1": 4 * 32 * 1024, "L2": 4 * 1024**2, "L3": 32 * 1024**2, "memory": 16 * 1024**3}
    assert found.model == "Toy CPU cpu family 1 model 2 stepping 3"
    assert found.last_cache_bytes == 32 * 1024**2


def test_the_fingerprint_does_not_depend_on_what_was_measured(root: Path) -> None:
    a, b = (host.device("cpu", measure=False, threads=4, root=str(root)) for _ in range(2))
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != host.device("cpu", measure=False, threads=2, root=str(root)).fingerprint


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="no device 'tpu'"):
        host.device("tpu")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"no CUDA device.*--device cpu"):
            host.device("cuda:0")


def test_this_machine_has_its_own_devices_and_no_others() -> None:
    assert host.has(host.device(measure=False).fingerprint)
    assert not host.has("cpu-000000000000")
    assert not host.has("")
    assert not host.has("cuda-000000000000")
