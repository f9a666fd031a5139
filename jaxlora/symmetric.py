"""Symmetric T×T fields packed as their upper triangle, samples last (theory section 2)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def packed_size(tokens: int) -> int:
    """Number L = T(T+1)/2 of independent entries of a symmetric T×T field."""
    return tokens * (tokens + 1) // 2


@functools.cache
def positions(tokens: int) -> np.ndarray:
    """Index (T, T) into the packed triangle of each matrix entry."""
    index = np.zeros((tokens, tokens), dtype=int)
    rows, columns = np.triu_indices(tokens)
    index[rows, columns] = index[columns, rows] = np.arange(packed_size(tokens))
    return index


@functools.cache
def weights(tokens: int) -> np.ndarray:
    """Variances s_ab = 1 + δ_ab of the packed entries, shape (L,)."""
    rows, columns = np.triu_indices(tokens)
    return 1.0 + (rows == columns)


def root_weights(tokens: int, like: jax.Array) -> jax.Array:
    """√s shaped (L, 1, ...) to multiply the packed field `like`, in its precision."""
    root = np.sqrt(weights(tokens)).reshape((-1,) + (1,) * (like.ndim - 1))
    return jnp.asarray(root, like.dtype)


def unpack(packed: jax.Array, tokens: int) -> jax.Array:
    """Matrix (T, T, ...) of a packed field (L, ...)."""
    return packed[positions(tokens)]


def pack(matrix: jax.Array) -> jax.Array:
    """Upper triangle (L, ...) of a symmetric matrix (T, T, ...)."""
    rows, columns = np.triu_indices(matrix.shape[0])
    return matrix[rows, columns]


def identity_like(matrix: jax.Array) -> jax.Array:
    """Identity I_T shaped (T, T, 1, ...) to add to the matrices `matrix` (T, T, ...)."""
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return eye.reshape(eye.shape + (1,) * (matrix.ndim - 2))
