"""What the machine says of itself, on recorded machines, and what is said of it."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from joulemeter import timeline
from joulemeter.attribution import attribute
from joulemeter.conditions import Conditions, look, others_share, remarks
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans


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


def test_the_share_of_others_is_of_all_processors_and_never_beyond() -> None:
    before = Conditions(0, 50.0, 100.0, 10.0, None)
    after = Conditions(10 * 10**9, 50.0, 130.0, 20.0, None)
    assert others_share(before, after, 4) == 0.5
    assert others_share(before, after, 1) == 1.0
    assert others_share(before, replace(after, own_s=40.0), 4) == 0.0
    assert others_share(before, replace(after, busy_s=math.nan), 4) == 0.0, "a machine that does not tell"


def test_sites_are_less_sure_where_others_worked_and_their_joules_stay() -> None:
    rail = Rail(
        id=0, name="package-0", kind="counter", origin="measured", period_ns=10_000_000, source="rapl"
    )
    t_ns = np.arange(0, 4_000_000_001, 10_000_000, dtype=np.int64)
    watts = np.where((t_ns[1:] > 1e9) & (t_ns[1:] <= 3e9), 30.0, 20.0)
    read = timeline.from_readings(rail, t_ns, np.concatenate([[0.0], np.cumsum(watts * 0.01)]))
    row = ((0, np.int32), (0, np.int32), (10**9, np.int64), (3 * 10**9, np.int64), (-1, np.int64))
    names = ("site", "lane", "start_ns", "end_ns", "parent")
    spans = Spans(**{name: np.array([value], dtype) for name, (value, dtype) in zip(names, row, strict=True)})
    sites = [Site(id=0, name="work")]
    alone, beside = (attribute([replace(read, others=share)], sites, spans) for share in (0.0, 0.6))
    quiet, busy = (ledger.sites[0].rails[0].exclusive for ledger in (alone, beside))
    assert quiet.energy_j == busy.energy_j
    # 0.6 of 20 W, anywhere from none to twice of it, over two seconds: ± 1.96 · 12 W · 2 s / √3
    assert busy.high_j - busy.energy_j >= 1.96 * 12 * 2 / math.sqrt(3)
    assert busy.low_j == 0
    assert (alone.sites[0].rails[0].resolved, beside.sites[0].rails[0].resolved) == (True, False)
    assert beside.rails[0].idle.low_j < alone.rails[0].idle.low_j
