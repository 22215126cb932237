"""Keras' functional API with two inputs, callbacks of its own and early stopping."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np


class Journal(keras.callbacks.Callback):
    """Writes down when it is called."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def on_epoch_end(self, epoch, logs=None):
        self.lines.append(f"epoch {epoch}: {sorted(logs)}")

    def on_train_end(self, logs=None):
        self.lines.append("done")


def build(width=16):
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    a = keras.layers.Dense(width, activation="relu")(left)
    b = keras.layers.Dense(width, activation="relu")(right)
    joined = keras.layers.Concatenate()([a, keras.layers.LayerNormalization()(b)])
    outputs = {
        "value": keras.layers.Dense(1, name="value")(joined),
        "sign": keras.layers.Dense(1, activation="sigmoid", name="sign")(joined),
    }
    return keras.Model([left, right], outputs)


def data(count, seed):
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(count, 6)), random.normal(size=(count, 4))
    value = left[:, :1] - 2 * right[:, :1]
    return [left, right], {"value": value, "sign": (value > 0).astype("float32")}


if __name__ == "__main__":
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        loss={"value": "mse", "sign": "binary_crossentropy"},
        loss_weights={"value": 1.0, "sign": 0.5},
    )
    journal = Journal()
    x, y = data(256, seed=1)
    model.fit(
        x,
        y,
        epochs=4,
        batch_size=32,
        validation_data=data(64, seed=2),
        callbacks=[journal, keras.callbacks.EarlyStopping(patience=2)],
        verbose=0,
    )
    print(*journal.lines, sep="\n")
    print({name: out.shape for name, out in sorted(model.predict(x, verbose=0).items())})
    print("layers:", [type(layer).__name__ for layer in model.layers])
