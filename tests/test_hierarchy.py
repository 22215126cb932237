"""The energy model: bytes by level conserve, costs are found and never negative, intervals hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energy_world import LEVELS, PER_BATCH_J, PER_DRAM_BYTE_J, PER_FLOP_J, runs, training
from joulemeter import energy_model, energy_runs
from joulemeter.errors import PredictorError
from joulemeter.models.hierarchy import effects, energy, physics
from joulemeter.models.hierarchy.terms import design, hats, terms
from joulemeter.models.hierarchy.training import joined
from joulemeter.models.hierarchy.working_sets import home, level_bytes, missing_share, working_sets

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "butter-e" / "runs.csv"


def test_batches_of_the_study_count_as_published():
    """adult: 48,842 rows are 39,073 to train on (153 batches) and 9,769 to test (39 batches, a third each)."""
    adult = training("adult")
    assert (adult.train_rows, adult.test_rows) == (39073, 9769)
    assert adult.batches == pytest.approx(153 + 39 / 3)


def test_floating_point_operations_worked_by_hand():
    """One layer of 4 → 1 on 529_pollen: 4 weights × (6 × 3,078 + 2 × 770) rows, once."""
    tiny = replace(training("529_pollen"), widths=(1,), depth=1, epochs=1)
    assert tiny.flops == pytest.approx(4 * (6 * 3078 + 2 * 770))


@given(st.integers(5, 24), st.integers(2, 20), st.sampled_from(["rectangle", "exponential", "wide_first_8x"]))
@settings(max_examples=40, deadline=None)
def test_a_level_moves_no_more_than_the_level_nearer(size, depth, shape):
    moved = level_bytes([training(shape=shape, size=2**size, depth=depth)], LEVELS)[0]
    assert (np.diff(moved) <= 0).all()
    assert moved[0] == pytest.approx(
        sum(s.moved_bytes for s in working_sets(training(shape=shape, size=2**size, depth=depth)))
    )


def test_what_fits_in_a_cache_is_not_fetched_from_beyond_it():
    held = np.array([1e3, 1e6, 2e6, 1e12])
    assert missing_share(held, 1e6).tolist() == pytest.approx([0.0, 0.0, 0.5, 1.0], abs=1e-5)
    assert home(9e5, LEVELS).name == "L1"
    assert home(1e7, LEVELS).name == "L2"
    assert home(1e9, LEVELS).name == "DRAM"


@given(st.lists(st.floats(-5, 30), min_size=1, max_size=20))
def test_hats_share_each_value_among_two_knots(values):
    weights = hats(np.array(values), np.array([0.0, 1.0, 4.0, 9.0]))
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(len(values)))
    assert weights @ [0.0, 1.0, 4.0, 9.0] == pytest.approx(np.clip(values, 0, 9))


def test_every_term_has_a_count_and_no_count_is_negative():
    counts = design([training(), training(shape="rectangle_residual", size=2**20, depth=9)], LEVELS)
    assert counts.shape == (2, len(terms(LEVELS)))
    assert (counts >= 0).all()


def test_physics_finds_the_costs_that_were_planted():
    known = runs(300, noise=0.02)
    counts = design(known.trainings, LEVELS)
    costs = dict(zip([t.name for t in terms(LEVELS)], physics.fit(counts, known.energy_j).costs, strict=True))
    assert costs["arithmetic"] == pytest.approx(PER_FLOP_J, rel=0.2)
    assert costs["DRAM"] == pytest.approx(PER_DRAM_BYTE_J, rel=0.2)
    assert costs["batch"] == pytest.approx(PER_BATCH_J, rel=0.2)


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_costs_are_never_negative_whatever_the_runs_say(seed):
    random = np.random.default_rng(seed)
    counts, values = random.exponential(1, (30, 6)), random.exponential(1, 30) + 1e-3
    assert (physics.fit(counts, values).costs >= 0).all()


def test_a_run_gone_wrong_moves_the_costs_little():
    known = runs(200, noise=0.02)
    counts = design(known.trainings, LEVELS)
    spoiled = known.energy_j.copy()
    spoiled[7] *= 50
    before, after = (counts @ physics.fit(counts, values).costs for values in (known.energy_j, spoiled))
    assert np.abs(after / before - 1).max() < 0.1


def test_intervals_of_costs_contain_the_costs():
    known = runs(80)
    counts = design(known.trainings, LEVELS)
    found = physics.with_intervals(
        physics.fit(counts, known.energy_j), counts, known.energy_j, repeats=20, seed=0
    )
    assert (found.low <= found.costs).all()
    assert (found.costs <= found.high).all()
    assert (found.high > found.low).any()


def test_effects_find_a_planted_shape_and_leave_noise_alone():
    random = np.random.default_rng(3)
    known = runs(300)
    rows = [effects.labels(t, effects.STRUCTURE) for t in known.trainings]
    planted = np.array([0.3 if t.shape == "trapezoid" else 0.0 for t in known.trainings])
    found = effects.fit(rows, planted + random.normal(0, 0.1, 300), effects.STRUCTURE)
    trapezoid = found.values["shape:trapezoid"] - np.median(
        [v for n, v in found.values.items() if "shape:" in n]
    )
    assert trapezoid == pytest.approx(0.3, abs=0.08)
    assert found.deviation["depth"] < 0.05


def test_an_effect_that_nobody_saw_is_nothing():
    known = runs(60)
    found = effects.fit([effects.labels(t, ["shape"]) for t in known.trainings], np.full(60, 0.2), ("shape",))
    assert found.predict([training(shape="wide_first_20x")])[0] == pytest.approx(0.2, abs=0.01)


def test_predictions_of_unseen_runs_are_near_and_their_intervals_hold():
    model = energy.fit(runs(200, seed=1), LEVELS)
    unseen = runs(200, seed=2)
    value, low, high = model.predict(unseen.trainings)
    assert (low < value).all()
    assert (value < high).all()
    assert np.abs(value / unseen.energy_j - 1).mean() < 0.08
    inside = (low <= unseen.energy_j) & (unseen.energy_j <= high)
    assert 0.82 < inside.mean() <= 0.98


def test_runs_without_times_still_make_a_model():
    model = energy.fit(replace(runs(60), time_s=np.full(60, np.nan)), LEVELS)
    assert not model.choices.through_time
    assert model.base.seconds is None


def test_repetitions_are_pooled_to_their_geometric_mean():
    once = runs(20)
    twice = replace(
        once,
        which=np.concatenate([once.which, once.which]),
        device=np.concatenate([once.device, once.device]),
        energy_j=np.concatenate([once.energy_j / 2, once.energy_j * 2]),
        time_s=np.concatenate([once.time_s, once.time_s]),
        loss=np.concatenate([once.loss, once.loss]),
    )
    assert twice.pooled().energy_j == pytest.approx(once.energy_j)


def test_too_few_runs_are_refused():
    with pytest.raises(PredictorError, match="7 runs"):
        energy.fit(runs(7), LEVELS)


def test_a_stored_model_predicts_the_same(tmp_path):
    both = joined([runs(60, device="cpu"), runs(60, seed=5, device="gpu")])
    fitted = energy_model.fit(both, {"cpu": LEVELS, "gpu": LEVELS}, bootstrap=5)
    energy_model.save(fitted, tmp_path / "model.json")
    again = energy_model.load(tmp_path / "model.json")
    asked = [training(size=2**k) for k in range(5, 25)]
    for device in ("cpu", "gpu"):
        for one, other in zip(fitted.of(device).predict(asked), again.of(device).predict(asked), strict=True):
            assert one == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["{}", "not JSON", '{"kind": "memory-hierarchy energy model", "schema": 99}']
)
def test_a_file_that_is_no_model_is_refused(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(PredictorError, match=r"model\.json"):
        energy_model.load(tmp_path / "model.json")


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published runs are not here")
@pytest.mark.parametrize(("device", "most"), [("cpu", 0.20), ("gpu", 0.045)])
def test_published_runs_of_unseen_data_sets_are_predicted(device, most):
    """Three data sets at once left out; benchmarks/energy_model.py does it for each and prints the figures."""
    table = energy_runs.read(PUBLISHED)
    known = table.runs.of_device(device)
    out = np.isin(known.groups, ["mnist", "banana", "nursery"])
    model = energy.fit(known.take(~out), energy_runs.levels_of(table)[device])
    unseen = known.take(out)
    value, low, high = (each[unseen.which] for each in model.predict(unseen.trainings))
    assert np.abs(value / unseen.energy_j - 1).mean() < most
    inside = (low <= unseen.energy_j) & (unseen.energy_j <= high)
    assert inside.mean() > 0.75


@pytest.mark.parametrize("count", [16, 60, 300])
def test_the_interval_holds_for_the_next_error_however_few_came_before(count) -> None:
    from joulemeter.models.hierarchy.energy import COVERAGE, interval

    random = np.random.default_rng(count)
    held = []
    for _ in range(2000):
        errors = random.standard_t(4, count + 1)
        low, high = interval(errors[:-1])
        held.append(low <= errors[-1] <= high)
    assert np.mean(held) == pytest.approx(COVERAGE + 0.01, abs=0.03 if count > 16 else 0.04)


def test_far_from_what_was_fitted_the_interval_widens_and_near_it_does_not():
    """A data set of rows a thousand times wider is priced by what single data sets say of width."""
    model = energy.fit(runs(120, seed=3), LEVELS)
    near, far = training(), replace(training(), inputs=40_000)
    (_, _), (low, wide_low), (high, wide_high) = model.predict([near, far])
    value = model.predict([near, far])[0]
    assert wide_high / value[1] > high / value[0]
    assert wide_low / value[1] < low / value[0]
    spread = model.spread([near, far])
    assert spread[0] < model.scatter


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published runs are not here")
def test_a_data_set_far_outside_lies_within_its_interval():
    """mnist has six times the inputs of any other data set here; fitted without it, the error is three times theirs."""
    table = energy_runs.read(PUBLISHED)
    known = table.runs.of_device("gpu")
    out = known.groups == "mnist"
    model = energy.fit(known.take(~out), energy_runs.levels_of(table)["gpu"])
    unseen = known.take(out)
    _, low, high = (each[unseen.which] for each in model.predict(unseen.trainings))
    assert ((low <= unseen.energy_j) & (unseen.energy_j <= high)).mean() > 0.85
    ordinary = model.predict(known.take(~out).trainings)
    assert np.median(np.log(ordinary[2] / ordinary[1])) < 0.15
