"""Eigenpairs of many small symmetric matrices at once, samples last, by Jacobi's rotations.

Not `jnp.linalg.eigh`: on a CPU its batches run on the thread pool of XLA and wait there for each
other, so that as many at a time as there are threads wait for ever.
"""

import jax
import jax.numpy as jnp
import numpy as np

SWEEPS = 10  # convergence is quadratic; sizes up to 10 need at most 7


def eigh(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ascending eigenvalues (n, ...) and eigenvectors [component, which, ...] of (n, n, ...)."""
    size = matrix.shape[0]
    eye = jnp.eye(size, dtype=matrix.dtype).reshape((size, size) + (1,) * (matrix.ndim - 2))
    vectors = jnp.broadcast_to(eye, matrix.shape)  # a row each
    pairs = np.stack(np.triu_indices(size, 1), axis=1)

    def rotate(carry, pair):
        matrix, vectors = carry
        p, q = pair
        off = matrix[p, q]
        still = off == 0
        tau = (matrix[q, q] - matrix[p, p]) / (2 * jnp.where(still, 1, off))
        tangent = jnp.where(tau < 0, -1, 1) / (jnp.abs(tau) + jnp.hypot(1, tau))
        tangent = jnp.where(still, 0, tangent)
        cosine = (1 / jnp.hypot(1, tangent))[None]
        sine = tangent[None] * cosine

        def mix(rows):
            a, b = rows[p], rows[q]
            new = rows.at[p].set(cosine * a - sine * b)
            return new.at[q].set(sine * a + cosine * b)

        matrix = jnp.swapaxes(mix(jnp.swapaxes(mix(matrix), 0, 1)), 0, 1)
        return (matrix, mix(vectors)), None

    def sweep(_, carry):
        return jax.lax.scan(rotate, carry, jnp.asarray(pairs))[0]

    if len(pairs):
        matrix, vectors = jax.lax.fori_loop(0, SWEEPS, sweep, (matrix, vectors))
    values = jnp.stack([matrix[i, i] for i in range(size)])
    order = jnp.argsort(values, axis=0)
    vectors = jnp.take_along_axis(vectors, order[:, None], axis=0)
    return jnp.take_along_axis(values, order, axis=0), jnp.swapaxes(vectors, 0, 1)
