"""Lightning: epochs, batches, validation and test as spans, their energy through the trainer's loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("lightning"):
        raise
    from pytorch_lightning.callbacks import Callback  # type: ignore[assignment]

from joulemeter.phases import Phase, Phases

if TYPE_CHECKING:
    from joulemeter.meter import Meter


class EnergyCallback(Callback):
    """Spans for the phases of a ``Trainer``; with a ``meter``, their energy as metrics.

    ``energy_j/epoch`` (validation within it included), ``energy_j/step`` (an epoch's energy less its
    validation's, by its batches), ``energy_j/validation`` and ``energy_j/test``, each with ``energy_low_j/…``
    and ``energy_high_j/…``, go to every logger; ``energy_origin`` goes there as a hyperparameter, because
    few loggers take text as a metric. What the meters did not see is not logged.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._phases = Phases(meter)
        self._batches = 0
        self._validations: list[Phase] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Says once where the energies come from."""
        for logger in trainer.loggers:
            logger.log_hyperparams({"energy_origin": self._phases.origin})

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the epoch."""
        self._batches, self._validations = 0, []
        self._phases.begin("epoch")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the epoch and logs it."""
        phase = self._phases.end("epoch")
        if phase is not None:
            steps = phase.without(self._validations, "step")
            self._log(trainer, {**phase.metrics(), **steps.metrics(self._batches)})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Opens the step."""
        self._phases.begin("step")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Closes the step; a meter is too slow to see one alone."""
        self._phases.close("step")
        self._batches += 1

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the validation."""
        self._phases.begin("validation")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the validation and logs it, the sanity check aside."""
        phase = self._phases.end("validation")
        if phase is not None and not trainer.sanity_checking:
            self._validations.append(phase)
            self._log(trainer, phase.metrics())

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the test."""
        self._phases.begin("test")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the test and logs it."""
        phase = self._phases.end("test")
        if phase is not None:
            self._log(trainer, phase.metrics())

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Closes what the exception left open."""
        self._phases.abandon()

    def _log(self, trainer: Any, metrics: dict[str, float]) -> None:
        for logger in trainer.loggers if metrics else ():
            logger.log_metrics(metrics, step=trainer.global_step)
