"""A batched Newton method for the proximal objectives, in jaxopt's solver interface."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..symmetric import identity_like
from ._linear import solve
from ._problems import Problem


class State(NamedTuple):
    """Iterations done and, for every sample, the sup-norm of the remaining gradient."""

    iter_num: jax.Array
    error: jax.Array


class OptStep(NamedTuple):
    """What `run` returns, as jaxopt's solvers do."""

    params: jax.Array
    state: State


class Newton(eqx.Module):
    """Newton's method with a Levenberg shift per sample, on the whole batch at once.

    A sample's step is kept where it lowers the objective; where it does not, or the shifted
    Hessian is not positive definite, the sample stays and its shift grows. The objective's
    quadratic part has unit curvature, which is the scale of the shifts. Stops when every sample's
    gradient is below `tol` in sup-norm, or after `maxiter` steps.
    """

    problem: Problem
    maxiter: int = eqx.field(static=True, default=100)
    tol: float = eqx.field(static=True, default=1e-10)

    def run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        """Minimise from `init` (n, ...); returns params (n, ...) and the state."""
        problem = self.problem
        eps = jnp.finfo(init.dtype).eps

        def value(x):
            return problem.objective(x, scale, centre, data)

        def gradient(x):
            return scale * problem.gradient(x, data) + (x - centre)

        def body(carry):
            x, shift, f, g, _, count = carry
            hessian = scale * problem.hessian(x, data)
            step, pivot = solve(hessian + identity_like(hessian) * (1 + shift)[None, None], g)
            candidate = x - step
            f_new = value(candidate)
            accept = (pivot > 0) & (f_new <= f + 8 * eps * (1 + jnp.abs(f)))
            x = jnp.where(accept[None], candidate, x)
            shift = jnp.where(accept, jnp.where(shift < 0.1, 0.0, shift / 8), 4 * shift + 0.5)
            g = gradient(x)
            busy = jnp.any(jnp.max(jnp.abs(g), axis=0) > self.tol) & (count + 1 < self.maxiter)
            return x, shift, jnp.where(accept, f_new, f), g, busy, count + 1

        g = gradient(init)
        f = value(init)
        busy = jnp.max(jnp.abs(g)) > self.tol
        start = (init, jnp.zeros_like(f), f, g, busy, jnp.zeros((), int))
        x, _, _, g, _, count = jax.lax.while_loop(lambda carry: carry[4], body, start)
        return OptStep(x, State(count, jnp.max(jnp.abs(g), axis=0)))
