"""What an experiment tracker is told of a meter, a phase or a recorded run: metrics, step, origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joulemeter import phases
from joulemeter.meter import Meter
from joulemeter.phases import Phase
from joulemeter.reading import outermost
from joulemeter.run import Run

if TYPE_CHECKING:
    from joulemeter.timeline import Timeline


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Metrics of one moment: ``energy_j/NAME``, ``energy_low_j/NAME``, ``energy_high_j/NAME``; never none.

    ``step`` counts the spans of one name within a recorded run, from 0; None: the caller's own.
    """

    metrics: dict[str, float]
    origin: str
    step: int | None = None


def entries(what: Meter | Phase | Run) -> list[LogEntry]:
    """What there is to log; nothing of what the meters did not see.

    Of a Meter: its energy from the start of its block to now, or to its end (``run``). Of a Phase: its
    energy. Of a recorded Run: the program's energy, and that of each named span (``epoch``, ``validation``)
    that lasted at least one period of every outermost rail; of shorter ones a meter knows nothing alone.
    """
    if isinstance(what, Run):
        return _of_run(what)
    phase = phases.so_far(what) if isinstance(what, Meter) else what
    return _entries([(None, phase)])


def _entries(found: Sequence[tuple[int | None, Phase]]) -> list[LogEntry]:
    return [LogEntry(metrics, phase.origin, step) for step, phase in found if (metrics := phase.metrics())]


def _of_run(run: Run) -> list[LogEntry]:
    from joulemeter.series import program_energy

    origin = ", ".join(sorted({rail.origin for rail in run.rails}))
    whole = Phase("run", 0, 0, program_energy(run), origin)
    return _entries([(None, whole), *_named_spans(run, origin)])


def _named_spans(run: Run, origin: str) -> list[tuple[int | None, Phase]]:
    import numpy as np

    from joulemeter.window import energy_between

    lines, found = run.timelines(), list[tuple[int | None, Phase]]()
    shortest_ns = longest_period_ns(lines)
    for site in (each for each in run.sites if each.kind == "span" and lines):
        rows = np.flatnonzero(run.spans.site == site.id)
        rows = rows[np.argsort(run.spans.start_ns[rows], kind="stable")]
        for step, row in enumerate(rows.tolist()):
            start_ns, end_ns = int(run.spans.start_ns[row]), int(run.spans.end_ns[row])
            if end_ns - start_ns >= shortest_ns:
                energy = energy_between(lines, start_ns, end_ns)
                found.append((step, Phase(site.name, start_ns, end_ns, energy, origin)))
    return found


def longest_period_ns(lines: Sequence[Timeline]) -> int:
    """What a span must last for a meter to know of it alone: the longest period of the outermost rails."""
    return max((rail.period_ns for rail in outermost(tuple(line.rail for line in lines))), default=0)
