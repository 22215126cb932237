"""What every file of sources/ promises, whatever is in the folder."""

import importlib
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joulemeter import sources
from joulemeter.errors import SourceUnavailable, UsageError
from joulemeter.reading import Reading, Source, outermost

TABLE = "t_s,package-0_j,gpu_w\n0,1.0,50\n0.001,,60\n0.002,1.4,\n"


def powercap_tree(root: Path, zones: dict[str, tuple[str, int]], range_uj: int = 262_143_328_850) -> Path:
    """A sysfs tree: folder name to (name, microjoules), nested as the kernel nests it."""
    for folder, (name, energy_uj) in zones.items():
        control, *numbers = folder.split(":")
        parents = [":".join([control, *numbers[: depth + 1]]) for depth in range(len(numbers))]
        path = root.joinpath(*parents)
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(name + "\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root


@pytest.fixture
def specs(tmp_path: Path) -> dict[str, str]:
    tree = powercap_tree(
        tmp_path / "powercap", {"intel-rapl:0": ("package-0", 5), "intel-rapl:0:0": ("core", 3)}
    )
    (tmp_path / "table.csv").write_text(TABLE)
    return {
        "estimate": "estimate",
        "nvml": "nvml:fake:gpus=2,arch=4",
        "rapl": f"rapl:{tree}",
        "replay": f"replay:{tmp_path / 'table.csv'}",
        "simulated": "simulated:packages=2,dram=3",
    }


def opened(name: str, specs: dict[str, str]) -> Source:
    return sources.open_spec(specs.get(name, name))


@pytest.mark.parametrize("name", sources.names())
class TestEverySource:
    def test_rails_are_numbered_from_zero_and_named_once(self, name, specs):
        rails = opened(name, specs).rails
        assert [rail.id for rail in rails] == list(range(len(rails)))
        assert len({rail.name for rail in rails}) == len(rails) > 0
        assert all(rail.source == name and rail.period_ns > 0 for rail in rails if name != "replay")

    def test_nesting_ends_at_an_outermost_rail(self, name, specs):
        rails = opened(name, specs).rails
        assert outermost(rails)
        for rail in rails:
            seen = set()
            while rail.inside is not None:
                assert rail.inside not in seen
                seen.add(rail.inside)
                rail = rails[rail.inside]  # noqa: PLW2901

    def test_readings_are_finite_or_nan_and_stamped_on_the_monotonic_clock(self, name, specs):
        begun = time.monotonic_ns() - 10_000_000  # a reading may be stamped with the refresh before it
        source = opened(name, specs)
        readings: list[Reading] = []
        for _ in range(4):
            readings += source.read()
            time.sleep(0.012)
        now = time.monotonic_ns()
        assert readings
        assert all(begun < reading.t_ns <= now for reading in readings)
        assert all(reading.value >= 0 or math.isnan(reading.value) for reading in readings)
        assert {reading.rail for reading in readings} <= {rail.id for rail in source.rails}

    def test_its_spec_opens_the_same_rails_in_another_process(self, name, specs):
        source = opened(name, specs)
        again = sources.open_spec(source.spec)
        assert [(r.id, r.name, r.kind, r.inside) for r in again.rails] == [
            (r.id, r.name, r.kind, r.inside) for r in source.rails
        ]

    def test_closing_twice_does_no_harm(self, name, specs):
        source = opened(name, specs)
        source.close()
        assert source.close() is None

    def test_only_a_meter_says_measured(self, name, specs):
        origins = {rail.origin for rail in opened(name, specs).rails}
        expected = {
            "estimate": "estimated",
            "nvml": "simulated",
            "simulated": "simulated",
            "replay": "replayed",
        }
        assert origins == {expected.get(name, "measured")}


def test_every_file_but_the_stand_ins_is_a_source():
    files = {path.stem for path in Path(sources.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(sources.names()) >= {name for name in files if not name.startswith("fake_")}
    assert "fake_nvml" not in sources.names()


@pytest.mark.parametrize("name", ["rapl", "estimate", "simulated", "replay"])
def test_a_source_costs_the_measured_script_no_heavy_import(name):
    code = f"import sys, joulemeter.sources.{name}; print([m for m in ('numpy', 'pyarrow', 'pynvml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_source_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match=r"there is no source 'wattmeter'.*rapl"):
        sources.open_spec("wattmeter")


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("rapl,simulated:idle=20,busy=100,nvml:0,2", ["rapl", "simulated:idle=20,busy=100", "nvml:0,2"]),
        ("nvml:fake:gpus=2,arch=4,estimate", ["nvml:fake:gpus=2,arch=4", "estimate"]),
        ("rapl,wattmeter", ["rapl", "wattmeter"]),
    ],
)
def test_a_list_of_sources_is_split_where_a_source_is_named(text, specs):
    assert sources.split_specs(text) == specs


def test_another_packages_source_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "otherpackage.py").write_text("from joulemeter.sources.simulated import open\n")
    (tmp_path / "otherpackage-1.0.dist-info").mkdir()
    (tmp_path / "otherpackage-1.0.dist-info" / "METADATA").write_text("Name: otherpackage\nVersion: 1.0\n")
    (tmp_path / "otherpackage-1.0.dist-info" / "entry_points.txt").write_text(
        "[joulemeter.sources]\nwall = otherpackage\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sources._foreign.cache_clear()
    try:
        assert "wall" in sources.names()
        assert sources.open_spec("wall:load=constant").rails[0].name == "package-0"
    finally:
        sources._foreign.cache_clear()


def test_without_a_meter_the_estimate_is_used_and_every_refusal_is_told(monkeypatch):
    for name in sources.meters():
        module = importlib.import_module(f"joulemeter.sources.{name}")

        def refuse(argument: str, name: str = name) -> Source:
            raise SourceUnavailable(f"{name}: not here", "buy one")

        monkeypatch.setattr(module, "open", refuse)
    found = sources.discover()
    assert (found.specs, found.metered) == (("estimate",), False)
    assert [(refusal.spec, refusal.remedy) for refusal in found.refusals] == [
        (n, "buy one") for n in sources.meters()
    ]


def test_a_meter_that_answers_leaves_no_room_for_an_estimate(monkeypatch):
    module = importlib.import_module("joulemeter.sources.rapl")
    simulated = importlib.import_module("joulemeter.sources.simulated")
    monkeypatch.setattr(module, "open", simulated.open)
    found = sources.discover()
    assert "rapl" in found.specs
    assert found.metered
