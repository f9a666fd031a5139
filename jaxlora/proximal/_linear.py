"""Inverses of many small symmetric matrices at once, samples on the last axes."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Inverses of symmetric matrices (n, n, ...), and their least pivots (...).

    By n sweeps without row exchanges, stable where a matrix is positive definite. A pivot ≤ 0 says
    that it is not; the inverse is then finite nonsense.
    """
    size, tail = matrix.shape[0], matrix.shape[2:]
    index = jnp.arange(size).reshape((size,) + (1,) * len(tail))

    def sweep(k, carry):
        matrix, least = carry
        pivot = matrix[k, k]
        here = index == k
        row = jnp.where(here, 1.0, matrix[k]) / jnp.maximum(pivot, bound)[None]
        column = matrix[:, k] - here
        swept = jnp.where(here[None], here[:, None], matrix) - column[:, None] * row[None]
        return swept, jnp.minimum(least, pivot)

    bound = jnp.finfo(matrix.dtype).tiny ** 0.5
    start = (matrix, jnp.full(tail, jnp.inf, matrix.dtype))
    return jax.lax.fori_loop(0, size, sweep, start)


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    inverted, least = inverse(*primals)
    change = -times(inverted, times(tangents[0], inverted))
    return (inverted, least), (change, jnp.zeros_like(least))


def times(matrix: jax.Array, b: jax.Array) -> jax.Array:
    """Products of matrices (n, n, ...) and vectors b (n, ...) or matrices b (n, k, ...)."""
    if b.ndim == matrix.ndim:
        return jnp.sum(matrix[:, :, None] * b[None], axis=1)
    return jnp.sum(matrix * b[None], axis=1)


def solve(matrix: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x with `matrix` x = b for symmetric (n, n, ...), and the least pivot (...)."""
    inverted, least = inverse(matrix)
    return times(inverted, b), least
