"""Spans as a tree of calls, thinned for a screen: nothing is lost on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sample_run
from joulemeter import calltree, thinning
from joulemeter.reading import Rail
from joulemeter.span import Spans
from joulemeter.timeline import from_readings


@st.composite
def nested(draw) -> Spans:
    """Spans that nest by halving their parent, on one or two lanes."""
    count = draw(st.integers(1, 40))
    rows: list[tuple[int, int, int, int, int]] = []
    for number in range(count):
        parent = draw(st.integers(-1, number - 1))
        lane = draw(st.integers(0, 1))
        start, end = rows[parent][2:4] if parent >= 0 else (0, 1 << 40)
        middle = (start + end) // 2
        rows.append(
            (draw(st.integers(0, 4)), lane, *((start, middle) if number % 2 else (middle, end)), parent)
        )
    columns = np.array(rows, np.int64).T
    return Spans(columns[0].astype(np.int32), columns[1].astype(np.int32), *columns[2:])


def chain(spans: Spans, row: int) -> tuple[int, ...]:
    above = chain(spans, int(spans.parent[row])) if spans.parent[row] >= 0 else ()
    return (*above, int(spans.site[row]))


@settings(deadline=None, max_examples=60)
@given(nested())
def test_the_tree_has_a_node_for_every_distinct_chain_and_counts_every_span(spans):
    tree = calltree.of(spans)
    chains = [chain(spans, row) for row in range(len(spans))]
    assert sorted(tuple(tree.path(node)) for node in range(len(tree))) == sorted(set(chains))
    for node in range(len(tree)):
        assert tree.calls[node] == chains.count(tuple(tree.path(node)))
    assert (tree.parent < np.arange(len(tree))).all()


@settings(deadline=None, max_examples=60)
@given(nested(), st.integers(1, 10), st.integers(1, 8))
def test_thinning_counts_every_span_and_never_widens_the_run(spans, most, bins):
    thin = thinning.strip(spans, most=most, bins=bins)
    assert thin.count.sum() == len(spans)
    assert thin.start_ns.min() == spans.start_ns.min()
    assert thin.end_ns.max() == spans.end_ns.max()


def test_the_nodes_of_a_site_add_up_to_the_site(tmp_path):
    run = sample_run.run(tmp_path)
    ledger, tree = sample_run.ledger(run), calltree.of(run.spans)
    for rail in (0, 1):
        energy = calltree.energy_j(tree, ledger, rail)
        for site in ledger.sites:
            expected = site.rails[rail].exclusive.energy_j
            assert energy[tree.site == site.site.id].sum() == pytest.approx(expected, nan_ok=True)


def test_a_site_called_from_two_places_shares_its_joules_by_their_time(tmp_path):
    s = sample_run.S
    # relu runs 3 s under the root and 1 s under a module: 46 J become 34.5 J and 11.5 J.
    rows = [(0, 0, 0, 10 * s, -1), (2, 0, 0, 3 * s, 0), (3, 0, 4 * s, 6 * s, 0), (2, 0, 4 * s, 5 * s, 2)]
    tree = calltree.of(Spans(*np.array(rows).T))
    energy = calltree.energy_j(tree, sample_run.ledger(sample_run.run(tmp_path)), 0)
    by_path = {tuple(tree.path(node)): energy[node] for node in range(len(tree))}
    assert by_path[0, 2] == pytest.approx(34.5)
    assert by_path[0, 3, 2] == pytest.approx(11.5)


def test_own_time_is_less_what_children_on_the_same_lane_took(tmp_path):
    tree = calltree.of(sample_run.spans())
    own = {tuple(tree.path(node)): tree.exclusive_s[node] for node in range(len(tree))}
    # 40 × 0.18 s of modules, each with 0.09 s of linear and 0.07 s of relu.
    assert own[0, 3] == pytest.approx(40 * 0.02)
    # The kernel runs beside the linear that launched it, on the device's lane: both keep their time.
    assert own[0, 3, 1] == pytest.approx(40 * 0.09)
    assert own[0, 3, 1, 4] == pytest.approx(40 * 0.08)


def test_parents_in_a_circle_are_refused():
    columns = np.array([[0, 0, 0, 5, 1], [0, 0, 0, 5, 0]]).T
    with pytest.raises(ValueError, match="circle"):
        calltree.depths(Spans(*columns))


def test_no_spans_make_no_tree():
    assert len(calltree.of(Spans.empty())) == 0
    assert len(thinning.strip(Spans.empty())) == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.one_of(st.floats(0, 500), st.just(float("nan"))), min_size=2, max_size=60), st.integers(1, 20)
)
def test_thinned_power_keeps_the_energy(watts, most):
    rail = Rail(id=0, name="r", kind="gauge", origin="measured", period_ns=10**9)
    timeline = from_readings(rail, np.arange(len(watts)) * 10**9, np.array(watts))
    curve = thinning.power(timeline, most)
    assert len(curve.mean_w) <= most
    # A stretch that was seen in part stands for its seen part: the mean is over what was seen.
    whole = [
        timeline.unknown[(timeline.t_ns[:-1] >= a) & (timeline.t_ns[:-1] < b)].any() for a, b in pairs(curve)
    ]
    if not any(whole):
        assert (curve.mean_w * np.diff(curve.t_ns) / 1e9).sum() == pytest.approx(
            timeline.energy_j[-1], abs=1e-6
        )
    seen = ~np.isnan(curve.mean_w)
    assert (curve.low_w[seen] <= curve.mean_w[seen] + 1e-9).all()
    assert (curve.mean_w[seen] <= curve.high_w[seen] + 1e-9).all()


def test_a_stretch_seen_in_part_has_the_power_of_the_part_seen():
    """An unseen reading is no reading of 0 W: neither the mean nor the lowest falls."""
    rail = Rail(id=0, name="r", kind="gauge", origin="measured", period_ns=10**9)
    timeline = from_readings(rail, np.arange(5) * 10**9, np.array([50.0, 50.0, np.nan, 50.0, 60.0]))
    curve = thinning.power(timeline, most=1)
    assert (curve.mean_w[0], curve.low_w[0], curve.high_w[0]) == (pytest.approx(160 / 3), 50.0, 60.0)


def pairs(curve: thinning.PowerCurve) -> list[tuple[int, int]]:
    return list(zip(curve.t_ns[:-1], curve.t_ns[1:], strict=True))
