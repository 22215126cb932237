"""`joulemeter model` from the shell: fit, show, predict, evaluate, advise and plot."""

import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from energy_world import runs, true_energy, write_csv
from joulemeter import energy_advice, energy_model
from joulemeter.cli.model import command
from joulemeter.errors import DatasetError, PredictorError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs to fit to, runs to test on, and a fitted model."""
    made = tmp_path_factory.mktemp("model")
    write_csv(made / "train.csv", runs(120, seed=1))
    write_csv(made / "test.csv", runs(60, seed=2))
    run("fit", made / "train.csv", "-o", made / "model.json", "--bootstrap", 5)
    return made


def run(*arguments):
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments):
    with pytest.raises((DatasetError, PredictorError, UsageError)) as caught:
        CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    return str(caught.value)


def test_evaluate_prints_the_promised_object(folder):
    found = json.loads(
        run("evaluate", "--fit", folder / "train.csv", "--test", folder / "test.csv", "--json")
    )
    assert set(found["devices"]) == {"cpu"}
    cpu = found["devices"]["cpu"]
    assert cpu["n"] == 60
    assert 0 < cpu["median_ape"] < cpu["mape"] < 0.1
    assert 0.75 < cpu["coverage_90"] <= 1


def test_evaluate_prints_a_table_for_people(folder):
    text = run("evaluate", "--fit", folder / "train.csv", "--test", folder / "test.csv")
    assert text.splitlines()[0].split() == ["device", "runs", "mean", "error", "median", "within", "90", "%"]
    assert text.splitlines()[1].startswith("cpu")


def test_show_names_each_cost_with_its_unit_and_interval(folder):
    text = run("show", folder / "model.json")
    assert "per FLOP" in text
    assert "DRAM" in text
    data = json.loads(run("show", folder / "model.json", "--json"))
    for cost in data["devices"]["cpu"]["costs"]:
        assert 0 <= cost["low"] <= cost["cost"] <= cost["high"]


ASKED = ("--dataset", "adult", "--params", 200_000, "--depth", 12)


def test_predict_is_near_the_truth_and_says_its_interval(folder):
    found = json.loads(run("predict", "-m", folder / "model.json", *ASKED, "--json"))
    truth = true_energy([energy_advice.training_of("adult", size=200_000, depth=12)])[0]
    low, value, high = found["energy_j"]
    assert low < value < high
    assert value == pytest.approx(truth, rel=0.15)
    assert found["origin"] == "predicted"


def test_advise_names_cheaper_networks_of_the_same_size(folder):
    found = json.loads(run("advise", "-m", folder / "model.json", *ASKED, "--json"))
    assert found["places"][0]["held_bytes"] >= found["places"][-1]["held_bytes"]
    assert {place["level"] for place in found["places"]} <= {"L1", "L2", "L3", "DRAM"}
    energies = [each["cost"]["energy_j"][1] for each in found["same_size"]]
    assert 0 < len(energies) <= 5
    for each in found["same_size"]:
        low, value, high = each["saving"]
        assert low < value < high
        assert value > 0
        parameters = each["training"]["widths"]
        assert parameters[-1] == 1
    text = run("advise", "-m", folder / "model.json", *ASKED)
    assert "working sets" in text
    assert "% less" in text


def losses(folder):
    """Two runs that reach one loss, the second for a tenth of the energy; and a worse one for less still."""
    base = {"device": "cpu", "dataset": "adult", "shape": "rectangle", "size": 4096, "status": "done"}
    rows = [
        {**base, "depth": 4, "energy_j": 100.0, "time_s": 1.0, "test_loss": 0.50},
        {**base, "depth": 3, "energy_j": 10.0, "time_s": 0.1, "test_loss": 0.505},
        {**base, "depth": 2, "energy_j": 1.0, "time_s": 0.01, "test_loss": 0.9},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "losses.parquet")
    return folder / "losses.parquet"


def test_advise_compares_runs_of_the_same_loss(folder):
    asked = ("--dataset", "adult", "--params", 4096, "--depth", 4, "--runs", losses(folder))
    found = json.loads(run("advise", "-m", folder / "model.json", *asked, "--json"))
    assert [each["cost"]["energy_j"][1] for each in found["same_loss"]] == [10.0]
    assert found["same_loss"][0]["saving"][1] == pytest.approx(0.9)
    assert found["same_loss"][0]["measured"]


def test_plots_are_drawn_with_the_caches_marked(folder):
    paths = run("plot", folder / "test.csv", "-m", folder / "model.json", "-o", folder / "plots").split()
    assert {path.rsplit("/", 1)[1] for path in paths} == {
        "cost-cpu.png", "cost-cpu.svg", "error-cpu.png", "error-cpu.svg",
    }  # fmt: skip
    assert (folder / "plots" / "cost-cpu.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "plots" / "cost-cpu.svg").read_text()


def test_the_pareto_front_keeps_what_nothing_beats():
    import numpy as np

    from joulemeter.energy_plots import pareto

    energy, loss = np.array([4.0, 1.0, 2.0, 3.0, 2.0]), np.array([1.0, 4.0, 2.0, 3.0, 2.5])
    assert pareto(energy, loss).tolist() == [1, 2, 0]


def test_faults_say_the_remedy(folder):
    model = folder / "model.json"
    assert "--force" in refused("fit", folder / "train.csv", "-o", model)
    assert "not known" in refused(
        "predict", "-m", model, "--dataset", "unheard", "--params", 99, "--depth", 3
    )
    assert "--network" in refused("predict", "-m", model)
    assert "--device" in refused("predict", "-m", model, *ASKED, "--device", "gpu")
    assert "model fit" in refused("show", folder / "none.json")
    assert "%" in refused("predict", "-m", model, "--dataset", "mnist", "--params", 32, "--depth", 20)


def test_a_data_set_of_ones_own_needs_its_three_facts(folder):
    own = ("--dataset", "mine", "--rows", 900, "--inputs", 7, "--outputs", 2, "--params", 5000, "--depth", 3)
    found = json.loads(run("predict", "-m", folder / "model.json", *own, "--json"))
    assert found["energy_j"][1] > 0


def test_a_network_file_of_dense_layers_is_priced_and_others_are_refused(folder):
    onnx = pytest.importorskip("onnx")
    import numpy as np

    def saved(name, operator, weights):
        tensors = [
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), f"w{k}")
            for k, shape in enumerate(weights)
        ]
        node = onnx.helper.make_node(operator, ["x", *[t.name for t in tensors]], ["y"])
        rank = 2 if operator == "Gemm" else 4
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("x", [1, 8, 9, 9][:rank]), ("y", None))
        ]
        graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], tensors)
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / name
        )
        return folder / name

    dense = saved("dense.onnx", "Gemm", [(8, 3), (3,)])
    asked = ("--network", dense, "--rows", 1000)
    found = json.loads(run("advise", "-m", folder / "model.json", *asked, "--json"))
    assert found["training"]["widths"] == [3]
    assert found["training"]["inputs"] == 8
    conv = saved("conv.onnx", "Conv", [(4, 8, 3, 3), (4,)])
    assert "conv" in refused("predict", "-m", folder / "model.json", "--network", conv, "--rows", 1000)
    assert "--rows" in refused("predict", "-m", folder / "model.json", "--network", dense)


def test_devices_of_the_test_without_a_model_are_counted(folder):
    both = runs(30, seed=4)
    write_csv(folder / "gpu.csv", runs(30, seed=4, device="gpu"))
    fitted = energy_model.fit(both, {"cpu": tuple(energy_model.load(folder / "model.json").of("cpu").levels)})
    with pytest.raises(PredictorError, match="gpu"):
        energy_model.evaluate(fitted, runs(5, device="gpu"))


def test_a_foreseen_fault_is_one_line_and_its_exit_status(tmp_path):
    line = [sys.executable, "-m", "joulemeter", "model", "show", str(tmp_path / "none.json")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == PredictorError.exit_status
    assert done.stderr.startswith("joulemeter: ")
    assert "Traceback" not in done.stderr
