"""Hugging Face: epochs, steps and evaluations of a ``Trainer`` as spans, their energy through its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from joulemeter.phases import Phases

if TYPE_CHECKING:
    from joulemeter.meter import Meter


class EnergyCallback(TrainerCallback):
    """Spans for the phases of ``trainer``; with a ``meter``, their energy through ``trainer.log``.

        trainer.add_callback(EnergyCallback(trainer, meter))

    ``energy_j/epoch``, ``energy_j/step`` (an epoch's energy by its steps) and ``energy_j/evaluation``, each
    with ``energy_low_j/…`` and ``energy_high_j/…``, and ``energy_origin``. The log reaches
    ``state.log_history`` and every reporter of the trainer. What the meters did not see is not logged.
    """

    def __init__(self, trainer: Any, meter: Meter | None = None) -> None:
        self._trainer = trainer
        self._phases = Phases(meter)
        self._first_step = 0
        self._evaluating = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins afresh: a trainer may train again."""
        self._phases.abandon()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the epoch."""
        self._first_step = state.global_step
        self._phases.begin("epoch")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the epoch and logs it; its evaluation comes after it."""
        phase = self._phases.end("epoch")
        if phase is None:
            return
        metrics = phase.metrics()
        steps = state.global_step - self._first_step
        if metrics and steps:
            metrics["energy_j/step"] = metrics["energy_j/epoch"] / steps
        self._log(metrics)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the step: with gradient accumulation, all its batches."""
        self._phases.begin("step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the step; a meter is too slow to see one alone."""
        self._phases.close("step")

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the evaluation at its first batch: the trainer has no earlier word for it."""
        if not self._evaluating:
            self._evaluating = True
            self._phases.begin("evaluation")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the evaluation and logs it."""
        self._ended()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **_: Any) -> None:
        """Closes a prediction's evaluation likewise."""
        self._ended()

    def _ended(self) -> None:
        self._evaluating = False
        phase = self._phases.end("evaluation")
        if phase is not None:
            self._log(phase.metrics())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes what is open."""
        self._phases.abandon()

    def _log(self, metrics: dict[str, Any]) -> None:
        if metrics:
            self._trainer.log({**metrics, "energy_origin": self._phases.origin})
