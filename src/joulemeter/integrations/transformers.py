"""Hugging Face: epochs, steps and evaluations of a ``Trainer`` as spans, their energy through its log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback, TensorBoardCallback, WandbCallback

from joulemeter.phases import Phases

if TYPE_CHECKING:
    from joulemeter.meter import Meter


class EnergyCallback(TrainerCallback):
    """Spans for the phases of ``trainer``; with a ``meter``, their energy through ``trainer.log``.

        trainer.add_callback(EnergyCallback(trainer, meter))

    ``energy_j/epoch``, ``energy_j/step`` (an epoch's energy by its steps) and ``energy_j/evaluation``, each
    with ``energy_low_j/…`` and ``energy_high_j/…``. The log reaches ``state.log_history``, where
    ``energy_origin`` stands beside the figures, and every reporter of the trainer; TensorBoard, MLflow and
    W&B are told the origin once. What the meters did not see is not logged.
    """

    def __init__(self, trainer: Any, meter: Meter | None = None) -> None:
        self._trainer = trainer
        self._phases = Phases(meter)
        self._first_step = 0
        self._evaluating = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins afresh: a trainer may train again."""
        self._phases.abandon()
        if self._phases.metered:
            _tell_reporters(self._trainer, self._phases.origin)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the epoch."""
        self._first_step = state.global_step
        self._phases.begin("epoch")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the epoch and logs it; its evaluation comes after it."""
        phase = self._phases.end("epoch")
        if phase is None:
            return
        steps = state.global_step - self._first_step
        self._log({**phase.metrics(), **phase.without((), "step").metrics(steps)})

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

    def _log(self, metrics: dict[str, float]) -> None:
        if metrics:
            self._trainer.log(metrics)
            # Beside the figures in the history, but not through the log: MLflow's reporter warns of text.
            self._trainer.state.log_history[-1]["energy_origin"] = self._phases.origin


def _tell_reporters(trainer: Any, origin: str) -> None:
    """Says in each tracker that the trainer reports to where the energies come from."""
    for reporter in trainer.callback_handler.callbacks:
        if isinstance(reporter, TensorBoardCallback) and reporter.tb_writer is not None:
            from joulemeter.integrations import tensorboard

            tensorboard.log_origin(reporter.tb_writer, origin)
        elif isinstance(reporter, MLflowCallback):
            _tell_mlflow(origin)
        elif isinstance(reporter, WandbCallback):
            _tell_wandb(origin)


def _tell_mlflow(origin: str) -> None:
    import mlflow

    from joulemeter.integrations.mlflow import log_origin

    active = mlflow.active_run()
    if active is not None:  # only the first of several processes reports
        log_origin(active.info.run_id, origin)


def _tell_wandb(origin: str) -> None:
    import wandb

    from joulemeter.integrations.wandb import log_origin

    if wandb.run is not None:
        log_origin(wandb.run, origin)
