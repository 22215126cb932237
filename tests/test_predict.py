"""Prices of networks: sums with an overhead that networks teach, coverage that never hides a gap."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from joulemeter import dataset, graphs, host, kernels, layers, predictor_file, pricing
from joulemeter.cli.predict import command
from joulemeter.errors import DatasetError, GraphError, PredictorError
from joulemeter.kernel import Kernel, Work
from joulemeter.models import learning
from joulemeter.models.predictor import Estimates
from joulemeter.network import Network, Node
from joulemeter.predict import price, price_all, training_step
from joulemeter.pricing import Calibration, Pricing, calibrate
from joulemeter.record import Record

X = (1, 8, 14, 14)


@dataclass(frozen=True)
class Law:
    """A predictor that knows the truth: 1 µs a launch and 1 ns a byte, at 10 W. ``never`` has no price."""

    device: str = "cpu-law"
    backend: str = "torch"
    families: dict[str, Any] = field(default_factory=lambda: {"energy_j": {}, "time_s": {}})
    facts: dict[str, Any] = field(default_factory=dict)
    never: tuple[str, ...] = ()

    def predict(self, made: Sequence[Kernel], works: Sequence[Work], quantity: str = "energy_j") -> Estimates:
        time_s = np.array([1e-6 + 1e-9 * work.bytes for work in works])
        value = time_s * (10.0 if quantity == "energy_j" else 1.0)
        value[[kernel.family in self.never for kernel in made]] = np.nan
        return Estimates(value, value * 0.9, value * 1.1, np.ones(len(made), bool), ((),) * len(made))


def node(kernel: Kernel | None, name: str, moved: float = math.nan, module: str = "") -> Node:
    return Node(kernel, name, name, module, (), (name,), moved)


def network(*nodes: Node, name: str = "n") -> Network:
    return Network(name, "test", nodes)


CONV = layers.convolution(X, (8, 8, 3, 3), (1, 1), (1, 1), (1, 1))
RELU = layers.activation("relu", X)


def test_without_networks_a_network_is_the_sum_of_its_kernels() -> None:
    priced = price(
        network(node(CONV, "c", module="body.a"), node(RELU, "r", module="body.b")), Pricing(Law())
    )
    bytes_moved = kernels.work(CONV).bytes + kernels.work(RELU).bytes
    assert priced.time.value == pytest.approx(2e-6 + 1e-9 * bytes_moved)
    assert priced.energy.value == pytest.approx(10 * priced.time.value)
    assert priced.power.value == pytest.approx(10)
    assert priced.energy.low == pytest.approx(0.9 * priced.energy.value)
    assert (priced.flops_covered, priced.bytes_covered, priced.partial) == (1.0, 1.0, False)
    assert sum(row.energy_j for row in priced.kernels) == pytest.approx(priced.energy.value)
    assert {row.name for row in priced.modules} == {"body.a", "body.b"}


def test_what_has_no_price_is_named_and_lowers_the_coverage() -> None:
    moved = kernels.work(RELU).bytes
    odd = price(network(node(RELU, "r"), node(None, "odd", moved)), Pricing(Law()))
    assert odd.unpriced == {"odd": 1}
    assert odd.bytes_covered == pytest.approx(0.5)
    assert odd.flops_covered == pytest.approx(0.5)
    blind = price(network(node(RELU, "r"), node(None, "odd")), Pricing(Law()))
    assert 0 < blind.flops_covered < 1
    unknown = price(network(node(CONV, "c"), node(RELU, "r")), Pricing(Law(never=("conv",))))
    assert unknown.unpriced == {"conv": 1}
    assert unknown.flops_covered < 0.05


def test_a_network_of_nothing_known_has_no_energy_rather_than_none() -> None:
    priced = price(network(node(None, "odd", 10.0)), Pricing(Law()))
    assert math.isnan(priced.energy.value)
    assert priced.to_json()["energy_j"]["value"] is None
    assert priced.flops_covered == 0


def test_networks_teach_the_cost_of_a_launch_and_a_pass() -> None:
    """Truth: 1.1 × products + 0.9 × the rest + 5 µs a launch + 1 ms a pass + 30 ps a byte of weights again, three
    percent scatter.
    """
    rng = np.random.default_rng(0)
    table = np.column_stack(
        [
            rng.lognormal(-4, 1, 60), rng.lognormal(-6, 1, 60), rng.integers(30, 500, 60), np.ones(60),
            rng.lognormal(17, 1, 60),
        ]
    )  # fmt: skip
    target = table @ np.array([1.1, 0.9, 5e-6, 1e-3, 3e-11]) * rng.lognormal(0, 0.03, 60)
    found = calibrate(table, target, np.array([f"f{i % 12}" for i in range(60)]))
    assert np.allclose(found.total(table), target, rtol=0.15)
    assert found.costs[0] == pytest.approx(1.1, rel=0.05)
    assert found.spread < 0.12


def test_intervals_hold_for_families_of_networks_never_seen() -> None:
    """Each family of networks has an error of its own: leaving whole families out sees it."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(60):
        family = np.repeat(np.arange(16), 3)
        own = rng.normal(0, 0.06, 16)[family] + rng.normal(0, 0.02, 48)
        table = np.column_stack(
            [
                rng.lognormal(-4, 1, 48), rng.lognormal(-6, 1, 48), rng.integers(30, 300, 48), np.ones(48),
                np.zeros(48),
            ]
        )  # fmt: skip
        target = table @ np.array([1.0, 1.0, 4e-6, 1e-4, 0.0]) * np.exp(own)
        seen = family < 15
        found = calibrate(table[seen], target[seen], family[seen])
        error = np.abs(np.log(found.total(table[~seen]) / target[~seen]))
        inside += list(error <= found.spread)
    assert 0.85 <= np.mean(inside) <= 0.97


