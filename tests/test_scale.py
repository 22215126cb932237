"""The data-size experiment: inputs that grow, the fitted line, and a machine of known cost per byte."""

import dataclasses
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import scale, scale_plot
from joulemeter.cli.scale import _show
from joulemeter.errors import UsageError
from joulemeter.isolate import Isolated
from joulemeter.isolation import Interval
from joulemeter.ledger import Energy

SEEN: list[int] = []


def step(x):
    """What the experiments below call."""
    SEEN.append(len(x))


def batch():
    """A function and its arguments: both share the leading dimension, the weights do not."""
    return (lambda x, y, *, w: (len(x), len(y), w)), (np.zeros((100, 4)), np.zeros(100), [np.zeros(3)])


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1000,10000,1e5", [1e3, 1e4, 1e5]), ("1.0,0.1,50%", [0.1, 0.5, 1.0]), ("3,1,2,2", [1, 2, 3])],
)
def test_sizes_are_counts_or_fractions_in_increasing_order(text: str, sizes: list[float]) -> None:
    assert scale.parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "1,2", "1,1,1", "0.1,0.5,20", "0,1,2", "-1,2,3", "a,b,c", "nan,1,2"])
def test_sizes_that_make_no_experiment_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        scale.parse_sizes(text)


def test_arguments_that_name_n_are_made_for_each_size() -> None:
    grown = scale.inputs("test_scale:step", [10, 100, 1000], "import numpy", "numpy.zeros(n, 'f4')")
    assert [each.bytes for each in grown] == [40, 400, 4000]
    SEEN.clear()
    for each in grown:
        each.call()
    assert SEEN == [10, 100, 1000]


def test_arguments_that_do_not_are_made_once_and_cut() -> None:
    setup = "import numpy; made = []; x = (made.append(1), numpy.zeros((50, 2)))[1]"
    grown = scale.inputs("test_scale:step", [0.1, 0.5, 1.0], setup, "x")
    SEEN.clear()
    for each in grown:
        each.call()
    assert SEEN == [5, 25, 50]
    assert [each.bytes for each in grown] == [80, 400, 800]


def test_a_function_may_bring_its_own_arguments_and_what_shares_their_length_is_cut() -> None:
    with pytest.raises(TypeError):
        scale.inputs("test_scale:batch", [10, 20, 40])[0].call()  # its w is missing: called as given
    assert [each.bytes for each in scale.inputs("test_scale:batch", [10, 20, 40])] == [
        10 * 40 + 24,
        824,
        1624,
    ]


@pytest.mark.parametrize(
    ("sizes", "arguments", "fact"),
    [
        ([10, 20, 200], "[0.0] * 3, __import__('numpy').zeros(100)", "more than the 100 rows"),
        ([0.1, 0.5, 1.0], "range(n)", "a fraction"),
        ([1, 2, 3], "5", "leading dimension"),
    ],
)
def test_inputs_that_cannot_grow_are_refused(sizes: list[float], arguments: str, fact: str) -> None:
    with pytest.raises(UsageError, match=fact):
        scale.inputs("test_scale:step", sizes, "", arguments)


def test_a_function_that_needs_arguments_and_gets_none_is_refused_with_an_example() -> None:
    with pytest.raises(UsageError, match=r"needs arguments.*--args"):
        scale.inputs("test_scale:step", [1, 2, 3])


# ── the line ─────────────────────────────────────────────────────────────────────────────────────────


def around(values: np.ndarray, half: float) -> list[Interval]:
    return [Interval(v, v - half, v + half) for v in values.tolist()]


def test_a_line_worked_by_hand() -> None:
    """Three points of equal weight, (0, 1), (1, 3), (2, 4): slope 1.5, intercept 7/6, R² 27/28."""
    found = scale.line(np.array([0.0, 1.0, 2.0]), around(np.array([1.0, 3.0, 4.0]), 0.01))
    assert found.slope.value == pytest.approx(1.5)
    assert found.intercept.value == pytest.approx(7 / 6)
    assert found.r2 == pytest.approx(27 / 28)
    # The residual's mean square is 1/6, so the slope's standard error √(1/12); Student's t(1) is 12.706.
    assert found.slope.high - found.slope.value == pytest.approx(12.706 * math.sqrt(1 / 12), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-9, 1e9), st.floats(1e-12, 1.0))
def test_an_exact_line_is_found_whatever_its_units(seed: int, unit: float, slope: float) -> None:
    x = unit * np.sort(np.random.default_rng(seed).uniform(1, 100, 5))
    found = scale.line(x, around(3e-3 + slope * x, 1e-6))
    assert found.slope.low <= slope * (1 + 1e-6)
    assert found.slope.high >= slope * (1 - 1e-6)


