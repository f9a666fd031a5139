"""The Gaussian laws of the pre-activations on test samples, (13) and (14) (theory section 2)."""

import jax
import jax.numpy as jnp


def correlated(var, cov, var2, first, second) -> tuple[jax.Array, jax.Array]:
    """Centred Gaussian pairs of covariance [[var, cov], [cov, var2]] from standard normal ones."""
    rest = conditional_variance(var, cov, var2)
    return jnp.sqrt(var) * first, cov / jnp.sqrt(var) * first + root(rest) * second


def conditional_variance(var, cov, var2) -> jax.Array:
    """Variance of the second of the pair given the first: B = Q − M²/A0, or q − m²."""
    return var2 - cov**2 / var


def root(variance) -> jax.Array:
    """√variance, kept off 0 where its derivatives and its inverse are infinite."""
    least = jnp.finfo(variance.dtype).tiny
    positive = variance > least
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), least**0.5)
