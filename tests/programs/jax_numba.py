"""JAX transformations side by side with functions that numba compiles from their bytecode."""

import jax
import jax.numpy as jnp
import numba
import numpy as np


@numba.njit
def total(n):
    s = 0
    for i in range(n):
        s += abs(i - 3)
    return s


@numba.njit(fastmath=True)
def twice(n):
    return total(n) + len("ab")


@numba.vectorize
def at_least_one(x):
    return max(x, 1)


@jax.custom_vjp
def safe(x):
    return jnp.sqrt(x)


safe.defvjp(lambda x: (safe(x), x), lambda x, g: (g / (2 * jnp.sqrt(jnp.maximum(x, 1e-3))),))
print(total(10), twice(4), at_least_one(np.arange(3)).tolist(), total.py_func(5))
print(f"{jax.grad(safe)(0.0):.3f}", jax.jit(jax.hessian(lambda v: (v**3).sum()))(jnp.ones(2)).tolist())
print(jax.make_jaxpr(lambda a: jnp.sin(a) * 2)(1.0).eqns[0].primitive)
