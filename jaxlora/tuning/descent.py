"""Descents in a box: L-BFGS with bounds, and projected Adam."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..stock import stock_solver

Value = Callable[[jax.Array], jax.Array]
Descent = Callable[[Value, np.ndarray, np.ndarray, np.ndarray, float, int], None]
SHARE = 1e-2
ADAM_STEP = 0.1  # in logarithms, at first
LINE_SEARCH = 6  # evaluations: one that takes more has met a step of the objective


def lbfgs(function: Value, x, low, high, tol: float, evaluations: int) -> None:
    """jaxopt's L-BFGS with bounds (SciPy's), until the projected gradient is below `tol`.

    Or until a step gains less than `SHARE` of `tol`: from there the root of the gradient is sought.
    """
    solver = stock_solver("ScipyBoundedMinimize")(
        fun=function,
        method="L-BFGS-B",
        jit=False,  # what is minimised runs programs of its own
        maxiter=evaluations,
        options={"gtol": tol, "ftol": SHARE * tol, "maxfun": evaluations, "maxls": LINE_SEARCH},
    )
    solver.run(jnp.asarray(x), bounds=(jnp.asarray(low), jnp.asarray(high)))


def adam(function: Value, x, low, high, tol: float, evaluations: int) -> None:
    """optax's Adam, projected on the box, with steps that shrink to nothing."""
    optimiser = optax.adam(optax.cosine_decay_schedule(ADAM_STEP, evaluations))
    point, low, high = (jnp.asarray(end) for end in (x, low, high))
    state = optimiser.init(point)
    for _ in range(evaluations):
        gradient = jax.grad(function)(point)
        if jnp.max(jnp.abs(jnp.clip(point - gradient, low, high) - point)) <= tol:
            return
        update, state = optimiser.update(gradient, state)
        point = jnp.clip(jnp.asarray(optax.apply_updates(point, update)), low, high)


DESCENTS: dict[str, Descent] = {"lbfgs": lbfgs, "adam": adam}
