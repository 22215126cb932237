"""Keras: epochs, batches, validation and prediction as spans, their energy through the epoch's logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from joulemeter.phases import Phase, Phases

if TYPE_CHECKING:
    from joulemeter.meter import Meter


class EnergyCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Spans for the phases of ``fit``, ``evaluate`` and ``predict``; with a ``meter``, energy for ``fit``'s.

    ``energy_j/epoch`` (validation included), ``energy_j/step`` (an epoch's energy less its validation's, by
    its batches) and ``energy_j/validation``, each with ``energy_low_j/…`` and
    ``energy_high_j/…``, are added to the logs of each epoch: ``History`` has them, and every callback that
    stands after this one (CSVLogger, TensorBoard). The origin is in ``origin``, and in the history as
    ``energy_origin``: text among the logs would stop TensorBoard. What the meters did not see is not logged.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        super().__init__()
        self._phases = Phases(meter)
        self._validations: list[Phase] = []
        self._batches = 0

    @property
    def origin(self) -> str:
        """Where the energies come from."""
        return self._phases.origin

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins afresh: a model may be fitted again."""
        self._phases.abandon()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Opens the epoch."""
        self._validations, self._batches = [], 0
        self._phases.begin("epoch")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Closes the epoch and adds its energy to ``logs``."""
        phase = self._phases.end("epoch")
        metrics = {} if phase is None else phase.metrics()
        if phase is not None:
            metrics |= phase.without(self._validations, "step").metrics(self._batches)
        if logs is not None:
            for each in (metrics, *(validation.metrics() for validation in self._validations)):
                logs.update(each)
        if metrics and self.model.history is not None:
            self.model.history.history.setdefault("energy_origin", []).append(self.origin)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Opens the step."""
        self._phases.begin("step")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Closes the step; a meter is too slow to see one alone."""
        self._phases.close("step")
        self._batches += 1

    def on_test_begin(self, logs: Any = None) -> None:
        """Opens a validation or evaluation."""
        self._phases.begin("validation")

    def on_test_end(self, logs: Any = None) -> None:
        """Closes the validation; its energy is logged with its epoch's."""
        phase = self._phases.end("validation")
        self._validations += [] if phase is None else [phase]

    def on_predict_begin(self, logs: Any = None) -> None:
        """Opens a prediction."""
        self._phases.begin("prediction")

    def on_predict_end(self, logs: Any = None) -> None:
        """Closes the prediction."""
        self._phases.close("prediction")

    def on_train_end(self, logs: Any = None) -> None:
        """Closes what is open."""
        self._phases.abandon()
