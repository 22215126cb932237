"""Phases of a training: spans, and energies known when the meter has seen their end."""

import math
from pathlib import Path

import pytest

from joulemeter import rawfiles
from joulemeter.ledger import UNKNOWN, Energy
from joulemeter.phases import Phase, Phases
from joulemeter.recorder import Recorder


class Meter:
    """Answers ``energy_between`` from the ``known``-th question on."""

    origin = "simulated"

    def __init__(self, known: int = 1) -> None:
        self.known, self.asked, self.open = known, 0, []

    def span(self, name: str):
        meter = self

        class Span:
            def __enter__(self):
                meter.open.append(name)

            def __exit__(self, *_):
                meter.open.remove(name)

        return Span()

    def energy_between(self, start_ns: int, end_ns: int) -> Energy:
        self.asked += 1
        return Energy(6.0, 5.0, 8.0) if self.asked >= self.known else UNKNOWN


def test_the_end_of_a_phase_waits_for_the_meter_after_its_span_has_ended() -> None:
    meter, naps = Meter(known=3), []
    phases = Phases(meter, settle_s=60.0, sleep=lambda s: naps.append((s, list(meter.open))))
    phases.begin("epoch")
    phase = phases.end("epoch")
    assert phase.energy.energy_j == 6.0
    assert [opened for _, opened in naps] == [[], []]


def test_a_meter_that_never_saw_it_gives_no_metrics_and_no_zero() -> None:
    phases = Phases(Meter(known=10**9), settle_s=0.0)
    phases.begin("epoch")
    phase = phases.end("epoch")
    assert math.isnan(phase.energy.energy_j)
    assert phase.metrics() == {}


def test_metrics_are_the_energy_and_the_ends_of_its_interval_of_one_part() -> None:
    phase = Phase("step", 0, 1, Energy(6.0, 5.0, 8.0), "simulated")
    assert phase.metrics(parts=2) == {
        "energy_j/step": 3.0,
        "energy_low_j/step": 2.5,
        "energy_high_j/step": 4.0,
    }
    assert phase.metrics(parts=0) == {}


def test_ending_what_was_not_begun_is_nothing() -> None:
    assert Phases(Meter()).end("epoch") is None


def test_a_phase_begun_again_ends_the_one_an_exception_left_open() -> None:
    meter = Meter()
    phases = Phases(meter)
    phases.begin("epoch")
    phases.begin("step")
    phases.begin("epoch")
    assert sorted(meter.open) == ["epoch", "step"]
    phases.abandon()
    assert meter.open == []


@pytest.mark.parametrize("recorders", [1, 2])
def test_without_a_meter_a_phase_is_a_span_of_whatever_records(tmp_path: Path, recorders: int) -> None:
    made = [Recorder(tmp_path / str(n)) for n in range(recorders)]
    phases = Phases()
    phases.begin("epoch")
    phase = phases.end("epoch")
    for each in made:
        each.close()
    assert phase.metrics() == {}
    assert phase.origin == "unmetered"
    for n in range(recorders):
        found = rawfiles.read(tmp_path / str(n))
        assert [found.sites[site].name for site in found.spans.site.tolist()] == ["epoch"]
