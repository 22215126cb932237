"""Energy at the wall from what software reads of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from joulemeter.cli import command
from joulemeter.models import wall

TRUE = np.array([90.0, 60.0, 1.05])
"""Watts of the machine, watts of its processors at full load, joules at the wall for one of the GPU's."""


def runs(seed: int, networks: int = 6, scatter: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings (n, 3), joules at the wall (n,) and network (n,) of a machine that obeys the law."""
    random = np.random.default_rng(seed)
    network = np.repeat(np.arange(networks), 20)
    time_s = random.uniform(1e-3, 0.3, len(network))
    load = np.repeat(random.uniform(0.05, 0.6, networks), 20)
    seen = wall.amounts(time_s, load, random.uniform(40, 200, len(network)) * time_s)
    return seen, seen @ TRUE * np.exp(scatter * random.normal(size=len(network))), network


def test_the_costs_of_a_machine_are_found() -> None:
    seen, energy_j, network = runs(0)
    found = wall.fit(seen, energy_j, network, np.ones(len(network), bool))
    assert found.costs == pytest.approx(TRUE, rel=0.1)


def test_nine_of_ten_networks_that_were_left_out_lie_inside_their_interval() -> None:
    inside = []
    for seed in range(60):
        seen, energy_j, network = runs(seed)
        held = network == 0
        found = wall.fit(seen[~held], energy_j[~held], network[~held], np.ones((~held).sum(), bool))
        _, low, high = found.predict(seen[held])
        inside += list((low <= energy_j[held]) & (energy_j[held] <= high))
    assert 0.85 <= np.mean(inside) <= 0.97


def test_a_load_that_no_network_had_widens_the_interval() -> None:
    seen, energy_j, network = runs(1)
    usual = wall.fit(seen, energy_j, network, np.ones(len(network), bool))
    narrow = seen.copy()
    narrow[:, 1] = narrow[:, 0] * np.random.default_rng(2).normal(0.09, 1e-3, len(narrow))
    blind = wall.fit(narrow, narrow @ TRUE * (energy_j / (seen @ TRUE)), network, np.ones(len(network), bool))
    busy = wall.amounts(np.array([1.0]), np.array([0.6]), np.array([100.0]))
    assert blind.deviation(busy)[0] > 3 * usual.deviation(busy)[0]


@given(st.integers(0, 10_000))
def test_no_cost_is_negative(seed: int) -> None:
    random = np.random.default_rng(seed)
    network = np.repeat(np.arange(3), 4)
    seen = random.uniform(0.1, 1, (12, 3))
    assert (wall.fit(seen, random.uniform(0.1, 1, 12), network, np.ones(12, bool)).costs >= 0).all()


def test_two_networks_are_too_few() -> None:
    seen, energy_j, network = runs(0, networks=2)
    with pytest.raises(ValueError, match="2 network"):
        wall.fit(seen, energy_j, network, np.ones(len(network), bool))


def write_irene(folder: Path, networks: str, seed: int) -> Path:
    """IrEne's layout, of a machine that obeys the law; a kernel of each network beside it."""
    random = np.random.default_rng(seed)
    header = "batch_size,seq_len,flops,mem_bytes,cpu,times_mean,gpu_energy_mean,energy_mean,level_name,model_name\n"
    kernels, wholes = [], []
    for network in networks:
        load, width = random.uniform(5, 60), random.uniform(0.5, 2)
        for batch in (8, 16, 32):
            time_s = batch * random.uniform(1e-3, 3e-3)
            joules = float(wall.amounts(*np.array([[time_s], [load / 100], [100 * time_s]]))[0] @ TRUE)
            row = f"{batch},32,{1e3 * width * batch},{3 * batch},{load},{{}},{{}},{{}},{{}},{network}"
            kernels += [
                row.format(time_s / 20, 5 * time_s, joules / 20, f"layer.{i}:Linear") for i in range(10)
            ]
            wholes.append(row.format(time_s, 100 * time_s, joules, network))
    folder.mkdir()
    (folder / "device_1_ml1.csv").write_text(header + "\n".join(kernels) + "\n")
    (folder / "device_1_model.csv").write_text(header + "\n".join(wholes) + "\n")
    return folder


def test_networks_are_predicted_from_readings_of_their_run_and_it_is_said(tmp_path: Path) -> None:
    train, test = write_irene(tmp_path / "train", "abcdef", 0), write_irene(tmp_path / "test", "xy", 1)
    done = CliRunner().invoke(
        command, ["evaluate", "--fit", str(train), "--test", str(test), "--json"], catch_exceptions=False
    )
    found = json.loads(done.stdout)
    assert set(found["families"]) == {"Linear", "network", "network (never run)"}
    assert found["families"]["network"]["mape"] < 0.01
    assert found["overall"]["n"] == 60 + 6
    assert "not from the wall meter" in " ".join(found["notes"])
