"""Solves with many small symmetric matrices at once, samples on the last axes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Factors(NamedTuple):
    """L D Lᵀ of symmetric matrices: the columns of L below its unit diagonal, and D's entries."""

    columns: tuple[jax.Array, ...]
    pivots: jax.Array


def factorise(matrix: jax.Array) -> Factors:
    """L D Lᵀ of symmetric matrices (n, n, ...), without row exchanges.

    Stable where they are positive definite. A pivot ≤ 0 says that one is not; what is solved with
    it is then finite nonsense.
    """
    tiny = jnp.finfo(matrix.dtype).tiny ** 0.5
    columns, pivots = [], []
    rest = matrix
    for _ in range(matrix.shape[0]):
        pivot = rest[0, 0]
        row = rest[0, 1:]
        column = row / jnp.maximum(pivot, tiny)
        rest = rest[1:, 1:] - column[:, None] * row[None]
        columns.append(column)
        pivots.append(pivot)
    return Factors(tuple(columns), jnp.stack(pivots))


def substitute(factors: Factors, b: jax.Array) -> jax.Array:
    """x with L D Lᵀ x = b for b (n, ...) or (n, k, ...)."""
    extra = (1,) * (b.ndim - factors.pivots.ndim)

    def fit(a):
        """Coefficients shaped to multiply rows of b."""
        return a.reshape(a.shape[:1] + extra + a.shape[1:])

    columns = [fit(column) for column in factors.columns]
    pivots = fit(jnp.maximum(factors.pivots, jnp.finfo(b.dtype).tiny ** 0.5))
    rest, scaled = b, []
    for column, pivot in zip(columns, pivots, strict=True):
        scaled.append(rest[0] / pivot)
        rest = rest[1:] - column * rest[:1]
    x = jnp.zeros((0, *b.shape[1:]), b.dtype)
    for column, here in zip(reversed(columns), reversed(scaled), strict=True):
        x = jnp.concatenate([(here - jnp.sum(column * x, axis=0))[None], x])
    return x


def solve(matrix: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x with `matrix` x = b for symmetric (n, n, ...), and the least pivot (...)."""
    factors = factorise(matrix)
    return substitute(factors, b), jnp.min(factors.pivots, axis=0)