def record(name: str, family: str, composition: list[tuple[Kernel, int]], time_s: float) -> Record:
    facts = {"kernels": [[kernel.to_json(), count] for kernel, count in composition]}
    return Record(
        level="model",
        family=family,
        origin="estimated",
        network=name,
        time_s=time_s,
        energy_j=time_s * 10,
        facts=facts,
    )


def test_learning_reads_the_networks_of_a_data_set() -> None:
    law, records = Law(), []
    for i in range(8):
        made = [(layers.activation("relu", (1000 * (i + 1),)), 3 + i), (CONV, 1 + i % 3)]
        sum_s = sum((1e-6 + 1e-9 * kernels.work(kernel).bytes) * count for kernel, count in made)
        records.append(record(f"n{i}", f"f{i % 4}", made, sum_s + 2e-6 * sum(count for _, count in made)))
    found = pricing.learn(law, records)
    assert found.calibration("time_s").networks == 8
    priced = price(network(*[node(RELU, f"r{i}") for i in range(10)]), found)
    assert priced.overhead_s > 0
    assert priced.time.value == pytest.approx(10 * (3e-6 + 1e-9 * kernels.work(RELU).bytes), rel=0.1)


def test_time_around_kernels_takes_the_devices_idle_power() -> None:
    """Energies scatter, so that a free fit finds launches that cost time and no energy; the truth is 10 W."""
    law, records, rng = Law(), [], np.random.default_rng(5)
    for i in range(24):
        made = [(layers.activation("relu", (1000 * (i + 1),)), 3 + i), (CONV, 1 + i % 3)]
        sum_s = sum((1e-6 + 1e-9 * kernels.work(kernel).bytes) * count for kernel, count in made)
        time_s = sum_s + 2e-6 * sum(count for _, count in made)
        each = record(f"n{i}", f"f{i % 4}", made, time_s)
        kernels_alone_j = 10 * sum_s * float(rng.lognormal(0, 0.2))
        records.append(replace(each, energy_j=kernels_alone_j, idle_power_w=4.0))
    found = pricing.learn(law, records)
    time, energy = (np.array(found.calibration(name).costs)[2:] for name in ("time_s", "energy_j"))
    assert (energy >= 4.0 * time * (1 - 1e-9)).all()
    assert time.max() > 0
    idle_unknown = pricing.learn(law, [replace(each, idle_power_w=math.nan) for each in records])
    assert (np.array(idle_unknown.calibration("energy_j").costs)[2:] < energy - 1e-9).any()


