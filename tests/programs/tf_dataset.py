"""Input pipelines: generators, interleave, windows, reduce, enumerate, and a summary of what they yield."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf


def generate():
    for i in range(6):
        yield i, float(i) ** 0.5


data = tf.data.Dataset.from_generator(
    generate, output_signature=(tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float32))
)
for number, (i, root) in enumerate(data.filter(lambda i, r: i % 2 == 0)):
    print(number, i.numpy(), f"{root.numpy():.3f}")
windows = tf.data.Dataset.range(7).window(3, shift=2, drop_remainder=True).flat_map(lambda w: w.batch(3))
print([w.tolist() for w in windows.as_numpy_iterator()])
print(tf.data.Dataset.range(5).reduce(tf.constant(0, tf.int64), lambda a, b: a + b).numpy())
both = tf.data.Dataset.zip((tf.data.Dataset.range(3), tf.data.Dataset.range(3, 6)))
print([(a.numpy().item(), b.numpy().item()) for a, b in both], next(iter(both))[1].numpy())
print(
    len(
        list(
            tf.data.Dataset.range(4).interleave(
                lambda x: tf.data.Dataset.from_tensors(x).repeat(2), cycle_length=2
            )
        )
    )
)
