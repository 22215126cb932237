"""A keras.Model subclass with its own train_step: a small autoencoder."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from sklearn.datasets import load_digits


class Autoencoder(keras.Model):
    def __init__(self, code: int, **options):
        super().__init__(**options)
        self.encoder = keras.Sequential(
            [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(code, name="code")]
        )
        self.decoder = keras.Sequential(
            [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(64, activation="sigmoid")]
        )
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.tracker]

    def call(self, inputs, training=False):
        return self.decoder(self.encoder(inputs), training=training)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data, training=True) - data))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.tracker.update_state(loss)
        return {m.name: m.result() for m in self.metrics}


def main():
    keras.utils.set_random_seed(2)
    pixels = (load_digits().data / 16.0).astype("float32")
    model = Autoencoder(code=8)
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    dataset = tf.data.Dataset.from_tensor_slices(pixels).batch(128, drop_remainder=True).prefetch(2)
    losses = model.fit(dataset, epochs=5, shuffle=False, verbose=0).history["loss"]
    print(f"loss fell: {losses[-1] < losses[0]}, epochs {len(losses)}")
    print("code:", model.encoder(pixels[:3]).shape, "trainable tensors:", len(model.trainable_variables))


main()
