"""What the machine says of itself, on recorded machines, and what is said of it."""

import math
from dataclasses import replace
from pathlib import Path

from joulemeter.conditions import Conditions, look, remarks


def recorded(root: Path) -> Path:
    files = {
        "proc/stat": "cpu  100 0 50 1000 5 1 2 3 0 0\n",
        "sys/class/thermal/thermal_zone0/temp": "45000\n",
        "sys/class/thermal/thermal_zone1/temp": "61500\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
        "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "2\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_recorded_machine_is_read_in_si(tmp_path: Path) -> None:
    found = look(recorded(tmp_path))
    assert found.temperature_c == 61.5
    assert found.throttled == 6
    assert found.busy_s == (100 + 50 + 1 + 2 + 3) / 100, "idle and waiting are not work"


def test_a_machine_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert math.isnan(found.temperature_c)
    assert math.isnan(found.busy_s)
    assert found.throttled is None
    assert remarks(found, replace(found, t_ns=found.t_ns + 10**9), 4) == []


def test_load_heat_and_throttling_are_remarked() -> None:
    before = Conditions(0, 50.0, 100.0, 10.0, 1)
    after = Conditions(10 * 10**9, 62.0, 118.0, 20.0, 3)
    notes = " ".join(remarks(before, after, 4))
    assert "other processes used 80 % of one core meanwhile" in notes
    assert "slowed for heat 2 times" in notes
    assert "+12 °C" in notes
    assert remarks(before, replace(before, t_ns=10**10, busy_s=110.0, own_s=20.0), 4) == [], (
        "one's own work is no load"
    )
