"""Stock solvers of jaxopt behind the batched interface of our own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..stock import stock_solver
from ._newton import OptStep, State
from ._problems import Problem

STOCK = {"bfgs": "BFGS", "lbfgs": "LBFGS"}


class Stock(eqx.Module):
    """A jaxopt solver, vmapped over the samples on the last axis."""

    problem: Problem
    name: str = eqx.field(static=True)
    maxiter: int = eqx.field(static=True, default=500)
    tol: float = eqx.field(static=True, default=1e-8)

    def run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        """Minimise from `init` (n, samples); returns params (n, samples) and the state."""
        solver = stock_solver(STOCK[self.name])(
            self.problem.objective, maxiter=self.maxiter, tol=self.tol, implicit_diff=False
        )

        def one(init, centre, data):
            params, state = solver.run(init, scale, centre, data)
            return params, state.iter_num

        params, iterations = jax.vmap(one, in_axes=-1, out_axes=-1)(init, centre, data)
        residual = scale * self.problem.gradient(params, data) + (params - centre)
        return OptStep(params, State(iterations.max(), jnp.max(jnp.abs(residual), axis=0)))
