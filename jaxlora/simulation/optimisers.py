"""L-BFGS by optax and by jaxopt behind one interface, a step at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..stock import stock_solver

MEMORY = 12  # pairs of steps and gradients that approximate the Hessian
LINE_SEARCH_STEPS = 20

ValueAndGradient = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class Progress(NamedTuple):
    """Where an optimisation is: its value and gradient there, and the evaluations so far."""

    value: jax.Array
    gradient: jax.Array
    evaluations: jax.Array


class OptaxLBFGS:
    """`optax.lbfgs`, whose line search is Zoom.

    `alone`: from the start on and with the exact products, whatever else may be faster.
    """

    def __init__(self, *, alone: bool = False):
        self.alone = alone
        search = optax.scale_by_zoom_linesearch(LINE_SEARCH_STEPS, initial_guess_strategy="one")
        self.transform = optax.lbfgs(memory_size=MEMORY, linesearch=search)

    def init(self, function: ValueAndGradient, x: jax.Array):
        """The state at a start x."""
        value, gradient = function(x)
        return self.transform.init(x), Progress(value, gradient, jnp.asarray(1))

    def step(self, function: ValueAndGradient, x: jax.Array, state):
        """x and the state after one iteration."""
        inner, at = state
        updates, inner = self.transform.update(
            at.gradient, inner, x, value=at.value, grad=at.gradient, value_fn=_value(function)
        )
        search: Any = inner[-1]  # type: ignore[index]
        count = at.evaluations + search.info.num_linesearch_steps
        moved: Any = optax.apply_updates(x, updates)
        return moved, (inner, Progress(search.value, search.grad, count))

    @staticmethod
    def progress(state) -> Progress:
        """What the state knows of the point it belongs to."""
        return state[1]

    @staticmethod
    def corrected(state, value: jax.Array, gradient: jax.Array):
        """The state with another value and gradient of its point."""
        inner, at = state
        return inner, at._replace(value=value, gradient=gradient)


class JaxoptLBFGS:
    """`jaxopt.LBFGS`, whose line search is Zoom."""

    alone = False

    def _solver(self, function: ValueAndGradient) -> Any:
        return stock_solver("LBFGS")(
            function,
            value_and_grad=True,
            history_size=MEMORY,
            maxls=LINE_SEARCH_STEPS,
            tol=0.0,
            linesearch_init="increase",
            implicit_diff=False,
        )

    def init(self, function: ValueAndGradient, x: jax.Array):
        """The state at a start x."""
        return self._solver(function).init_state(x)

    def step(self, function: ValueAndGradient, x: jax.Array, state):
        """x and the state after one iteration."""
        return self._solver(function).update(x, state)

    @staticmethod
    def progress(state) -> Progress:
        """What the state knows of the point it belongs to."""
        return Progress(state.value, state.grad, state.num_fun_eval)

    @staticmethod
    def corrected(state, value: jax.Array, gradient: jax.Array):
        """The state with another value and gradient of its point."""
        return state._replace(value=value, grad=gradient)


OPTIMISERS = {
    "optax": OptaxLBFGS(),
    "jaxopt": JaxoptLBFGS(),
    "optax-alone": OptaxLBFGS(alone=True),
}


def _value(function: ValueAndGradient) -> Callable[[jax.Array], jax.Array]:
    """`function`'s value, whose derivative is the gradient that came with it."""

    @jax.custom_vjp
    def value(x):
        return function(x)[0]

    value.defvjp(function, lambda gradient, cotangent: (cotangent * gradient,))
    return value