def test_the_slopes_interval_holds_in_nineteen_of_twenty_experiments() -> None:
    random, x, hits = np.random.default_rng(3), np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 0
    for _ in range(400):
        y = 1 + 2 * x + random.normal(0, 0.5, 5)
        slope = scale.line(x, around(y, 0.05)).slope
        hits += slope.low <= 2 <= slope.high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_meter_whose_gain_is_off_by_a_tenth_at_every_point_widens_the_slope_by_a_tenth() -> None:
    y = [Interval(v, 0.9 * v, 1.1 * v) for v in (10.0, 20.0, 40.0, 80.0)]
    slope = scale.line(np.array([1.0, 2.0, 4.0, 8.0]), y).slope
    assert slope.low <= 9.0 * (1 + 1e-9)
    assert slope.high >= 11.0 * (1 - 1e-9)


def test_points_that_are_not_known_are_left_out_and_two_make_no_line() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    y = around(2 * x, 0.1)
    y[1] = Interval(math.nan, math.nan, math.nan)
    assert scale.line(x, y).slope.value == pytest.approx(2)
    y[2] = y[1]
    assert math.isnan(scale.line(x, y).slope.value)


def isolated(x: float, per_byte: float = 1e-9) -> Isolated:
    energy, time = 1e-4 + per_byte * x, 1e-5 + 1e-10 * x
    return Isolated(
        name="f",
        origin="simulated",
        energy=Energy(energy, 0.98 * energy, 1.02 * energy),
        gross=Energy(2 * energy, energy, 3 * energy),
        time=Interval(time, 0.99 * time, 1.01 * time),
        rest_w=Interval(1.0, 0.9, 1.1),
        repeatability=0.02,
        target=0.05,
        reached=True,
        calls=10,
        rounds=10,
        machine_s=1.0,
    )


def test_energy_is_fitted_against_bytes_and_against_size_where_bytes_do_not_grow() -> None:
    sizes = (1e5, 1e6, 1e7, 1e8)
    found = scale.fitted("m:f", [scale.Point(x, int(x), isolated(x)) for x in sizes])
    assert found.axis == "bytes"
    assert found.energy.slope.low <= 1e-9 <= found.energy.slope.high
    assert found.energy.slope.value == pytest.approx(1e-9, rel=0.05)
    assert found.to_json()["energy"]["unit"] == "J/B"
    assert scale.fitted("m:f", [scale.Point(x, 0, isolated(x)) for x in sizes]).axis == "size"


def test_the_exponent_of_a_square_law_is_two() -> None:
    points = [scale.Point(x, int(x), isolated(x**2, per_byte=1.0)) for x in (1e3, 1e4, 1e5)]
    exponent = scale.fitted("m:f", points).exponent
    assert exponent.low <= 2 <= exponent.high
    assert exponent.value == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_plot_is_written_and_names_its_units_and_origin(tmp_path: Path, ending: str) -> None:
    found = scale.fitted("m:f", [scale.Point(x, int(x), isolated(x)) for x in (1e5, 1e6, 1e7)])
    path = tmp_path / f"plot{ending}"
    scale_plot.check(path, force=False)
    scale_plot.draw(found, path)
    assert path.stat().st_size > 1000
    with pytest.raises(UsageError, match="--force"):
        scale_plot.check(path, force=False)
    with pytest.raises(UsageError, match="plots are"):
        scale_plot.check(tmp_path / "plot.gif", force=False)


def unseen(x: float) -> Isolated:
    return dataclasses.replace(isolated(x), energy=Energy(math.nan, 0.0, 5e-3))


def test_what_was_not_seen_is_plotted_as_a_bound_and_no_line_is_drawn_through_bounds_alone(
    tmp_path: Path,
) -> None:
    sizes = (1e5, 1e6, 2e6, 4e6, 8e6)
    some = [scale.Point(x, int(x), unseen(x) if x < 2e6 else isolated(x)) for x in sizes]
    none = [scale.Point(x, int(x), unseen(x)) for x in sizes]
    texts = []
    for name, points in (("some", some), ("none", none)):
        path = tmp_path / f"{name}.svg"
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # text as text
            scale_plot.draw(scale.fitted("m:f", points), path)
        texts.append(path.read_text())
    assert "not seen, at most" in texts[0]
    assert "not seen, at most" in texts[1]
    assert [text.count("fit: ") for text in texts] == [2, 1], "time has its line, energy has none"
    assert all("1 MB" in text for text in texts), "labels have prefixes"


def test_energies_that_were_nowhere_seen_have_no_slope_but_a_remedy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _show(scale.fitted("m:f", [scale.Point(x, int(x), unseen(x)) for x in (1e5, 1e6, 2e6)]))
    out = capsys.readouterr().out
    assert "energy  not seen at any size, and so no slope. Try: larger --sizes" in out
    assert "5.00 mJ" in out, "the bound is shown"


def test_the_command_measures_and_prints_one_object(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from joulemeter.cli.scale import command

    arguments = ["test_scale:step", "--sizes", "1e4,1e5,1e6", "--args", "bytes(n)", "--limit", "1s", "--json"]
    arguments += ["--source", "simulated:load=cpu,idle=20,busy=100", "--plot", str(tmp_path / "step.svg")]
    command.main(arguments, standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    assert [point["bytes"] for point in found["points"]] == [10**4, 10**5, 10**6]
    assert found["origin"] == "simulated"
    assert {"slope", "intercept", "r2", "unit"} <= set(found["energy"])
    assert (tmp_path / "step.svg").exists()
