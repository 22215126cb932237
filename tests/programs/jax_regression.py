"""Regression with jit, grad, vmap, scan and a tree of parameters."""

import functools

import jax
import jax.numpy as jnp


def init(key, sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (m, n)) * 0.3, jnp.zeros(n))
        for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def net(params, x):
    for w, b in params[:-1]:
        x = jax.nn.tanh(x @ w + b)
    w, b = params[-1]
    return jnp.dot(x, w) + b


@jax.jit
def loss(params, x, y):
    return jnp.mean((jax.vmap(net, (None, 0))(params, x) - y) ** 2)


@functools.partial(jax.jit, static_argnums=(3,))
def train(params, x, y, steps):
    def step(p, _):
        value, g = jax.value_and_grad(loss)(p, x, y)
        return jax.tree_util.tree_map(lambda a, b: a - 0.1 * b, p, g), value

    return jax.lax.scan(step, params, None, length=steps)


x = jnp.linspace(-1, 1, 32)[:, None]
params, losses = train(init(jax.random.PRNGKey(0), (1, 8, 1)), x, x**2, 20)
print([f"{v:.4f}" for v in losses[::5]], jax.tree_util.tree_structure(params).num_leaves)
