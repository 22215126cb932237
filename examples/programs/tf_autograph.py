"""AutoGraph: Python loops and conditions on tensors inside tf.function, beside the same run eagerly."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


@tf.function
def collatz(n):
    """How many steps from n to 1."""
    steps = tf.constant(0)
    while n > 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
def running_maximum(values):
    best = tf.constant(float("-inf"))
    out = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
    for i in tf.range(tf.shape(values)[0]):
        if values[i] > best:
            best = values[i]
        out = out.write(i, best)
    return out.stack()


def newton(f, x, steps=6):
    for _ in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        x = x - y / tape.gradient(y, x)
    return x


print("collatz:", [int(collatz(tf.constant(n))) for n in (1, 6, 7, 27)])
print("running maximum:", running_maximum(tf.constant([1.0, 3.0, 2.0, 5.0, 4.0])).numpy().tolist())
print("traces:", collatz.experimental_get_tracing_count())
print(f"square root of two: {newton(lambda x: x * x - 2.0, tf.constant(1.0)).numpy():.4f}")
tf.config.run_functions_eagerly(True)
print("eagerly the same:", int(collatz(tf.constant(27))))
