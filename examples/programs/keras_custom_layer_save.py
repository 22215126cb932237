"""A custom Keras layer with weights and a config, saved, loaded and compared."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("examples")
class Gate(keras.layers.Layer):
    """x · sigmoid(x w), w trained."""

    def __init__(self, scale: float = 1.0, **options):
        super().__init__(**options)
        self.scale = scale

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], shape[-1]), initializer="glorot_uniform", name="w")

    def call(self, x):
        return x * ops.sigmoid(self.scale * ops.matmul(x, self.w))

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


def main() -> int:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((10,))
    model = keras.Model(inputs, keras.layers.Dense(2)(Gate(scale=2.0)(Gate()(inputs))))
    model.compile(optimizer="sgd", loss="mse")
    x = np.random.default_rng(3).normal(size=(64, 10)).astype("float32")
    for start in range(0, 64, 16):
        model.train_on_batch(x[start : start + 16], x[start : start + 16, :2])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "gate.keras")
        model.save(path)
        again = keras.models.load_model(path)
    same = np.allclose(model.predict(x, verbose=0), again.predict(x, verbose=0), atol=1e-6)
    print("saved and loaded alike:", same)
    print("scales:", [layer.scale for layer in again.layers if isinstance(layer, Gate)])
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
