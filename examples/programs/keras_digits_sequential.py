"""Keras' sequential model on the digits: compile, fit, evaluate, predict."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16.0).astype("float32").reshape(-1, 8, 8, 1)
x_train, x_test, y_train, y_test = x[:1400], x[1400:], y[:1400], y[1400:]

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.1),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
)
history = model.fit(x_train, y_train, epochs=3, batch_size=64, validation_split=0.1, verbose=0)
print(
    "losses fall:",
    all(a > b for a, b in zip(history.history["loss"], history.history["loss"][1:], strict=False)),
)
loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
print(f"accuracy above chance: {accuracy > 0.3}, parameters {model.count_params()}")
probabilities = model.predict(x_test[:5], verbose=0)
print(
    "rows add up to one:", bool(np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)), probabilities.shape
)
