import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.laws import conditional_variance, correlated, root

COVARIANCES = [(1.0, 0.3, 0.5), (1.75, -1.0, 1.5), (0.4, 0.0, 2.0)]


@pytest.mark.parametrize(("var", "cov", "var2"), COVARIANCES)
def test_pairs_have_the_covariance(var, cov, var2):
    """The pair is linear in the normal draws, so its matrix A has A Aᵀ = covariance."""
    draws = jnp.eye(2)
    pair = jnp.stack(correlated(*map(jnp.asarray, (var, cov, var2)), draws[0], draws[1]))
    np.testing.assert_allclose(pair @ pair.T, [[var, cov], [cov, var2]], rtol=1e-14, atol=1e-15)


def test_first_of_the_pair_takes_only_the_first_draw():
    first, second = np.random.default_rng(0).standard_normal((2, 7))
    one, _ = correlated(*map(jnp.asarray, (4.0, 1.0, 2.0)), first, second)
    np.testing.assert_allclose(one, 2 * first, rtol=1e-15)


@pytest.mark.parametrize(("var", "cov", "var2"), COVARIANCES)
def test_conditional_variance_is_the_schur_complement(var, cov, var2):
    precision = np.linalg.inv([[var, cov], [cov, var2]])
    value = conditional_variance(*map(jnp.asarray, (var, cov, var2)))
    np.testing.assert_allclose(value, 1 / precision[1, 1], rtol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_degenerate_pair_is_proportional_and_has_finite_derivatives(scale):
    first, second = np.random.default_rng(1).standard_normal((2, 5))

    def pair(covariance):
        return correlated(covariance[0], covariance[1], covariance[2], first, second)[1]

    covariance = jnp.array([4.0, 2.0 * scale, scale])
    np.testing.assert_allclose(pair(covariance), scale * first, atol=1e-150)
    assert np.all(np.isfinite(jax.jacfwd(pair)(covariance)))
    assert np.all(np.isfinite(jax.jacrev(pair)(covariance)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_root_of_a_rounded_negative_variance_is_next_to_zero(dtype):
    value = root(jnp.asarray(-1e-17, dtype))
    assert value.dtype == dtype
    assert 0 < value < 1e-15
