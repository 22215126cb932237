"""tf.Module, checkpoints, a custom gradient, RaggedTensor, py_function and control flow in graphs."""

import os
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf


class Dense(tf.Module):
    def __init__(self, n, name=None):
        super().__init__(name=name)
        self.w = tf.Variable(tf.ones((n, n)) / n)

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
    def __call__(self, x):
        return tf.nn.relu(x @ self.w)


@tf.custom_gradient
def clipped(x):
    return tf.identity(x), lambda g: tf.clip_by_value(g, -0.1, 0.1)


def square(x):
    return x.numpy() ** 2


module = Dense(3)
print(module(tf.ones((2, 3))).numpy().tolist(), len(module.trainable_variables))
with tempfile.TemporaryDirectory() as folder:
    path = tf.train.Checkpoint(m=module).save(f"{folder}/c")
    module.w.assign(tf.zeros((3, 3)))
    tf.train.Checkpoint(m=module).restore(path).assert_consumed()
    tf.saved_model.save(module, f"{folder}/s")
    print(tf.saved_model.load(f"{folder}/s")(tf.ones((1, 3))).numpy().tolist())
with tf.GradientTape() as tape:
    v = tf.constant(3.0)
    tape.watch(v)
    out = clipped(v) * 5
print(tape.gradient(out, v).numpy(), tf.py_function(square, [4.0], tf.float32).numpy())
print(
    tf.ragged.constant([[1, 2], [3]]).to_tensor().numpy().tolist(),
    tf.while_loop(lambda i: i < 5, lambda i: [i + 2], [0])[0].numpy(),
)
