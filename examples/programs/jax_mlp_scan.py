"""A multilayer perceptron in plain JAX: pytrees, vmap, lax.scan over steps, jacobians."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, random


def initial(key, widths):
    keys = random.split(key, len(widths) - 1)
    return [
        {"w": random.normal(k, (n, m)) / jnp.sqrt(n), "b": jnp.zeros(m)}
        for k, n, m in zip(keys, widths, widths[1:], strict=False)
    ]


def predict(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return (x @ last["w"] + last["b"])[0]


def mean_square(params, xs, ys):
    return jnp.mean((jax.vmap(predict, in_axes=(None, 0))(params, xs) - ys) ** 2)


@partial(jax.jit, static_argnames="steps")
def train(params, xs, ys, steps):
    def body(params, _):
        value, gradients = jax.value_and_grad(mean_square)(params, xs, ys)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value

    return lax.scan(body, params, None, length=steps)


key, data_key = random.split(random.PRNGKey(0))
xs = random.uniform(data_key, (200, 2), minval=-1.0)
ys = jnp.where(xs[:, 0] * xs[:, 1] > 0, 1.0, -1.0)
params, values = train(initial(key, [2, 16, 16, 1]), xs, ys, steps=300)
print(f"fell from {values[0]:.1f} to below one: {bool(values[-1] < 1.0)}")
print("slopes at the origin:", jax.jacobian(predict, argnums=1)(params, jnp.zeros(2)).shape)
print("parameters:", sum(leaf.size for leaf in jax.tree.leaves(params)))
