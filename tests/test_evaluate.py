"""`joulemeter fit`, `evaluate` and `dataset` as a user meets them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from joulemeter.cli import command
from joulemeter.errors import DatasetError, UsageError

METRICS = {
    "n",
    "mape",
    "median_ape",
    "rmspe",
    "within_5",
    "within_10",
    "within_15",
    "coverage_90",
    "energy_weighted_mape",
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def write_table(path: Path, seed: int, rows: int = 40) -> Path:
    """Convolutions and relus in the published columns, from a simple law with 1 % noise."""
    random = np.random.default_rng(seed)
    lines = ["id,kernel,HW,CIN,COUT,KERNEL_SIZE,STRIDES,shapes,energy_mJ,latency_ms,power_mW"]
    for i in range(rows):
        size, c_in, c_out = (int(v) for v in (random.choice([7, 14, 28]), *random.integers(16, 256, 2)))
        conv = i % 3 != 0
        cost = 1e-7 * size**2 * c_in * c_out + 0.01 if conv else 2e-6 * size**2 * c_in + 0.01
        energy = cost * float(np.exp(0.01 * random.normal()))
        kind = (
            f"conv-bn-relu,{size},{c_in},{c_out},1,1,"
            if conv
            else f'relu,{size},{c_in},,,,"[[{size}, {size}, {c_in}]]"'
        )
        lines.append(f"K{seed}{i},{kind},{energy:.4f},{energy / 2:.4f},2000")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluate")
    train, test = write_table(folder / "train.csv", 0, 90), write_table(folder / "test.csv", 1)
    with test.open("a") as file:
        file.write(
            'X1,hswish,7,10,,,,"[[7, 7, 10]]",0.012,0.006,2000\nX2,relu,7,10,,,,"[[7, 7, 10]]",,0.006,2000\n'
        )
    result = run("evaluate", "--fit", train, "--test", test, "--json")
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_json_has_every_metric_of_every_family_as_fractions(evaluated: dict[str, Any]) -> None:
    assert set(evaluated["families"]) == {"conv-bn-relu", "relu", "hswish"}
    for each in (*evaluated["families"].values(), evaluated["overall"]):
        assert set(each) >= METRICS
        assert all(
            each[name] is None or 0 <= each[name] <= 1
            for name in METRICS
            if name.startswith(("within", "cov"))
        )
    assert evaluated["overall"]["n"] == 41
    assert evaluated["families"]["conv-bn-relu"]["mape"] < 0.05


def test_what_was_left_out_or_never_learnt_is_said(evaluated: dict[str, Any]) -> None:
    said = " ".join(evaluated["notes"])
    assert "hswish" in said
    assert "1 row(s) of relu: no energy above zero" in said


def test_whole_networks_are_foreseen_from_kernels_and_overhead(tmp_path: Path) -> None:
    """Networks of 10 to 40 layers; the whole is 1.2 × the sum plus 0.1 J, as the overhead must find."""
    random = np.random.default_rng(0)
    header = "batch_size,seq_len,flops,mem_bytes,times_mean,energy_mean,level_name,model_name\n"
    for name, networks in (("train", "abcde"), ("test", "xy")):
        folder = tmp_path / name
        folder.mkdir()
        kernels, wholes = [], []
        for network in networks:
            layers, width = int(random.integers(10, 40)), float(random.uniform(0.5, 2))
            for batch in (8, 16, 32):
                flops, mem = 1000 * width * batch, 3.0 * batch
                joules = 1e-4 * flops + 1e-3
                kernels += [
                    f"{batch},32,{flops},{mem},0.001,{joules},layer.{i}:Linear,{network}"
                    for i in range(layers)
                ]
                wholes.append(
                    f"{batch},32,{layers * flops},{layers * mem},0.1,{1.2 * layers * joules + 0.1},{network},{network}"
                )
        (folder / "device_1_ml1.csv").write_text(header + "\n".join(kernels) + "\n")
        (folder / "device_1_model.csv").write_text(header + "\n".join(wholes) + "\n")
    result = run("evaluate", "--fit", tmp_path / "train", "--test", tmp_path / "test", "--json")
    found = json.loads(result.stdout)
    assert set(found["families"]) == {"Linear", "network"}
    assert found["families"]["network"]["n"] == 6
    assert found["families"]["network"]["mape"] < 0.03


def test_kernels_of_impossible_power_are_left_out_of_learning_and_testing_and_named(tmp_path: Path) -> None:
    """The published concat of 2,141 W costs a thousand times its neighbours: it may neither teach nor judge."""
    table = write_table(tmp_path / "train.csv", 0)
    with table.open("a") as file:
        file.write('JAWP59,relu,7,10,,,,"[[7, 7, 10]]",42.826,0.02,2141300\n')
    found = json.loads(run("evaluate", "--fit", table, "--test", table, "--json").stdout)
    assert found["overall"]["n"] == 40
    assert "relu JAWP59" in " ".join(found["notes"])


def test_a_fit_is_stored_with_its_card_and_not_overwritten(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.csv", 0)
    result = run("fit", table, "-o", tmp_path / "p.joules", "--json")
    card = json.loads(result.stdout)["card"]
    assert set(card["conv-bn-relu"]) >= METRICS
    with pytest.raises(UsageError, match="--force"):
        run("fit", table, "-o", tmp_path / "p.joules")


def test_a_table_is_printed_for_people(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.csv", 0)
    result = run("evaluate", "--fit", table, "--test", table)
    assert "conv-bn-relu" in result.stdout
    assert "\x1b" not in result.output


def test_nothing_to_test_on_is_a_clear_line(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.csv", 0)
    empty = tmp_path / "empty.csv"
    empty.write_text("id,HW,CIN,COUT,KERNEL_SIZE,STRIDES,energy_mJ\n")
    with pytest.raises(DatasetError, match="no kernel and no network"):
        run("evaluate", "--fit", table, "--test", empty)
    with pytest.raises(DatasetError, match="the most is 2"):
        run("evaluate", "--fit", write_table(tmp_path / "few.csv", 0, 3), "--test", table)
    with pytest.raises(DatasetError, match="nothing to learn"):
        run("evaluate", "--fit", empty, "--test", table)


def test_an_imported_data_set_is_the_published_one_and_can_be_checked(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.csv", 0)
    assert run("dataset", "import", table, "-o", tmp_path / "d").exit_code == 0
    assert (tmp_path / "d" / "card.json").is_file()
    found = json.loads(run("dataset", "check", tmp_path / "d", "--json", "--no-fit").stdout)
    assert found["records"] == 40
    assert run("dataset", "compact", tmp_path / "d").exit_code == 0
    assert run("dataset", "card", tmp_path / "d").exit_code == 0
    with pytest.raises(DatasetError, match="already"):
        run("dataset", "import", table, "-o", tmp_path / "d")
