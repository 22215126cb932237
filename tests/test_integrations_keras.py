"""Keras' real fit on tiny data, metered by a simulated machine of 50 W."""

import csv
import os
import warnings
from collections import Counter

import numpy as np
import pytest

import joulemeter
from phases_seen import durations_s, phases_seen

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    keras = pytest.importorskip("keras")
EPOCHS, STEPS = 3, 4
WATTS = "simulated:load=constant,idle=50,busy=50,period=1ms"
X = np.linspace(0, 1, 8 * STEPS, dtype=np.float32)[:, None]


def model():
    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile(optimizer="sgd", loss="mse")
    return made


def fit(made, *callbacks):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made.fit(
            X,
            2 * X,
            epochs=EPOCHS,
            batch_size=8,
            validation_data=(X, 2 * X),
            verbose=0,
            callbacks=list(callbacks),
        )


@pytest.fixture(scope="module")
def seen():
    with phases_seen() as found:
        yield found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, seen):
    from joulemeter.integrations.keras import EnergyCallback

    log = tmp_path_factory.mktemp("keras") / "log.csv"
    with joulemeter.Meter(sources=[WATTS]) as meter:
        history = fit(model(), EnergyCallback(meter), keras.callbacks.CSVLogger(log))
    return meter, history.history, log


def test_the_history_has_the_energy_of_each_epoch_and_validation(fitted) -> None:
    meter, history, _ = fitted
    epochs, validations = history["energy_j/epoch"], history["energy_j/validation"]
    assert len(epochs) == len(validations) == EPOCHS
    assert all(0 < inner < outer for inner, outer in zip(validations, epochs, strict=True))
    assert sum(epochs) < meter.energy_j


def test_the_energy_of_a_step_is_the_epochs_share_without_its_validation(fitted) -> None:
    _, history, _ = fitted
    pairs = zip(history["energy_j/epoch"], history["energy_j/validation"], strict=True)
    assert history["energy_j/step"] == pytest.approx([(epoch - inner) / STEPS for epoch, inner in pairs])


def test_the_energy_of_an_epoch_is_its_power_times_its_time(fitted, seen) -> None:
    meter, history, _ = fitted
    took_s = durations_s(seen, "epoch", meter.run)
    ends = zip(history["energy_low_j/epoch"], took_s, history["energy_high_j/epoch"], strict=True)
    assert all(low <= 50 * seconds <= high for low, seconds, high in ends)


def test_the_origin_is_in_the_history(fitted) -> None:
    _, history, _ = fitted
    assert history["energy_origin"] == ["simulated"] * EPOCHS


def test_a_logger_that_stands_after_it_logs_the_energy(fitted) -> None:
    _, history, log = fitted
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["energy_j/epoch"]) for row in rows] == pytest.approx(history["energy_j/epoch"])


def test_phases_are_spans(fitted) -> None:
    meter, _, _ = fitted
    names = {site.id: site.name for site in meter.run.sites}
    count = Counter(names[site] for site in meter.run.spans.site.tolist())
    assert (count["epoch"], count["step"], count["validation"]) == (EPOCHS, EPOCHS * STEPS, EPOCHS)


def test_without_a_meter_the_history_is_what_it_was() -> None:
    from joulemeter.integrations.keras import EnergyCallback

    history = fit(model(), EnergyCallback()).history
    assert set(history) == {"loss", "val_loss"}
