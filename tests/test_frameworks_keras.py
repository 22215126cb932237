"""Keras' layers as spans."""

import os
import warnings

import numpy as np
import pytest

from joulemeter.frameworks import keras as layers
from test_frameworks_torch import Sink

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


@pytest.fixture
def sink():
    """What is written while the tracer runs."""
    tracer, made = layers.tracer("module"), Sink()
    tracer.start(made)
    yield made
    tracer.stop()


class Twice(keras.layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2 * x


def test_a_layer_is_named_by_its_class_and_its_name_and_nests(sink: Sink) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="first"), Twice(name="second")])
    sink.spans.clear()
    model(np.ones((1, 3), np.float32))
    inner = [name for name, depth in sink.spans if depth > 0]
    assert inner[0] == "keras.Dense first"
    assert inner[-1] == "Twice second"
    assert sink.spans[-1][0].startswith("keras.Sequential")


def test_fit_traces_through_the_wrapper_and_learns_the_same(sink: Sink) -> None:
    def losses() -> list[float]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), Twice(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(np.ones((8, 3)), np.ones(8), epochs=2, verbose=0).history["loss"]

    traced = losses()
    assert any(name.startswith("Twice") for name, _ in sink.spans)
    assert losses() == traced


def test_a_span_ends_with_its_exception(sink: Sink) -> None:
    with pytest.raises(ValueError, match="expected"):
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])(np.ones((1, 4), np.float32))
    assert sink.open == []


def test_stopping_gives_the_slot_back() -> None:
    before, tracer = keras.layers.Layer.__call__, layers.tracer("module")
    tracer.start(Sink())
    assert keras.layers.Layer.__call__ is not before
    tracer.stop()
    assert keras.layers.Layer.__call__ is before
