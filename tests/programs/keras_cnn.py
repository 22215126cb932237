"""A convolutional network on generated images with augmentation, early stopping and a subclassed model."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np

keras.utils.set_random_seed(2)
r = np.random.default_rng(2)
x = r.normal(size=(120, 8, 8, 1)).astype("float32")
y = (x.mean((1, 2, 3)) > 0).astype("int32")


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.stack = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
        self.head = keras.layers.Dense(2)

    def call(self, x, training=False):
        for layer in self.stack:
            x = layer(x)
        return self.head(x)

    def train_step(self, data):
        result = super().train_step(data)
        return {**result, "extra": 1.0}


net = Net()
net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
stop = keras.callbacks.EarlyStopping(monitor="loss", patience=1)
h = net.fit(x, y, epochs=3, batch_size=30, verbose=0, callbacks=[stop], validation_split=0.25)
print(sorted(h.history), [f"{v:.4f}" for v in h.history["loss"]], len(net.layers))
