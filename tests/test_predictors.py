"""Regressors against their definitions, and predictors that keep their promises once stored."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from joulemeter import predictor_file
from joulemeter.errors import DatasetError, PredictorError
from joulemeter.kernel import Kernel, Work
from joulemeter.models import conformal, features, gaussian, learning, overhead, regression, trees
from joulemeter.record import Record


def sample(n: int = 60, d: int = 3, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    return x, np.sin(x[:, 0]) + 0.5 * x[:, 1] + 0.05 * random.normal(size=n)


def kernels(count: int = 40, device: str = "d", seed: int = 0) -> list[Record]:
    """Convolutions whose energy is a launch, FLOPs and bytes, with 2 % noise; relus by bytes."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        size, c_in, c_out = (
            int(v) for v in random.choice([7, 14, 28, 56], 1).tolist() + random.integers(8, 256, 2).tolist()
        )
        flops, moved = 2.0 * size * size * c_in * c_out, 4.0 * (size * size * (c_in + c_out) + c_in * c_out)
        joules = (1e-5 + 5e-11 * flops + 1e-9 * moved) * float(np.exp(0.02 * random.normal()))
        shape = {"height": size, "width": size, "in_channels": c_in, "out_channels": c_out}
        made.append(Record(level="kernel", family="conv", origin="simulated", device=device, shape=shape,
                           flops=flops, read_bytes=moved, write_bytes=0.0, parameters=1.0 * c_in * c_out,
                           energy_j=joules, time_s=joules / 2, power_w=2.0))  # fmt: skip
    for _ in range(count // 2):
        elements = int(random.integers(1000, 1_000_000))
        joules = (1e-5 + 8e-9 * elements) * float(np.exp(0.02 * random.normal()))
        made.append(Record(level="kernel", family="relu", origin="simulated", device=device,
                           shape={"elements": elements}, flops=float(elements), read_bytes=4.0 * elements,
                           write_bytes=4.0 * elements, parameters=0.0, energy_j=joules, time_s=joules / 2))  # fmt: skip
    return made


@pytest.fixture(scope="module")
def predictor() -> learning.Predictor:
    return learning.fit(kernels())


def test_the_gradient_of_the_marginal_likelihood_is_its_finite_difference() -> None:
    x, y = sample()
    at = np.random.default_rng(1).normal(size=x.shape[1] + 3) * 0.3 - 0.5
    _, gradient = gaussian._negative_posterior(at, x, y, np.full(len(y), 0.01))
    for i in range(len(at)):
        step = np.zeros(len(at))
        step[i] = 1e-5
        up, down = (
            gaussian._negative_posterior(at + s * step, x, y, np.full(len(y), 0.01))[0] for s in (1, -1)
        )
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_the_process_predicts_what_scikit_learn_predicts_with_the_same_kernel() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    x, y = sample()
    made = gaussian.fit(x, y, robust=0)
    h = made.hyper
    kernel = (
        ConstantKernel(np.exp(h.amplitude)) * Matern(np.exp(h.lengths), nu=2.5)
        + ConstantKernel(np.exp(h.linear)) * DotProduct(1.0)
        + WhiteKernel(np.exp(h.noise))
    )
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=1e-8).fit(made.inputs, made.target)
    new = sample(20, seed=5)[0]
    mean, deviation = theirs.predict((new - made.centre) / made.spread, return_std=True)
    ours, variance = made.predict(new)
    assert np.allclose(ours, made.offset + made.unit * mean, rtol=1e-6, atol=1e-8)
    assert np.allclose(np.sqrt(variance), made.unit * deviation, rtol=1e-4)


def test_leaving_one_out_in_closed_form_is_leaving_one_out() -> None:
    x, y = sample(25)
    made = gaussian.fit(x, y)
    mean, variance = made.leave_one_out()
    held = np.zeros(25, bool)
    held[7] = True
    direct_mean, _ = made.without(held).predict(x[7:8])
    assert mean[7] == pytest.approx(direct_mean[0], abs=1e-8)
    assert (variance > 0).all()


