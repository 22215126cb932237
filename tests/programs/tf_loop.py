"""A training loop by hand: tf.function with AutoGraph, GradientTape, tf.data, variables and metrics."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf

tf.random.set_seed(0)
w, b = tf.Variable(tf.zeros((3, 1))), tf.Variable(0.0)
x = tf.random.normal((64, 3), seed=1)
y = x @ tf.constant([[1.0], [-2.0], [0.5]]) + 0.3
data = (
    tf.data.Dataset.from_tensor_slices((x, y))
    .map(lambda a, c: (tf.math.multiply(a, 1.0), c))
    .batch(16)
    .prefetch(1)
)


@tf.function
def step(a, c):
    with tf.GradientTape() as tape:
        error = a @ w + b - c
        loss = tf.reduce_mean(error**2)
    gradients = tape.gradient(loss, [w, b])
    if loss > 0.0:
        for v, g in zip([w, b], gradients, strict=True):
            v.assign_sub(0.1 * g)
    total = tf.constant(0.0)
    for i in tf.range(3):
        total += tf.cast(i, tf.float32)
    return loss + total - 3.0


for epoch in range(3):
    losses = [step(a, c).numpy() for a, c in data]
    print(epoch, [f"{v:.4f}" for v in losses])
print(
    step.experimental_get_tracing_count(), [f"{v:.3f}" for v in w.numpy().ravel()], data.cardinality().numpy()
)
