"""MLflow: energies as metrics with the ends of their intervals, their origin as a tag."""

from __future__ import annotations

import mlflow

from joulemeter.errors import UsageError
from joulemeter.log_entries import entries
from joulemeter.meter import Meter
from joulemeter.phases import Phase
from joulemeter.run import Run


def log_energy(what: Meter | Phase | Run, run_id: str | None = None, step: int | None = None) -> None:
    """Logs the energy of ``what`` to an MLflow run, the active one where ``run_id`` names none.

    ``energy_j/NAME``, ``energy_low_j/NAME`` and ``energy_high_j/NAME`` at ``step``; the origin as the tag
    ``energy_origin``. What the meters did not see is not logged. Raises UsageError where no run is active:
    MLflow would begin one of its own and leave it open.
    """
    run_id = run_id or _active()
    for entry in entries(what):
        at = entry.step if step is None else step
        mlflow.log_metrics(entry.metrics, step=at, run_id=run_id)
        log_origin(run_id, entry.origin)


def log_origin(run_id: str, origin: str) -> None:
    """Says where the energies come from."""
    mlflow.MlflowClient().set_tag(run_id, "energy_origin", origin)


def _active() -> str:
    active = mlflow.active_run()
    if active is None:
        raise UsageError("no MLflow run is active", "with mlflow.start_run(): …, or a run_id")
    run_id: str = active.info.run_id
    return run_id
