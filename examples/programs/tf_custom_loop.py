"""TensorFlow with a hand-written loop: tf.Module, tf.function, GradientTape and tf.data."""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf


class Dense(tf.Module):
    def __init__(self, inputs, outputs, name=None):
        super().__init__(name=name)
        self.w = tf.Variable(tf.random.stateless_normal((inputs, outputs), seed=(1, outputs)) * 0.3, name="w")
        self.b = tf.Variable(tf.zeros(outputs), name="b")

    def __call__(self, x):
        return x @ self.w + self.b


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = Dense(2, 16, name="hidden"), Dense(16, 2, name="out")

    @tf.function(reduce_retracing=True)
    def __call__(self, x):
        return self.out(tf.nn.tanh(self.hidden(x)))


def rings(count):
    angle = tf.random.stateless_uniform((count,), seed=(3, 4), maxval=6.283)
    label = tf.cast(tf.range(count) % 2, tf.int64)
    radius = 1.0 + tf.cast(label, tf.float32)
    return tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1), label


@tf.function
def step(net, x, y, lr):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x)))
    for variable, gradient in zip(net.trainable_variables, tape.gradient(loss, net.trainable_variables)):
        variable.assign_sub(lr * gradient)
    return loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.3)
    options = parser.parse_args()
    x, y = rings(512)
    net = Net()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(512, seed=5).batch(64)
    for epoch in range(options.epochs):
        losses = [float(step(net, bx, by, tf.constant(options.lr))) for bx, by in dataset]
        if epoch % 4 == 3:
            print(f"epoch {epoch}: {len(losses)} batches, loss below one: {max(losses) < 1.0}")
    accuracy = tf.reduce_mean(tf.cast(tf.argmax(net(x), axis=1) == y, tf.float32))
    print(
        "better than guessing:", bool(accuracy > 0.6), "variables:", [v.name for v in net.trainable_variables]
    )


if __name__ == "__main__":
    main()
