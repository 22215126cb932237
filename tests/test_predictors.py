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


def test_bytes_beyond_a_cache_are_counted_from_its_edge() -> None:
    described = [features.describe(Kernel("relu", {"elements": 1}), Work(1.0, 3 * 2.0**20, 3 * 2.0**20))]
    amounts = dict(zip(features.TERMS, features.terms(described)[0], strict=True))
    assert amounts["launch"] == 1.0
    assert amounts["bytes"] == pytest.approx(6 * 2.0**20)
    assert amounts["beyond 1 MiB"] == pytest.approx(5 * 2.0**20)
    assert amounts["beyond 4 MiB"] == pytest.approx(2 * 2.0**20)
    assert amounts["beyond 16 MiB"] == amounts["tiles"] == 0.0


def test_the_ground_finds_where_bytes_leave_the_cache_and_goes_on_beyond_what_was_seen() -> None:
    """1 nJ a byte within 4 MiB, 3 beyond: ten times beyond the largest seen, the sum is still right."""
    moved = np.geomspace(1e3, 1e8, 30)
    joules = 1e-6 + 1e-9 * moved + 2e-9 * np.maximum(moved - 4 * 2**20, 0)
    described = [features.describe(Kernel("relu", {"elements": int(b)}), Work(0.0, b, 0.0)) for b in moved]
    costs = regression.priced(described, np.log(joules))
    far = [features.describe(Kernel("relu", {"elements": 1}), Work(0.0, 1e9, 0.0))]
    expected = 1e-6 + 1.0 + 2e-9 * (1e9 - 4 * 2**20)
    assert np.exp(regression.ground(costs, far))[0] == pytest.approx(expected, rel=1e-3)


def test_tiles_are_fetched_from_beyond_a_cache_by_the_share_of_the_operand_it_does_not_hold() -> None:
    shape = {"rows": 64, "in_features": 1024, "out_features": 64}
    described = [features.describe(Kernel("fc", shape), Work(1.0, 2.0, 3.0))]
    amounts = dict(zip(features.TERMS, features.terms(described)[0], strict=True))
    # Either operand is 64 × 1024 × 4 bytes, 256 KiB.
    assert amounts["tiles, lhs out of 256 KiB"] == pytest.approx(64 * 64 * 1024 / 2)
    assert amounts["tiles, rhs out of 64 KiB"] == pytest.approx(64 * 64 * 1024 * 4 / 5)


def test_what_the_other_rows_contradict_hardly_moves_a_ground_of_many() -> None:
    """Every tenth of 200 rows cost three times as much, and the smallest are read to half of themselves."""
    moved = np.geomspace(1e3, 1e8, 200)
    described = [features.describe(Kernel("relu", {"elements": int(b)}), Work(0.0, b, 0.0)) for b in moved]
    right = np.log(1e-6 + 1e-9 * moved)
    wrong = right + np.log(3) * (np.arange(200) % 10 == 5)
    wrong[:40] += np.log(2)
    known = np.where(np.arange(200) < 40, 4.0, 0.0)
    costs = regression.priced(described, wrong, np.log(1e-6), known_variance=known)
    assert regression.ground(costs, described)[60:] == pytest.approx(right[60:], abs=0.05)


def means(sizes: list[tuple[int, int]]) -> list[dict[str, float]]:
    """Squeeze-and-excitation blocks of such heights and channels."""
    made = []
    for size, channels in sizes:
        shape = {"height": size, "width": size, "in_channels": channels}
        elements = float(size * size * channels)
        made.append(features.describe(Kernel("se", shape), Work(2 * elements, 8 * elements, 4 * elements)))
    return made


def test_a_mean_over_the_image_strides_over_all_of_it_once_a_channel() -> None:
    amounts = dict(zip(features.TERMS, features.terms(means([(224, 100)]))[0], strict=True))
    strode, held = 100 * 224 * 224 * 100 * 4, 224 * 224 * 64
    assert amounts["strode"] == pytest.approx(strode)
    assert amounts["strode beyond 1 MiB"] == pytest.approx(strode * (1 - 2**20 / held))
    assert amounts["strode beyond 4 MiB"] == 0.0


