"""Benching: cold weights, robust times, energies off the meter, one device a data set."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from joulemeter import applications, bench, dataset, kernels, networks, timing
from joulemeter.conditions import Conditions
from joulemeter.errors import DatasetError, UsageError
from joulemeter.kernel import Kernel
from joulemeter.reading import Rail
from joulemeter.rig import rig
from joulemeter.timeline import Timeline
from joulemeter.timing import Call

torch = pytest.importorskip("torch")


class Machine:
    """A stage whose one rail draws 20 W whatever runs. The clock is the real one."""

    def __init__(self, origin: str = "simulated") -> None:
        self.rail = Rail(
            id=0, name="all", kind="counter", origin=origin, period_ns=1_000_000, relative_error=0.1
        )  # type: ignore[arg-type]
        self.start_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def rest(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.002))

    def work(self, call: Call, times: int) -> tuple[int, int]:
        start_ns = self.now_ns()
        for _ in range(times):
            call()
        return start_ns, self.now_ns()

    def rails(self) -> Sequence[Rail]:
        return [self.rail]

    def timelines(self) -> list[Timeline]:
        t = np.array([self.start_ns, time.monotonic_ns() + 10**9])
        return [Timeline(self.rail, t, (t - t[0]) * 20e-9, np.zeros(1, bool), (), 0)]

    def look(self) -> Conditions:
        return Conditions(0, 55.0, 0.0, 0.0, 7)


PLAN = bench.Plan(1.5, families=("relu", "global-avgpool"), models=None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "data"
    tally = bench.bench(folder, PLAN, Machine())
    assert tally.kernels >= 2
    return folder


def test_a_record_has_work_time_and_the_meters_power(built: Path) -> None:
    records = dataset.read(built).records
    for record in records:
        assert record.level == "kernel"
        assert record.origin == "simulated"
        assert record.power_w == pytest.approx(20, rel=1e-6)
        assert record.energy_j == pytest.approx(record.power_w * record.time_s)
        assert record.time_low_s <= record.time_s <= record.time_high_s
        assert record.energy_low_j < record.energy_j < record.energy_high_j
        assert record.flops == kernels.work(record.kernel).flops
        assert record.temperature_c == 55
        assert record.facts["least_time_s"] > 0


def test_a_second_bench_goes_on_and_repeats_nothing(built: Path) -> None:
    with pytest.raises(DatasetError, match="--resume"):
        bench.bench(built, PLAN, Machine())
    bench.bench(built, PLAN, Machine(), resume=True)
    keys = [record.key for record in dataset.read(built).records]
    assert len(keys) == len(set(keys))


def test_a_bench_that_is_killed_leaves_records_of_a_known_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``kill -9`` leaves: the state at a progress line, with nothing of what an interrupt still does."""
    seen: list[str] = []

    def look(*_: object) -> None:
        if dataset.is_dataset(tmp_path / "data"):
            seen.append(bench.read_device(tmp_path / "data")[0].fingerprint)

    monkeypatch.setattr("joulemeter.bench_log._FLUSH", 8)
    bench.bench(tmp_path / "data", PLAN, Machine(), progress=look)
    assert seen
    assert set(seen) == set(dataset.read(tmp_path / "data").devices)


def test_a_folder_of_something_else_is_refused_before_anything_is_timed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DatasetError, match=r"not a data set\. Try: a folder that is empty or new"):
        bench.bench(tmp_path, replace(PLAN, budget_s=1e9), Machine())


def test_a_window_is_priced_once_its_meter_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meter that is read three times a second: what has just been timed is not in its readings yet."""
    monkeypatch.setattr("joulemeter.bench_log._FLUSH", 2)

    class Slow(Machine):
        def rest(self, seconds: float) -> None:
            time.sleep(seconds)

        def timelines(self) -> list[Timeline]:
            t = np.arange(self.start_ns, time.monotonic_ns(), 3 * 10**8)
            return [Timeline(self.rail, t, (t - t[0]) * 20e-9, np.zeros(len(t) - 1, bool), (), 0)]

    bench.bench(tmp_path / "data", PLAN, Slow())
    assert all(record.energy_j > 0 for record in dataset.read(tmp_path / "data").records)


def test_what_was_timed_before_an_interrupt_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.bench(tmp_path / "data", PLAN, Machine(), progress=stop)
    kept = len(dataset.read(tmp_path / "data"))
    assert kept > 0
    assert list(dataset.read(tmp_path / "data").devices) == [
        bench.read_device(tmp_path / "data")[0].fingerprint
    ]
    assert (tmp_path / "data" / "card.json").is_file()
    bench.bench(tmp_path / "data", PLAN, Machine(), resume=True)
    assert len(dataset.read(tmp_path / "data")) > kept


def test_applications_are_a_third_level_of_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = applications.Application("speech recognition", "small", lambda: applications.speech(4000))
    monkeypatch.setattr(applications, "applications", lambda: (small,))
    monkeypatch.setattr(applications, "processors", lambda: {"CPU1": 1})
    plan = replace(PLAN, applications=True)
    assert bench.bench(tmp_path, plan, Machine()).applications == 1
    records = dataset.read(tmp_path).records
    assert {record.level for record in records} == {"kernel", "application"}
    assert len({record.device for record in records}) == 1
    assert bench.bench(tmp_path, plan, Machine(), resume=True).applications == 0
    with pytest.raises(UsageError, match="run on the CPU"):
        bench.bench(tmp_path / "gpu", replace(plan, device="cuda:0"), Machine())


def test_each_compiled_kernel_is_compiled_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch runs a function's ninth shape uncompiled, and its second one for shapes of any size."""
    made = []

    def backend(graph: torch.fx.GraphModule, inputs: list[object]) -> object:
        made.append([each.shape for each in inputs if isinstance(each, torch.Tensor)])
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for elements in range(100, 112):
        call = rig(Kernel("relu", {"elements": elements}), "torch-compile")
        assert call is not None
        call()
        call()
    assert made == [[(1, elements)] for elements in range(100, 112)]


