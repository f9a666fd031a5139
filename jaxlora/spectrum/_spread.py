"""How far the truncation of the spectrum carries a perturbation: the replicon's double integral."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ._curve import as_floats
from ._quadrature import quadrature


def truncation_spread(eta: ArrayLike, eps: ArrayLike, kappa0: ArrayLike) -> jax.Array:
    """∬ μ_η(dx) μ_η(dy) [(ζ(x) − ζ(y))/(x − y)]², ζ(x) = (x − ε)_+ (theory.md, section 6).

    Between 0 (ε right of the bands) and 1 (ε left of them). Scalars in and out; right to 1e-12
    relative, up to the right edge.
    """
    eta, eps, kappa0 = as_floats(eta, eps, kappa0)
    above = quadrature(eta, kappa0, eps, clustered=True)
    below = quadrature(eta, kappa0, eps, below=True, clustered=True)
    # The quotient is 1 above ε and 0 below it; across ε it jumps at the corner, where nodes gather.
    distance = above.x[:, None] - below.x[None, :]
    apart = distance > 0
    quotient = (above.x - eps)[:, None] / jnp.where(apart, distance, 1)
    across = jnp.where(apart, quotient, 0) ** 2 * above.weights[:, None] * below.weights[None, :]
    return jnp.sum(above.weights) ** 2 + 2 * jnp.sum(across)