def test_what_striding_costs_is_foreseen_at_more_channels_than_were_seen() -> None:
    sizes = [(3, 40), (7, 300), (28, 80), (56, 140), (112, 780), (112, 1250), (224, 600)]

    def joules(described: list[dict[str, float]]) -> NDArray[np.float64]:
        terms = features.terms(described)
        each = dict(zip(features.TERMS, terms.T, strict=True))
        return np.asarray(2e-6 + 1e-10 * each["bytes"] + 1e-12 * each["strode beyond 1 MiB"])

    seen, far = means(sizes), means([(224, 2100)])
    costs = regression.priced(seen, np.log(joules(seen)), base="walk")
    assert np.exp(regression.ground(costs, far)) == pytest.approx(joules(far), rel=1e-3)
    without = regression.priced(seen, np.log(joules(seen)), base="ground")
    assert abs(np.log(joules(far)) - regression.ground(without, far))[0] > 0.1


def test_candidates_of_few_rows_are_not_compared_by_rows_they_have_seen() -> None:
    """Each cache that is left makes bytes three times dearer: seven rows, one beyond each, say nothing of the
    next, though a ground of thirteen costs runs through all of them."""
    moved = 2.0**20 * np.array([0.1, 0.5, 2, 8, 32, 128, 512])
    dearer = [2 * 3**k * np.maximum(moved - size, 0) for k, size in enumerate(features.SPILL_BYTES)]
    target = np.log(1e-9 * (moved + np.sum(dearer, axis=0)))
    described = [features.describe(Kernel("add", {"elements": int(b)}), Work(0.0, b, 0.0)) for b in moved]
    fitted = regression.fit(described, target, np.zeros(7), np.arange(7))
    assert fitted.scores["process/size/ground"] > fitted.scores["process/size/plain"] > 0.1


def test_a_domain_is_known_even_where_the_ground_alone_serves() -> None:
    described = means([(7, 40), (14, 40), (28, 40), (56, 40), (112, 40), (56, 20), (28, 80), (14, 160)])
    target = np.log([each["log moved"] for each in described])
    fitted = regression.fit(described, target, np.zeros(8), np.arange(8), ["process/none/walk"])
    assert fitted.regression.outside(means([(448, 4000)]))[0]
    assert not fitted.regression.outside(described[:1])[0]


def test_a_family_without_small_kernels_learns_the_launch_from_the_device() -> None:
    described = [
        features.describe(Kernel("se", {"elements": int(b)}), Work(0.0, b, 0.0)) for b in (1e7, 4e7, 9e7)
    ]
    target = np.log([0.012, 0.039, 0.09])
    tiny = [features.describe(Kernel("se", {"elements": 1}), Work(0.0, 4.0, 4.0))]
    alone, anchored = (regression.priced(described, target, launch) for launch in (np.nan, np.log(2e-6)))
    assert np.exp(regression.ground(alone, tiny))[0] > 1e-3
    assert np.exp(regression.ground(anchored, tiny))[0] == pytest.approx(2e-6, rel=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_of_whole_fits_hold_at_their_rate_on_kernels_never_seen(seed: int) -> None:
    """Simulation: learnt from 40 convolutions and 20 relus, tested on 300 others of the same law."""
    new = kernels(200, seed=100 + seed)
    made = learning.fit(kernels(seed=seed)).predict([r.kernel for r in new], [r.work for r in new])
    true = np.array([r.energy_j for r in new])
    assert 0.8 <= ((made.low <= true) & (true <= made.high)).mean() <= 1.0


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
    assert made.low[0] <= made.value[0] < made.high[0], "what is lifted to the bound keeps an interval"
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


def test_learning_takes_one_thread_of_linear_algebra_and_gives_the_others_back() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads() -> set[int]:
        found = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
        assert found
        return {each["num_threads"] for each in found}

    seen: set[int] = set()
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        learning.fit(kernels(12), lambda name: seen.update(threads()))
        assert seen == {1}
        assert threads() == {2}


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


def test_of_a_stored_predictor_only_the_families_asked_for_are_computed(
    predictor: learning.Predictor, tmp_path: Path
) -> None:
    loaded = predictor_file.load(predictor_file.save(predictor, tmp_path / "p.joules"))
    relus = [record for record in kernels(20, seed=2) if record.family == "relu"]
    loaded.predict([r.kernel for r in relus], [r.work for r in relus])
    computed = {
        name: any("factor" in vars(m.regressor) for m in family.regression.members)
        for name, family in loaded.families["energy_j"].items()
    }
    assert computed["relu"]
    assert not computed["conv"]


def _rewritten(path: Path, at: Path, tree: bytes | None = None, arrays: bytes | None = None) -> Path:
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["predictor.json"] = tree if tree is not None else parts["predictor.json"]
    parts["arrays.npz"] = arrays if arrays is not None else parts["arrays.npz"]
    with zipfile.ZipFile(at, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return at


def _packed(arrays: dict[str, NDArray[np.float64]], **changes: object) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **(arrays | changes))  # type: ignore[arg-type]
    return file.getvalue()


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def _header_only(shape: tuple[int, ...]) -> bytes:
    """An npz whose one array says it has ``shape`` and holds nothing."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("overhead.npy", header.getvalue())
    return file.getvalue()


def _bomb() -> bytes:
    """An npz of a few kilobytes that unpacks to more than is allowed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as out,
    ):
        for _ in range(40):
            out.write(bytes(2**20))
    return file.getvalue()


