"""Local minima of the proximal objectives, differentiated through their optimality condition."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..symmetric import identity_like
from ._linear import inverse, times
from ._newton import OptStep, State
from ._problems import Problem


class Known(eqx.Module):
    """A solver for minima that are known already: returns them, with their derivatives."""

    problem: Problem

    def run(self, init, scale, centre, data) -> OptStep:
        """`init` itself, as the minimiser."""
        residual = scale * self.problem.gradient(init, data) + (init - centre)
        return OptStep(init, State(jnp.zeros((), int), jnp.max(jnp.abs(residual), axis=0)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def local_minimum(solver, init, scale, centre, data) -> tuple[jax.Array, jax.Array]:
    """Minimiser (n, ...) that `solver` finds from `init`, and its gradient's sup-norm (...).

    The derivatives with respect to scale, centre and data are those of the root of the gradient,
    whichever solver found it, to any order and in both modes; `init` carries none.
    """
    params, state = solver.run(init, scale, centre, data)
    return params, state.error


@local_minimum.defjvp
def _local_minimum_jvp(solver, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    # The rule calls the minimum itself, so that differentiating the rule is right as well.
    x, error = local_minimum(solver, *primals)
    _, scale, _, data = primals

    def stationarity(scale, centre, data):
        return scale * solver.problem.gradient(x, data) + (x - centre)

    _, change = jax.jvp(stationarity, primals[1:], tangents[1:])
    hessian = scale * solver.problem.hessian(x, data)
    hessian = hessian + identity_like(hessian)
    inverted, _ = inverse(hessian)
    x_dot = jax.lax.custom_linear_solve(
        lambda v: times(hessian, v),
        -change,
        lambda _, b: times(inverted, b),
        symmetric=True,
    )
    return (x, error), (x_dot, jnp.zeros_like(error))
