"""Keras on scikit-learn's digits: compile, fit with callbacks, evaluate, predict, save and load."""

import os
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
from sklearn.datasets import load_digits

keras.utils.set_random_seed(0)
data = load_digits()
x, y = data.data.astype("float32") / 16, data.target


class Count(keras.callbacks.Callback):
    batches = 0

    def on_train_batch_end(self, batch, logs=None):
        Count.batches += 1


model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(10)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
history = model.fit(x[:1000], y[:1000], batch_size=50, epochs=2, verbose=0, callbacks=[Count()])
print([round(v, 4) for v in history.history["loss"]], Count.batches)
print([round(v, 4) for v in model.evaluate(x[1000:], y[1000:], verbose=0)])
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/m.keras")
    again = keras.models.load_model(f"{folder}/m.keras")
print(bool((again.predict(x[:3], verbose=0) == model.predict(x[:3], verbose=0)).all()))
