"""Solves with many small symmetric matrices at once, samples on the last axes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Up to this size the elimination is unrolled, which runs faster; larger ones compile faster rolled.
UNROLLED = 10


class Factors(NamedTuple):
    """L D Lᵀ of symmetric matrices: `columns` [k, i, ...] holds L_ik for i > k, else 0."""

    columns: jax.Array
    pivots: jax.Array


def factorise(matrix: jax.Array) -> Factors:
    """L D Lᵀ of symmetric matrices (n, n, ...), without row exchanges.

    Stable where they are positive definite. A pivot ≤ 0 says that one is not; what is solved with
    it is then finite nonsense.
    """
    size = matrix.shape[0]
    if size > UNROLLED:
        return _factorise_rolled(matrix)
    columns, pivots = [], []
    rest = matrix
    for k in range(size):
        pivot = rest[0, 0]
        row = rest[0, 1:]
        column = row / _bounded(pivot)[None]
        rest = rest[1:, 1:] - column[:, None] * row[None]
        columns.append(jnp.concatenate([jnp.zeros_like(matrix[0, : k + 1]), column]))
        pivots.append(pivot)
    return Factors(jnp.stack(columns), jnp.stack(pivots))


def _factorise_rolled(matrix: jax.Array) -> Factors:
    index = jnp.arange(matrix.shape[0]).reshape((-1,) + (1,) * (matrix.ndim - 2))

    def eliminate(rest, k):
        row = rest[k]
        pivot = row[k]
        column = jnp.where(index > k, row, 0.0) / _bounded(pivot)[None]
        return rest - column[:, None] * row[None], (column, pivot)

    _, (columns, pivots) = jax.lax.scan(eliminate, matrix, jnp.arange(matrix.shape[0]))
    return Factors(columns, pivots)


def substitute(factors: Factors, b: jax.Array) -> jax.Array:
    """x with L D Lᵀ x = b for b (n, ...) or (n, k, ...)."""
    extra = (1,) * (b.ndim - factors.pivots.ndim)
    columns = factors.columns.reshape(factors.columns.shape[:2] + extra + b.shape[1 + len(extra) :])
    pivots = _bounded(factors.pivots).reshape(columns.shape[1:])
    size = b.shape[0]
    if size > UNROLLED:
        return _substitute_rolled(columns, pivots, b)
    for k in range(size):
        b = b - columns[k] * b[k][None]
    x = list(b / pivots)
    for k in reversed(range(size)):
        for i in range(k + 1, size):
            x[k] = x[k] - columns[k, i] * x[i]
    return jnp.stack(x)


def _substitute_rolled(columns: jax.Array, pivots: jax.Array, b: jax.Array) -> jax.Array:
    def forward(rest, inputs):
        k, column = inputs
        here = rest[k]
        return rest - column * here[None], here

    def backward(x, inputs):
        k, column, here = inputs
        return x.at[k].set(here - jnp.sum(column * x, axis=0)), None

    index = jnp.arange(b.shape[0])
    _, y = jax.lax.scan(forward, b, (index, columns))
    return jax.lax.scan(backward, jnp.zeros_like(b), (index, columns, y / pivots), reverse=True)[0]


def solve(matrix: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x with `matrix` x = b for symmetric (n, n, ...), and the least pivot (...)."""
    factors = factorise(matrix)
    return substitute(factors, b), jnp.min(factors.pivots, axis=0)


def _bounded(pivot: jax.Array) -> jax.Array:
    return jnp.maximum(pivot, jnp.finfo(pivot.dtype).tiny ** 0.5)