def test_what_networks_taught_is_kept_with_the_predictor() -> None:
    from joulemeter.models.predictor import Predictor

    predictor = Predictor("d", "torch", "estimated", {"energy_j": {}}, {}, {})
    made = Pricing(
        predictor,
        {"time_s": Calibration((1.0, 0.9, 1e-6, 0.0, 2e-11), 0.1, 5, 2e-6)},
        (("conv", "relu", "conv-relu"),),
    )
    again = pricing.pricing_of(pricing.kept(made))
    assert again.calibrations == made.calibrations
    assert again.rules == made.rules
    older = pricing.kept(made).facts[pricing.FACT].replace(", 2e-11]", "]")
    for text in ("{", older):
        with pytest.raises(PredictorError, match="cannot be read"):
            pricing.pricing_of(replace(predictor, facts={pricing.FACT: text}))


def test_layers_of_one_shape_pay_for_weights_that_the_bench_kept_warm() -> None:
    """Three layers of one shape stand for one timed set of weights and two that come from memory."""
    fc = Kernel("fc", {"rows": 8, "in_features": 64, "out_features": 32, "bias": 0})
    again = 2 * 64 * 32 * 4
    assert pricing.amounts_of([(fc, 3.0)], np.array([1.0])) == (3.0, 0.0, 3.0, 1.0, again)
    assert pricing.amounts_of([(fc, 1.0)] * 3, np.ones(3))[4] == again
    assert pricing.amounts_of([(fc, 1.0), (CONV, 1.0)], np.ones(2))[4] == 0
    found = Pricing(Law(), {"time_s": Calibration((1.0, 1.0, 0.0, 0.0, 1e-9), 0.1, 9)})
    one, three = (price(network(*[node(fc, f"f{i}") for i in range(n)]), found).time.value for n in (1, 3))
    assert three == pytest.approx(3 * one + 1e-9 * again)


def test_a_training_step_has_the_backward_of_all_and_a_step_for_each_weight() -> None:
    step = training_step(network(node(CONV, "c"), node(layers.view(), "v"), node(None, "odd", 5.0)))
    families = [each.kernel and each.kernel.family for each in step.nodes]
    assert families == ["conv", "view", None, "conv-backward", "adam"]
    made = price(step, Pricing(Law()))
    assert sum(made.multiply_adds.values()) == 3 * kernels.multiply_adds(CONV)
    assert made.partial


