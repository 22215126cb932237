"""Weights & Biases: energies in a run's history with their intervals' ends; the origin in its config."""

from __future__ import annotations

from typing import Any

from joulemeter.log_entries import entries
from joulemeter.meter import Meter
from joulemeter.phases import Phase
from joulemeter.run import Run


def log_energy(what: Meter | Phase | Run, run: Any, step: int | None = None) -> None:
    """Logs the energy of ``what`` to ``run``, what ``wandb.init`` returned, online or offline.

    ``energy_j/NAME``, ``energy_low_j/NAME`` and ``energy_high_j/NAME`` at ``step`` (W&B's own steps only
    rise, and without one each call is a step); of a recorded run, ``energy_step`` counts its spans. The
    origin is ``energy_origin`` in the run's config. What the meters did not see is not logged.
    """
    for entry in entries(what):
        counted = {} if entry.step is None else {"energy_step": entry.step}
        run.log({**entry.metrics, **counted}, step=step)
        log_origin(run, entry.origin)


def log_origin(run: Any, origin: str) -> None:
    """Says where the energies come from."""
    run.config.update({"energy_origin": origin}, allow_val_change=True)
