"""The functional API: own layers, own losses, a Lambda that is saved, two inputs, a shared layer."""

import os
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(1)


@keras.saving.register_keras_serializable("mine")
class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return ops.multiply(x, self.scale)


def loss(y, p):
    return ops.mean(ops.square(y - p), axis=-1)


a, b = keras.Input((4,)), keras.Input((4,))
shared = layers.Dense(3, activation="tanh")
merged = layers.Concatenate()([shared(a), Scale()(shared(b))])
out = layers.Dense(1)(layers.Lambda(lambda t: t * 2 + abs(-1))(merged))
model = keras.Model([a, b], out)
model.compile(keras.optimizers.SGD(0.01), loss)
r = np.random.default_rng(0)
u, v = r.normal(size=(2, 32, 4)).astype("float32")
model.fit([u, v], u[:, :1], epochs=2, verbose=0)
with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/m.keras")
    again = keras.models.load_model(f"{folder}/m.keras", custom_objects={"loss": loss}, safe_mode=False)
same = np.allclose(model.predict([u, v], verbose=0), again.predict([u, v], verbose=0))
print(model.count_params(), bool(same), float(np.round(model.predict([u, v], verbose=0).sum(), 3)))
