"""TensorBoard: energies as scalars with the ends of their intervals, their origin as text."""

from __future__ import annotations

from typing import Any

from joulemeter.log_entries import entries
from joulemeter.meter import Meter
from joulemeter.phases import Phase
from joulemeter.run import Run


def log_energy(what: Meter | Phase | Run, writer: Any, step: int | None = None) -> None:
    """Adds the energy of ``what`` to ``writer``, a SummaryWriter (of torch or of tensorboardX).

    ``energy_j/NAME``, ``energy_low_j/NAME`` and ``energy_high_j/NAME`` at ``step``; the origin as the text
    ``energy_origin``. What the meters did not see is not logged.
    """
    for entry in entries(what):
        at = entry.step if step is None else step
        for name, value in entry.metrics.items():
            writer.add_scalar(name, value, at)
        log_origin(writer, entry.origin)


def log_origin(writer: Any, origin: str) -> None:
    """Says where the energies come from, once a writer and origin."""
    told = writer.__dict__.setdefault("_joulemeter_origins", set())
    if origin not in told:
        told.add(origin)
        writer.add_text("energy_origin", origin)
