"""Logistic regression in JAX: jit, grad, value_and_grad on the breast-cancer data of scikit-learn."""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler


def loss(w, x, y):
    logits = x @ w[:-1] + w[-1]
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits) + 1e-3 * jnp.sum(w**2)


@jax.jit
def step(w, x, y):
    value, gradient = jax.value_and_grad(loss)(w, x, y)
    return w - 0.5 * gradient, value


def main():
    x, y = load_breast_cancer(return_X_y=True)
    x, y = jnp.asarray(StandardScaler().fit_transform(x)), jnp.asarray(y, dtype=jnp.float32)
    w = jnp.zeros(x.shape[1] + 1)
    for i in range(100):
        w, value = step(w, x, y)
        if i % 25 == 24:
            print(f"step {i + 1}: loss {value:.3f}")
    accuracy = jnp.mean((x @ w[:-1] + w[-1] > 0) == y)
    norm = jnp.linalg.norm(jax.grad(loss)(w, x, y))
    print(f"accuracy {accuracy:.2f}, gradient norm below 0.1: {bool(norm < 0.1)}")


if __name__ == "__main__":
    main()
