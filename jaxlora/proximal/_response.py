"""The response of the proximal maps, which Stein's lemma turns into V̂ and k (theory 4, 5)."""

import jax
import jax.numpy as jnp

from ..symmetric import identity_like
from ._linear import inverse, times


@jax.custom_jvp
def response_sums(hessian: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tr X and |X|²_F (...) of the responses X = L (I + scale L)⁻¹ to L = `hessian` (n, n, ...).

    L is the Hessian of the loss at the minimum. scale X = I + (V H)⁻¹ of theory.md's sections 4 and
    6, and scale (I − scale X) = C of section 5.
    """
    X, _ = _response(hessian, scale)
    return jnp.trace(X), _dot(X, X)


@response_sums.defjvp
def _response_sums_jvp(primals, tangents):
    # dX = K dL K − X² dscale with K = (I + scale L)⁻¹, which commutes with X. Traces of it take
    # each entry of dL once, where products of the matrices would compute them many times.
    X, K = _response(*primals)
    dL, dscale = tangents
    square, K_square = times(X, X), times(K, K)
    change = _dot(K_square, dL) - dscale * jnp.trace(square)
    change_of_norm = 2 * (_dot(times(X, K_square), dL) - dscale * _dot(X, square))
    return (jnp.trace(X), _dot(X, X)), (change, change_of_norm)


def _response(hessian: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X and K."""
    K, _ = inverse(scale * hessian + identity_like(hessian))
    return times(K, hessian), K


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Tr a b of symmetric matrices."""
    return jnp.sum(a * b, axis=(0, 1))


def blend(competing_share, stein, before, samples: int) -> jax.Array:
    """Stein's form where the proximal map is continuous, the form before his lemma where not.

    Stein's has far less sampling error, but leaves out jumps: its bias is of the order of the share
    of samples near one. That is compared with the sampling error 1/√samples of the other.
    """
    weight = jnp.minimum(1.0, competing_share * samples**0.5)
    return (1 - weight) * stein + weight * before