def test_training_is_priced_in_train_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout and the batch's statistics are work of training alone; both go backward, no statistic is stepped."""
    code = """
import torch
def net():
    part = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.5), torch.nn.Dropout(0.0)
    return torch.nn.Sequential(*part), torch.rand(2, 3, 8, 8)
"""
    (tmp_path / "trained_net.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    families = {}
    for train in (False, True):
        read = graphs.read("trained_net:net", train=train)
        families[train] = [kernel.family for kernel in read.kernels if kernel.family not in ("view", "add")]
    assert families == {False: ["conv", "bn"], True: ["conv", "bn-train", "dropout"]}
    step = training_step(read)
    back = [kernel.family for kernel in step.kernels if kernel.direction == "backward"]
    assert back == ["dropout-backward", "bn-train-backward", "conv-backward"]
    assert [kernel.shape["elements"] for kernel in step.kernels if kernel.family == "adam"] == [216, 8, 8, 8]


def test_deployed_files_price_alike_whatever_stood_in_them() -> None:
    """From torch with a norm, a view and in-place relu; from ONNX folded already."""
    torch_like = network(
        Node(CONV, "conv", "c", "", ("x",), ("c",)),
        Node(layers.batch_norm(X), "bn", "b", "", ("c",), ("b",)),
        Node(layers.view(), "view", "v", "", ("b",), ("v",)),
        Node(layers.activation("relu", X, in_place=True), "relu_", "r", "", ("v",), ("r",)),
        name="m.pt2",
    )
    folded = layers.convolution(X, (8, 8, 3, 3), (1, 1), (1, 1), (1, 1), bias=True)
    onnx_like = network(
        Node(folded, "Conv", "c", "", ("x",), ("c",)),
        Node(RELU, "Relu", "r", "", ("c",), ("r",)),
        name="m.onnx",
    )
    a, b = price_all([torch_like, onnx_like], Pricing(Law()))
    assert a.energy.value == b.energy.value
    as_run = price(torch_like, Pricing(Law()), deployed=False)
    assert as_run.energy.value > a.energy.value


# ── a data set, a predictor's file and the commands ──────────────────────────────────────────────────


def synthetic(device: str = "cpu-toy") -> list[Record]:
    """Kernels of a machine of 1 ns a byte, 0.02 ns a FLOP and 2 µs a launch at 10 W, one percent scatter."""
    rng = np.random.default_rng(5)
    made = []
    for name in ("relu", "conv", "fc"):
        for _ in range(30):
            kernel = replace(kernels.family(name).sample(name, rng), batch=1)
            work = kernels.work(kernel)
            time_s = (2e-6 + 1e-9 * work.bytes + 2e-11 * work.flops) * rng.lognormal(0, 0.01)
            made.append(
                Record(
                    level="kernel", family=name, origin="estimated", device=device, backend="torch", shape=kernel.shape,
                    flops=work.flops, read_bytes=work.read_bytes, write_bytes=work.write_bytes, parameters=work.parameters,
                    time_s=time_s, energy_j=10 * time_s,
                )
            )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    dataset.append(folder / "data", synthetic())
    pytest.importorskip("sklearn")
    predictor_file.save(pricing.kept(pricing.opened(folder / "data")), folder / "toy.joules")
    return folder


@pytest.fixture
def net(tmp_path: Path) -> str:
    onnx = pytest.importorskip("onnx")
    helper = pytest.importorskip("onnx.helper")
    weights = [helper.make_tensor("w", 1, (8, 3, 3, 3), [0.1] * 216)]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    odd = [helper.make_node("Warp", ["y"], ["z"], domain="ours")]
    for name, extra, last in (("net", [], "y"), ("odd", odd, "z")):
        graph = helper.make_graph(
            nodes + extra, "g", [helper.make_tensor_value_info("x", 1, (1, 3, 32, 32))],
            [helper.make_tensor_value_info(last, 1, None)], weights,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        (tmp_path / f"{name}.onnx").write_bytes(made.SerializeToString())
    assert onnx
    return str(tmp_path / "net.onnx")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, list(arguments))


def test_the_command_prints_one_json_object(toy: Path, net: str) -> None:
    result = run(net, "--predictor", str(toy / "toy.joules"), "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["origin"] == "predicted"
    assert data["coverage"] == {"flops": 1.0, "bytes": 1.0}
    assert data["energy_j"]["low"] < data["energy_j"]["value"] < data["energy_j"]["high"]
    assert {row["name"] for row in data["kernels"]} == {"conv", "relu"}
    assert data["energy_j"]["value"] == pytest.approx(10 * data["time_s"]["value"], rel=0.2)


def test_a_partial_price_says_so_in_its_first_line(toy: Path, net: str) -> None:
    result = run(net.replace("net.onnx", "odd.onnx"), "--predictor", str(toy / "toy.joules"))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("PARTIAL: ")
    assert "1 × Warp" in result.output.splitlines()[0]
    assert not run(net, "--predictor", str(toy / "toy.joules")).output.startswith("PARTIAL")


def test_models_side_by_side(toy: Path, net: str) -> None:
    other = net.replace("net.onnx", "odd.onnx")
    assert run(net, other, "--predictor", str(toy / "toy.joules")).exit_code != 0
    result = run(net, other, "--compare", "--predictor", str(toy / "toy.joules"), "--json")
    assert [each["partial"] for each in json.loads(result.output)["models"]] == [False, True]


def test_a_predictor_of_another_device_is_refused_where_this_one_is_asked_for(toy: Path, net: str) -> None:
    result = run(net, "--predictor", str(toy / "toy.joules"), "--device", "cpu")
    assert isinstance(result.exception, PredictorError)
    assert "cpu-toy, not of this machine's cpu" in str(result.exception)


def test_a_predictor_of_another_device_is_warned_of(
    toy: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(net, "--predictor", str(toy / "toy.joules"), "--json")
    assert json.loads(result.output)["warnings"][0].startswith(
        "the predictor is of cpu-toy, which is not in this"
    )
    both = CliRunner().invoke(command, [net, net, "--compare", "--predictor", str(toy / "toy.joules")])
    assert both.stderr.count("cpu-toy, which is not in this machine") == 2
    monkeypatch.setattr(host, "device", lambda *_, **__: SimpleNamespace(fingerprint="cpu-toy"))
    result = run(net, "--predictor", str(toy / "toy.joules"), "--json")
    assert not any("not in this machine" in each for each in json.loads(result.output)["warnings"])


def test_a_size_beyond_any_memory_is_refused(toy: Path) -> None:
    with pytest.raises(GraphError, match=r"n: 'r' moves 8.0e\+27 bytes, more than any memory"):
        price(network(node(layers.activation("relu", (10**9,) * 3), "r")), pricing.opened(toy / "toy.joules"))


def test_a_data_set_of_two_devices_makes_no_predictor(tmp_path: Path) -> None:
    dataset.append(tmp_path / "two", synthetic()[:40] + synthetic("cpu-other")[:40])
    with pytest.raises(DatasetError, match="2 devices"):
        pricing.opened(tmp_path / "two")


def test_a_backend_never_benched_is_refused(toy: Path) -> None:
    with pytest.raises(PredictorError, match="'onnxruntime'"):
        pricing.opened(toy / "data", "onnxruntime")
    with pytest.raises(PredictorError, match="not 'onnxruntime'"):
        pricing.opened(toy / "toy.joules", "onnxruntime")


def test_a_shape_that_is_none_is_a_usage_error(toy: Path, net: str) -> None:
    result = run(net, "--predictor", str(toy / "toy.joules"), "--input", "a,b")
    assert "not a shape" in str(result.exception)


def test_what_lies_outside_the_training_domain_is_said(toy: Path) -> None:
    huge = layers.activation("relu", (10**12,))
    priced = price(network(node(huge, "r")), pricing.opened(toy / "toy.joules"))
    assert any("outside what was measured" in each for each in priced.warnings)
    strange = price(
        network(node(Kernel("lstm", {"steps": 5, "in_features": 8, "hidden": 8}), "l")),
        pricing.opened(toy / "toy.joules"),
    )
    assert any("never measured" in each and "lstm" in each for each in strange.warnings)


def test_a_view_costs_what_views_were_measured_to_cost() -> None:
    views = [
        Record(level="kernel", family="view", origin="estimated", time_s=t, energy_j=10 * t)
        for t in (1e-6, 2e-6, 9e-6)
    ]
    nets = [record(f"n{i}", f"f{i % 4}", [(RELU, 1 + i), (CONV, 2)], 1e-4 * (1 + i)) for i in range(6)]
    found = pricing.learn(Law(), [*views, *nets])
    assert found.calibration("time_s").view == 2e-6
    priced = price(network(node(layers.view(), "v"), node(RELU, "r")), found)
    assert next(row for row in priced.kernels if row.name == "view").time_s == pytest.approx(2e-6)


def test_a_data_set_without_networks_makes_a_predictor_that_can_be_asked(tmp_path) -> None:
    """What learning counts and what networks taught are facts under different names."""
    made = [
        Record(level="kernel", family="relu", origin="measured", device="d", backend="torch", shape={"elements": n},
               flops=float(n), read_bytes=4.0 * n, write_bytes=4.0 * n, energy_j=1e-9 * n, time_s=1e-9 * n)
        for n in range(1000, 9000, 200)
    ]  # fmt: skip
    dataset.append(tmp_path / "d", made)
    fitted = pricing.with_networks(learning.fit(made), tmp_path / "d", made)
    place = predictor_file.save(fitted, tmp_path / "p.joules")
    assert pricing.opened(place).calibrations == {}


def test_a_model_that_is_not_there_is_named_before_the_predictor_is_asked_for() -> None:
    with pytest.raises(GraphError, match=r"nosuch\.onnx"):
        CliRunner().invoke(command, ["nosuch.onnx"], catch_exceptions=False)