HOSTILE = ("pickled", "not JSON", "deep JSON", "no members", "newer", "older", "a NaN", "a wrong shape",
           "a wrong kind", "an array that says it is huge", "a bomb", "a name that climbs", "below zero")  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_a_clear_line_and_runs_nothing(
    what: str, predictor: learning.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = predictor_file.save(predictor, tmp_path / "p.joules")
    with zipfile.ZipFile(path) as file:
        tree, packed = json.loads(file.read("predictor.json")), file.read("arrays.npz")
    with np.load(io.BytesIO(packed)) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    target = next(name for name in arrays if name.endswith("/target"))
    broken = {**tree, "families": {"energy_j": {"conv": {"factor": 1.0, "members": [{}]}}}}
    parts: dict[str, bytes] = {
        "pickled": _packed({}, overhead=np.array([_Bomb()], object)),
        "a NaN": _packed(arrays, **{target: arrays[target] * np.nan}),
        "a wrong shape": _packed(arrays, **{target: arrays[target][:-1]}),
        "a wrong kind": _packed(arrays, **{target: arrays[target].astype("U8")}),
        "an array that says it is huge": _header_only((2**40,)),
        "a name that climbs": _packed({}, **{"../../escaped": np.zeros(3)}),
        "below zero": _packed(arrays, **{f"{target[:-7]}/spread": -arrays[f"{target[:-7]}/spread"]}),
        "a bomb": _bomb(),
    }
    trees_: dict[str, bytes] = {
        "not JSON": b"{" * 10,
        "deep JSON": b"[" * 100_000,
        "no members": json.dumps(broken).encode(),
        "newer": json.dumps({**tree, "schema": 99}).encode(),
        "older": json.dumps({**tree, "schema": 1}).encode(),
    }
    if what == "a bomb":
        monkeypatch.setattr(predictor_file, "_LARGEST", 2**24)
    hostile = _rewritten(path, tmp_path / "h.joules", trees_.get(what), parts.get(what))
    with pytest.raises(PredictorError, match=r"h\.joules: ") as refused:
        predictor_file.load(hostile)
    assert "\n" not in str(refused.value).split("Try:")[0].strip()
    assert not list(tmp_path.parent.rglob("escaped*"))


def test_a_torn_or_missing_file_is_a_clear_line(predictor: learning.Predictor, tmp_path: Path) -> None:
    path = predictor_file.save(predictor, tmp_path / "p.joules")
    (tmp_path / "torn").write_bytes(path.read_bytes()[:1000])
    for name in ("torn", "missing"):
        with pytest.raises(PredictorError, match=name):
            predictor_file.load(tmp_path / name)


def test_a_tree_that_leads_in_circles_ends() -> None:
    looped = trees.Trees(
        0.0, 1.0, np.array([0]), np.array([0, 0]), np.zeros(2), np.array([1, 0]), np.array([1, 0]), np.ones(2)
    )
    assert np.isfinite(looped.predict(np.zeros((3, 1)))).all()
