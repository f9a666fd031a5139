"""The response of the proximal maps, which Stein's lemma turns into V̂ and k (theory 4, 5)."""

import jax
import jax.numpy as jnp

from ..symmetric import identity_like
from ._linear import solve
from ._problems import Problem


def response(problem: Problem, x, scale, data) -> jax.Array:
    """X = L (I + scale L)⁻¹ (n, n, ...), with L the Hessian of the loss at x.

    scale X = I + (V H)⁻¹ of theory.md's sections 4 and 6, and scale (I − scale X) = C of section 5.
    """
    hessian = problem.hessian(x, data)
    return solve(scale * hessian + identity_like(hessian), hessian)[0]


def trace_of_response(X: jax.Array, scale: jax.Array) -> jax.Array:
    """Tr X of each sample's response X, whose derivative leaves out how L changes.

    d Tr X = −Tr X² d scale at fixed L. In pre-training that is all that Newton's matrix needs to
    converge fast, and it spares third derivatives of the loss.
    """
    X = jax.lax.stop_gradient(X)
    change = scale - jax.lax.stop_gradient(scale)
    return jnp.trace(X) - change * jnp.sum(X * X, axis=(0, 1))


def blend(competing_share, stein, before, samples: int) -> jax.Array:
    """Stein's form where the proximal map is continuous, the form before his lemma where not.

    Stein's has far less sampling error, but leaves out jumps: its bias is of the order of the share
    of samples near one. That is compared with the sampling error 1/√samples of the other.
    """
    weight = jnp.minimum(1.0, competing_share * samples**0.5)
    return (1 - weight) * stein + weight * before
