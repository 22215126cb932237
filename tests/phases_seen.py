"""The phases that a callback closes, with their own stamps: a busy machine may rest between those and their span's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from joulemeter.phases import Phase, Phases
from joulemeter.run import Run


@contextmanager
def phases_seen() -> Iterator[list[Phase]]:
    """Fills the list with each phase as it ends."""
    seen: list[Phase] = []
    end = Phases.end

    def spied(self: Phases, *arguments: Any, **options: Any) -> Phase | None:
        phase = end(self, *arguments, **options)
        if phase is not None:
            seen.append(phase)
        return phase

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phases, "end", spied)
        yield seen


def durations_s(seen: list[Phase], name: str, run: Run) -> list[float]:
    """How long each phase of that name was, each within its span of the record."""
    spans = [
        (start, end)
        for site, start, end in zip(run.spans.site, run.spans.start_ns, run.spans.end_ns, strict=True)
        if run.sites[site].name == name
    ]
    found = [
        [each for each in seen if each.name == name and start <= each.start_ns < each.end_ns <= end]
        for start, end in spans
    ]
    return [(phase.end_ns - phase.start_ns) / 1e9 for (phase,) in found]
