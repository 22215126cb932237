"""Network shapes are the published ones, and the solver lands where the published one landed."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import topology
from joulemeter.errors import UsageError

TABLE = Path(__file__).parents[2] / "shared" / "data" / "butter-e" / "topologies.csv"

shapes = st.sampled_from(topology.SHAPES)
depths = st.integers(2, 20)
sizes = st.integers(1, 2**24)
inputs = st.integers(1, 800)
outputs = st.integers(1, 12)


@pytest.mark.skipif(not TABLE.exists(), reason="the published topologies are not here")
def test_every_published_topology_is_solved_to_the_same_widths():
    with TABLE.open() as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        found = topology.solve(
            row["shape"],
            depth=int(row["depth"]),
            size=int(row["size"]),
            inputs=int(row["n_inputs"]),
            outputs=int(row["n_outputs"]),
        )
        if found != (json.loads(row["widths"]), int(row["num_free_parameters"])):
            wrong.append(row)
    assert len(rows) == 1500
    assert wrong == []


@pytest.mark.parametrize(
    ("shape", "width", "depth", "out", "expected"),
    [
        ("rectangle", 5, 4, 2, (5, 5, 5, 2)),
        ("trapezoid", 10, 5, 3, (10, 8, 6, 5, 3)),  # 8.25, 6.5 (half to even), 4.75
        ("trapezoid", 1, 2, 11, (1, 11)),  # narrower than the output: it widens
        ("exponential", 64, 4, 1, (64, 16, 4, 1)),
        ("exponential", 1, 3, 6, (6, 6, 6)),  # never below the output
        ("wide_first_2", 5, 4, 3, (5, 2, 2, 3)),  # 2.5, half to even
        ("wide_first_20x", 9, 5, 3, (9, 1, 1, 1, 3)),  # never below 1
        ("wide_first_20x", 50, 4, 3, (50, 2, 2, 3)),  # 2.5, half to even
        ("wide_first_4x_residual", 8, 5, 3, (8, 2, 2, 2, 3)),
    ],
)
def test_widths_worked_by_hand(shape, width, depth, out, expected):
    assert topology.widths(shape, width=width, depth=depth, outputs=out) == list(expected)


def test_of_two_widths_equally_far_the_first_visited_is_kept():
    """Widths 2 and 3 make 9 and 13 parameters, both 2 off 11; bisection visits 2 first."""
    assert topology.solve("rectangle", depth=2, size=11, inputs=2, outputs=1) == ([2, 1], 9)


def test_an_unreachable_size_gives_the_nearest_network_or_is_refused_by_tolerance():
    nearest = topology.solve("rectangle", depth=20, size=32, inputs=784, outputs=10)
    assert nearest == ([*[1] * 19, 10], 784 + 1 + 18 * 2 + 20)
    with pytest.raises(UsageError, match="off 32"):
        topology.solve("rectangle", depth=20, size=32, inputs=784, outputs=10, tolerance=0.2)


def test_an_unknown_shape_or_depth_is_refused_with_the_names_that_exist():
    with pytest.raises(UsageError, match="wide_first_16x"):
        topology.solve("wide_first_3x", depth=4, size=64, inputs=4, outputs=1)
    with pytest.raises(UsageError, match="depth"):
        topology.solve("rectangle", depth=1, size=64, inputs=4, outputs=1)


def test_residual_additions_join_equal_hidden_layers_only():
    assert topology.additions("rectangle_residual", [9, 9, 9, 9, 9]) == 3
    assert topology.additions("wide_first_2x_residual", [8, 4, 4, 4, 2]) == 2
    assert topology.additions("rectangle", [9, 9, 9, 9, 9]) == 0


@given(shapes, depths, sizes, inputs, outputs)
@settings(max_examples=150, deadline=None)
def test_parameters_are_the_sum_over_layers_and_the_output_is_last(shape, depth, size, i, o):
    found = topology.solve(shape, depth=depth, size=size, inputs=i, outputs=o)
    assert found.parameters == sum((a + 1) * b for a, b in pairwise((i, *found.widths)))
    assert len(found.widths) == depth
    assert found.widths[-1] == o
    assert min(found.widths) >= 1


@given(shapes, depths, st.tuples(sizes, sizes), inputs, outputs)
@settings(max_examples=150, deadline=None)
def test_asking_for_more_parameters_never_gives_fewer(shape, depth, both, i, o):
    small, large = (
        topology.solve(shape, depth=depth, size=size, inputs=i, outputs=o) for size in sorted(both)
    )
    assert small.parameters <= large.parameters


@given(shapes, depths, st.integers(1, 3000), inputs, outputs)
@settings(max_examples=60, deadline=None)
def test_a_size_that_a_width_makes_exactly_is_found_exactly(shape, depth, width, i, o):
    exact = topology.parameters(i, topology.widths(shape, width=width, depth=depth, outputs=o))
    assert topology.solve(shape, depth=depth, size=exact, inputs=i, outputs=o).parameters == exact
