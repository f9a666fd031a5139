import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.eigen import eigh


def matrices(size, count, seed=0):
    """Random ones, and ones with equal, zero and widely spread eigenvalues, (n, size, size)."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((count, size, size))
    symmetric = normal + np.swapaxes(normal, 1, 2)
    outer = normal[:, :, :1] * normal[:, None, :, 0]
    spread = 10.0 ** np.linspace(-8, 8, size)
    graded = symmetric * np.sqrt(spread[:, None] * spread[None])
    return np.concatenate([symmetric, outer, graded, np.zeros((1, size, size)), np.eye(size)[None]])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10])
def test_eigenpairs_agree_with_lapack(size):
    matrix = matrices(size, 200)
    values, vectors = (
        np.moveaxis(np.asarray(x), -1, 0) for x in eigh(jnp.asarray(np.moveaxis(matrix, 0, -1)))
    )
    scale = np.abs(matrix).max((1, 2)) + 1e-300
    np.testing.assert_allclose(
        values / scale[:, None], np.linalg.eigvalsh(matrix) / scale[:, None], atol=1e-13 * size
    )
    product = np.swapaxes(vectors, 1, 2) @ vectors
    np.testing.assert_allclose(
        product, np.broadcast_to(np.eye(size), product.shape), atol=1e-13 * size
    )
    rest = (matrix @ vectors - vectors * values[:, None]) / scale[:, None, None]
    np.testing.assert_allclose(rest, 0, atol=1e-13 * size)
