"""Plans: what a grid comes to, what is rejected, and that hashes tell runs apart."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from joulemeter import butter, plan, training_data
from joulemeter.errors import DatasetError, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data" / "butter-e"
TINY = {"datasets": ["banana", "adult"], "depths": [2, 3], "sizes": [1024, 4096]}


def test_the_published_plan_has_its_30582_configurations() -> None:
    found = plan.read("butter-e")
    assert len(found.configurations) == found.distinct == 30_582
    assert found.reachable == 48_070
    assert len({each.key for each in found.configurations}) == 30_582


def test_on_one_device_the_published_plan_is_its_whole_grid() -> None:
    found = plan.read("butter-e", ("cpu",))
    assert len(found.configurations) == found.reachable == 24_035


def test_the_plans_that_come_along_can_be_read() -> None:
    assert {"quick", "butter-e", "transformers"} <= set(plan.names())
    assert len(plan.read("quick").configurations) == 16
    assert len(plan.read("transformers").configurations) == 48


def test_a_grid_is_the_product_of_its_axes_and_repetitions() -> None:
    found = plan.make({**TINY, "depths": [3, 4], "batch_sizes": [32, 64], "repetitions": 3})
    assert len(found.configurations) == 2 * 2 * 2 * 2 * 3
    assert found.distinct == 16
    assert len({each.key for each in found.configurations}) == 48


def test_shapes_that_are_one_network_at_depth_2_count_once() -> None:
    found = plan.make({**TINY, "depths": [2], "shapes": ["rectangle", "trapezoid", "exponential"]})
    assert {each.shape for each in found.configurations} == {"rectangle"}
    assert sum(found.rejected.values()) == 8


def test_unreachable_sizes_are_rejected_and_counted() -> None:
    data = {"datasets": ["mnist"], "depths": [3], "sizes": [32, 65536]}
    found = plan.make(data)
    assert [each.size for each in found.configurations] == [65536]
    assert sum(found.rejected.values()) == 1
    with pytest.raises(UsageError, match="can be reached"):
        plan.make({**data, "sizes": [32]})


def test_a_sample_depends_on_its_seed_alone() -> None:
    one, same, other = (plan.make({**TINY, "sample": 3, "seed": seed}) for seed in (1, 1, 2))
    assert one.fingerprint == same.fingerprint
    assert one.configurations == same.configurations
    assert one.configurations != other.configurations


@pytest.mark.parametrize(
    "wrong",
    [
        {"shapes": ["circle"]},
        {"sizes": []},
        {"depths": [1]},
        {"depths": ["3"]},
        {"learning_rates": [-1.0]},
        {"datasets": ["nobody"]},
        {"optimizers": ["magic"]},
        {"colour": ["red"]},
        {"repetitions": 0},
        {"sample": 1000},
    ],
)
def test_what_a_plan_cannot_mean_is_refused(wrong) -> None:
    with pytest.raises(UsageError):
        plan.make({**TINY, **wrong})


def test_a_plan_that_is_not_there_names_those_that_are(tmp_path) -> None:
    with pytest.raises(UsageError, match="butter-e"):
        plan.read(tmp_path / "none.toml")
    torn = tmp_path / "torn.toml"
    torn.write_text("sizes = [")
    with pytest.raises(UsageError, match="cannot be read"):
        plan.read(torn)


def test_columns_are_encoded_by_the_rule_of_the_study() -> None:
    rows = 100
    few = np.arange(rows) % 3
    columns = [np.zeros(rows), np.arange(rows) % 2, few, np.arange(rows) * 7.0, np.array(list("abcd") * 25)]
    table = training_data.encode(columns, np.arange(rows) % 2, "test")
    assert table.inputs.shape == (rows, 0 + 1 + 3 + 1 + 4)
    assert table.task == "binary"
    assert table.inputs.min() == 0
    assert table.inputs.max() == 1
    assert (table.inputs[:, 1:4].argmax(axis=1) == few).all()
    assert training_data.encode(columns, few, "test").task == "classification"
    assert training_data.encode(columns, np.arange(rows), "test").task == "regression"


def test_columns_of_up_to_twenty_values_are_one_hot() -> None:
    column = np.arange(420)
    assert training_data.encode([column % 20], column % 2, "test").inputs.shape[1] == 20
    assert training_data.encode([column % 21], column % 2, "test").inputs.shape[1] == 1


@pytest.mark.parametrize("name", ["banana", "505_tecator", "wine_quality_white"])
def test_a_stand_in_has_the_dimensions_of_what_it_stands_for(name) -> None:
    table = training_data.stand_in(name)
    assert table.facts == butter.DATASETS[name]
    assert table.source == "stand-in"
    assert len(np.unique(table.targets)) > 1


def test_a_local_copy_is_used_and_checked(tmp_path) -> None:
    rng = np.random.default_rng(0)
    with gzip.open(tmp_path / "banana.tsv.gz", "wt") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["At1", "At2", "target"])
        writer.writerows([*rng.random(2), k % 2] for k in range(100))
    assert training_data.prepare("banana", tmp_path, network=False) == "copy:banana.tsv.gz"
    assert training_data.load("banana", tmp_path).facts == butter.Facts(100, 2, 1)
    (tmp_path / "adult.csv").write_text("a,target\n1,0\n2,1\n")
    with pytest.raises(DatasetError, match="adult has 1 inputs"):
        training_data.prepare("adult", tmp_path, network=False)


def test_without_network_or_copy_there_is_a_stand_in_and_nothing_is_written(tmp_path) -> None:
    assert training_data.prepare("nursery", tmp_path, network=False) == "stand-in"
    assert training_data.load("nursery", tmp_path).source == "stand-in"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not SHARED.exists(), reason="the study's files are not here")
def test_dimensions_are_those_of_the_study() -> None:
    with (SHARED / "datasets.csv").open() as file:
        for row in csv.DictReader(file):
            facts = training_data.facts(row["dataset"])
            assert facts.inputs == int(row["encoded_n_inputs"])
            assert facts.outputs == int(row["encoded_n_outputs"])