def test_a_wrong_row_pulls_a_robust_process_less() -> None:
    x = np.linspace(-2, 2, 41)[:, None]
    y = x[:, 0].copy()
    y[20] += 3.0
    errors = [abs(gaussian.fit(x, y, robust=r).predict(np.array([[0.05]]))[0][0] - 0.05) for r in (0, 1)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", ["forest", "boosted"])
def test_trees_as_arrays_predict_exactly_what_scikit_learn_predicts(kind: str) -> None:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

    x, y = sample(80)
    new = sample(50, seed=9)[0]
    if kind == "forest":
        ours = trees.forest(x, y, 3, n_estimators=20)
        theirs = RandomForestRegressor(n_estimators=20, min_samples_leaf=1, random_state=3).fit(x, y)
    else:
        options = {"n_estimators": 30, "max_depth": 4, "learning_rate": 0.08, "subsample": 0.7}
        ours = trees.boosted(x, y, 3, **options)
        theirs = GradientBoostingRegressor(random_state=3, **options).fit(x, y)
    assert np.allclose(ours.predict(new), theirs.predict(new), rtol=1e-12, atol=1e-12)


def test_conformal_intervals_hold_at_their_rate_whatever_the_noise() -> None:
    """Simulation: new residuals of a skewed law fall inside in 90 % of cases, over many calibrations."""
    random = np.random.default_rng(0)
    held = [
        (np.abs(random.exponential(size=200)) <= conformal.quantile(random.exponential(size=50))).mean()
        for _ in range(200)
    ]
    assert 0.885 <= np.mean(held) <= 0.93


def test_small_groups_share_a_calibration_and_large_ones_have_their_own() -> None:
    scores = {"a": np.arange(100.0), "b": np.array([1.0]), "c": np.array([5.0])}
    factors = conformal.calibrated(scores)
    assert factors["a"] == 90.0
    assert factors["b"] == factors["c"] == 5.0


def test_the_overhead_finds_the_costs_it_was_made_with() -> None:
    random = np.random.default_rng(0)
    amounts = np.stack(
        [random.uniform(1, 9, 30), random.uniform(0, 1e9, 30), random.integers(5, 90, 30), np.ones(30)], 1
    )
    costs = np.array([1.1, 2e-9, 0.01, 0.2])
    made, held_out = overhead.fit(amounts, amounts @ costs, np.arange(30) % 5)
    assert np.allclose(made.costs, costs, rtol=1e-6)
    assert np.allclose(held_out, amounts @ costs)


def test_a_product_in_tiles_and_a_convolution_as_a_product() -> None:
    kernel = Kernel("conv", {"height": 9, "width": 9, "in_channels": 6, "out_channels": 10, "kernel_height": 3,
                             "kernel_width": 3, "stride_height": 2, "stride_width": 2})  # fmt: skip
    assert features.dimensions_of_product(kernel) == (25, 10, 54)
    described = features.describe(kernel, Work(1, 2, 3, 4))
    assert described["log tiles"] == pytest.approx(np.log(32 * 16 * 54))
    wide = Kernel("conv", {**kernel.shape, "height": 28, "width": 28, "in_channels": 64, "out_channels": 64,
                           "stride_height": 1, "stride_width": 1})  # fmt: skip
    assert features.describe(wide, Work(1, 2, 3))["winograd"] == 1.0


def test_a_predictor_foresees_new_kernels_within_its_intervals(predictor: learning.Predictor) -> None:
    new = kernels(60, seed=1)
    made = predictor.predict([r.kernel for r in new], [r.work for r in new])
    true = np.array([r.energy_j for r in new])
    assert np.median(np.abs(made.value / true - 1)) < 0.06
    assert ((made.low <= true) & (true <= made.high)).mean() > 0.75
    assert made.own.all()
    time = predictor.predict([r.kernel for r in new], [r.work for r in new], "time_s")
    assert np.median(np.abs(time.value / (true / 2) - 1)) < 0.06


def test_no_price_is_below_the_physical_bound(predictor: learning.Predictor) -> None:
    """A kernel far outside the domain costs at least half the least ever paid for its FLOPs."""
    huge = Kernel("conv", {"height": 7, "width": 7, "in_channels": 1, "out_channels": 1})
    made = predictor.predict([huge], [Work(1e15, 10.0, 10.0)])
    assert made.low[0] >= 0.5 * predictor.least["energy_j"][1] * 1e15 > 0
    assert made.outside[0]


def test_a_family_never_measured_is_priced_by_the_pool_and_said_so(predictor: learning.Predictor) -> None:
    made = predictor.predict([Kernel("gelu", {"elements": 5000})], [Work(5e3, 2e4, 2e4)])
    assert not made.own[0]
    assert made.value[0] > 0


def test_two_devices_or_no_kernel_are_a_clear_line() -> None:
    with pytest.raises(DatasetError, match="2 devices"):
        learning.fit(kernels(10) + kernels(10, device="e"))
    with pytest.raises(DatasetError, match="no kernel"):
        learning.fit([])


def test_held_out_folds_keep_a_configuration_together() -> None:
    folds = regression.folded(np.array([3, 3, 1, 1, 2, 2, 9, 9, 4, 4]))
    assert (folds[::2] == folds[1::2]).all()
    assert len(set(folds.tolist())) == 5


def test_a_stored_predictor_says_exactly_the_same(predictor: learning.Predictor, tmp_path: Path) -> None:
    new = kernels(20, seed=2)
    path = predictor_file.save(predictor, tmp_path / "p.joules")
    loaded = predictor_file.load(path)
    a, b = (p.predict([r.kernel for r in new], [r.work for r in new]) for p in (predictor, loaded))
    assert np.array_equal(a.value, b.value)
    assert np.array_equal(a.low, b.low)
    assert loaded.card["overall"] == predictor.card["overall"]


def _rewritten(path: Path, tree: bytes | None = None, arrays: bytes | None = None) -> Path:
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["predictor.json"] = tree if tree is not None else parts["predictor.json"]
    parts["arrays.npz"] = arrays if arrays is not None else parts["arrays.npz"]
    other = path.with_name(f"hostile-{hash((tree, arrays))}")
    with zipfile.ZipFile(other, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return other


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_hostile_files_are_refused_and_run_nothing(predictor: learning.Predictor, tmp_path: Path) -> None:
    path = predictor_file.save(predictor, tmp_path / "p.joules")
    pickled = io.BytesIO()
    np.savez(pickled, overhead=np.array([_Bomb()], object), allow_pickle=True)
    tree = json.loads(zipfile.ZipFile(path).read("predictor.json"))
    wrong = {**tree, "families": {"energy_j": {"conv": {"factor": 1.0, "members": [{}]}}}}
    for hostile in (
        _rewritten(path, arrays=pickled.getvalue()),
        _rewritten(path, tree=b"{" * 10),
        _rewritten(path, tree=b"[" * 100_000),
        _rewritten(path, tree=json.dumps(wrong).encode()),
        _rewritten(path, tree=json.dumps({**tree, "schema": 99}).encode()),
    ):
        with pytest.raises(PredictorError):
            predictor_file.load(hostile)
    (tmp_path / "torn").write_bytes(path.read_bytes()[:1000])
    for name in ("torn", "missing"):
        with pytest.raises(PredictorError):
            predictor_file.load(tmp_path / name)


def test_a_tree_that_leads_in_circles_ends() -> None:
    looped = trees.Trees(
        0.0, 1.0, np.array([0]), np.array([0, 0]), np.zeros(2), np.array([1, 0]), np.array([1, 0]), np.ones(2)
    )
    assert np.isfinite(looped.predict(np.zeros((3, 1)))).all()