def test_a_data_set_of_another_device_is_not_gone_on_with(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    dataset.append(folder, [replace(dataset.read(built).records[0], device="cpu-elsewhere")])
    with pytest.raises(DatasetError, match="of device cpu-elsewhere, this is"):
        bench.bench(folder, PLAN, Machine(), resume=True)


def test_the_device_and_its_fusion_lie_beside_the_records(built: Path) -> None:
    device, rules = bench.read_device(built)
    assert {record.device for record in dataset.read(built).records} == {device.fingerprint}
    assert rules == {"torch": []}
    (built / bench.DEVICE_FILE).write_text('{"device": 1}')
    with pytest.raises(DatasetError, match="cannot be read"):
        bench.read_device(built)


def test_unknown_families_networks_and_backends_are_refused(tmp_path: Path) -> None:
    for changed in ({"families": ("warp",)}, {"models": ("warpnet",)}, {"backends": ("warp",)}):
        with pytest.raises(UsageError, match="warp"):
            bench.bench(tmp_path / "x", replace(PLAN, **changed), Machine())


def test_a_network_is_recorded_with_the_kernels_it_is_made_of(tmp_path: Path) -> None:
    plan = bench.Plan(0.5, families=("relu",), models=("squeezenet",))
    bench.bench(tmp_path / "d", plan, Machine())
    (record,) = [r for r in dataset.read(tmp_path / "d").records if r.level == "model"][:1]
    made = [(Kernel.from_json(each), count) for each, count in record.facts["kernels"]]
    assert sum(kernels.work(kernel).flops * count for kernel, count in made) == pytest.approx(record.flops)
    assert record.family == "squeezenet"
    assert record.time_s > 0


def test_weights_take_turns_through_more_than_the_last_cache() -> None:
    """A loop over one set of weights would be warm, as no network is."""
    used = []
    kernel = Kernel("fc", {"rows": 1, "in_features": 64, "out_features": 64, "bias": 0})
    call = rig(kernel, cold_bytes=10 * 64 * 64 * 4)
    assert call is not None
    real = torch.nn.functional.linear

    def spy(x, w, b=None):
        used.append(w.data_ptr())
        return real(x, w, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", spy)
        fresh = rig(kernel, cold_bytes=10 * 64 * 64 * 4)
        assert fresh is not None
        for _ in range(20):
            fresh()
    assert len(set(used)) == 10
    assert used[:10] == used[10:]


def test_onnx_runtime_launches_what_it_has_and_says_none_otherwise() -> None:
    pytest.importorskip("onnxruntime")
    call = rig(Kernel("add-relu", {"elements": 10}), "onnxruntime")
    assert call is not None
    call()
    assert rig(Kernel("sgd", {"elements": 10}, direction="step"), "onnxruntime") is None
    with pytest.raises(UsageError, match="no backend 'abacus'"):
        rig(Kernel("relu", {"elements": 10}), "abacus")


def test_the_time_of_a_call_is_its_median_and_lies_in_its_interval() -> None:
    now = [0.0]
    noise = np.maximum(np.random.default_rng(0).normal(1, 0.2, 10_000), 0.1)
    spent = iter(noise * 1e-3)

    def call() -> None:
        now[0] += float(next(spent))

    timed = timing.repeat(call, 0.01, 0.05, clock=lambda: now[0])
    assert timed.low_s <= 1e-3 <= timed.high_s
    assert timed.time_s == pytest.approx(1e-3, rel=0.1)


def test_a_variant_is_always_the_same_and_variants_differ() -> None:
    def shapes(index: int) -> list[tuple[int, ...]]:
        module, _ = networks.variant("squeezenet", index).build()
        return [tuple(p.shape) for p in module.parameters()]

    assert shapes(3) == shapes(3)
    assert shapes(3) != shapes(4)


def test_the_nine_published_families_are_there() -> None:
    nine = "alexnet densenet googlenet mobilenetv1 mobilenetv2 proxylessnas resnet18 shufflenetv2 squeezenet"
    assert set(nine.split()) <= set(networks.kinds())
    assert networks.VARIANTS == 50
    with pytest.raises(UsageError, match="no network 'hal'"):
        networks.variant("hal", 0)


def test_an_energy_nobody_saw_is_not_a_number(tmp_path: Path) -> None:
    class Blind(Machine):
        def timelines(self) -> list[Timeline]:
            return []

    bench.bench(tmp_path / "d", bench.Plan(0.3, families=("relu",), models=None), Blind())
    assert all(math.isnan(record.energy_j) for record in dataset.read(tmp_path / "d").records)


def test_new_samples_go_where_the_interval_is_widest_not_where_an_error_was_large() -> None:
    from joulemeter.models.predictor import Estimates

    few = [Kernel("relu", {"elements": n}) for n in (1, 2, 3)]

    class Learnt:
        def predict(self, made: Sequence[Kernel], works: Sequence[object]) -> Estimates:
            value = np.array([1.0, 1.0, 1.0])
            return Estimates(
                value, np.array([0.9, 0.5, 0.8]), np.array([1.1, 2.0, 9.0 / 8]), value > 0, ((),) * 3
            )

    assert bench.widest(few, Learnt()) is few[1]  # type: ignore[arg-type]
