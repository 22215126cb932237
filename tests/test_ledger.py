"""A ledger conserves: attributed, idle and unattributed are what the rail measured, whatever ran and was read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulemeter import timeline
from joulemeter.attribution import attribute, share_by_time
from joulemeter.ledger import UNKNOWN, Energy, Ledger, RailLedger, SiteLedger, SiteRail
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans

S = 1_000_000_000


def _rail(kind: str, lag_ns: int | None = 0, range_j: float | None = None) -> Rail:
    return Rail(
        id=0,
        name="r",
        kind=kind,
        origin="simulated",
        period_ns=S // 50,
        lag_ns=lag_ns,
        range_j=range_j,  # type: ignore[arg-type]
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["counter", "gauge"]),
    readings=st.integers(2, 60),
    spans=st.integers(0, 40),
    lag_ns=st.sampled_from([0, 30_000_000, None]),
    failing=st.floats(0, 0.3),
    rule=st.sampled_from([attribute, share_by_time]),
)
@settings(max_examples=25, deadline=None)
def test_attribution_conserves_and_is_never_negative(
    seed: int, kind: str, readings: int, spans: int, lag_ns: int | None, failing: float, rule: object
) -> None:
    """Random readings, some failed; random spans on two lanes that may overlap, lie outside, or last no time."""
    rng = np.random.default_rng(seed)
    t_ns = np.cumsum(rng.integers(S // 100, S // 20, readings))
    watts = rng.uniform(0, 100, readings)
    value = watts if kind == "gauge" else np.cumsum(watts * np.diff(t_ns, prepend=0) / S) % 500.0
    value[rng.random(readings) < failing] = np.nan
    read = timeline.from_readings(_rail(kind, lag_ns, 500.0 if kind == "counter" else None), t_ns, value)
    start = rng.integers(-S // 10, int(t_ns[-1]) + S // 10, spans)
    ran = Spans(
        rng.integers(0, 4, spans).astype(np.int32),
        rng.integers(0, 2, spans).astype(np.int32),
        start,
        start + rng.integers(0, S // 5, spans),
        np.full(spans, -1, np.int64),
    )
    ledger = rule([read], [Site(i, str(i)) for i in range(4)], ran)  # type: ignore[operator]
    ledger.check()
    rail = ledger.rails[0]
    if np.isnan(rail.energy.energy_j):
        return
    assert min(rail.idle.energy_j, rail.unattributed_j, rail.tail_j) >= 0
    for site in ledger.sites:
        for each in (site.rails[0].exclusive, site.rails[0].inclusive):
            assert np.isnan(each.energy_j) or 0 <= each.low_j <= each.energy_j <= each.high_j
        assert not site.rails[0].inclusive.energy_j < site.rails[0].exclusive.energy_j


def _ledger(attributed_j: float = 6.0, unattributed_j: float = 1.0) -> Ledger:
    entry = SiteRail(0, True, (), Energy(6.0, 5.0, 7.0), Energy(6.0, 5.0, 7.0))
    rail = RailLedger(
        _rail("counter"), Energy(10.0, 9.0, 11.0), Energy(3.0, 2.0, 4.0), attributed_j, unattributed_j
    )
    return Ledger((rail,), (SiteLedger(Site(0, "a"), 1, 1.0, 1.0, (entry,)),))


def test_a_ledger_that_adds_up_passes() -> None:
    _ledger().check()


@pytest.mark.parametrize(("attributed_j", "unattributed_j"), [(6.0, 0.0), (6.0, 1.001), (5.0, 2.0)])
def test_a_ledger_that_lost_or_found_a_joule_is_caught(attributed_j: float, unattributed_j: float) -> None:
    with pytest.raises(AssertionError):
        _ledger(attributed_j, unattributed_j).check()


def test_a_site_that_is_not_known_is_no_part_of_the_sum() -> None:
    made = _ledger()
    silent = SiteLedger(Site(1, "b"), 1, 1.0, 1.0, (SiteRail(0, False, (), UNKNOWN, UNKNOWN),))
    replace(made, sites=(*made.sites, silent)).check()


def test_the_total_adds_the_outermost_rails_only() -> None:
    outer = _ledger().rails[0]
    inner = replace(outer, rail=replace(outer.rail, id=1, inside=0))
    beside = replace(outer, rail=replace(outer.rail, id=2))
    assert Ledger((outer, inner, beside), ()).total == Energy(20.0, 18.0, 22.0)


def test_the_total_of_a_rail_that_is_not_known_is_not_known() -> None:
    outer = _ledger().rails[0]
    silent = replace(outer, rail=replace(outer.rail, id=2), energy=UNKNOWN)
    assert np.isnan(Ledger((outer, silent), ()).total.energy_j)
    assert Ledger((outer, silent), ()).to_json()["total"]["energy_j"] is None
