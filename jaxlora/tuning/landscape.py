"""An objective over a box of hyperparameters, with its gradient, and the best point seen."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..outputs import Prediction
from ..prediction import predict
from ..tasks import Task
from .objectives import Objective
from .space import Space


class Evaluation(NamedTuple):
    """A point of a descent: its number over all starts, the values, the objective, its gradient.

    `gradient` is the largest free |d objective/d log θ| over |objective|.
    """

    number: int
    start: int
    values: dict[str, float]
    objective: float
    gradient: float


class Landscape:
    """The objective as a cost over the coordinates of `space`.

    A descent sees it in units of its first cost, and where it has no value, or is not solved, as
    flat and higher than all else.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        numerics: dict[str, Any],
        watch: Callable[[Evaluation], None] | None,
    ):
        self.space, self.objective, self.numerics, self.watch = space, objective, numerics, watch
        self.known: Prediction | None = None
        self.first: tuple[Task, Prediction] | None = None
        self.count = self.number = 0
        self.unit = self.best_cost = math.nan
        self.best, self.best_gradient = space.start, math.inf

    def begin(self, number: int) -> None:
        """Descend from another start, with a memory of the best point only."""
        self.number, self.known, self.unit = number, None, math.nan

    def __call__(self, x: jax.Array) -> jax.Array:
        """The cost at the coordinates x, with the gradient that is computed with it."""

        @jax.custom_vjp
        def cost(x):
            return self.evaluate(x)[0]

        cost.defvjp(self.evaluate, lambda gradient, scale: (scale * gradient,))
        return cost(x)

    def evaluate(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The cost and its gradient, in units of the first cost of this descent."""
        cost, gradient, prediction = self.cost_and_gradient(x, self.known)
        self.count += 1
        self.first = self.first or (self.space.task(x), prediction)
        finite = math.isfinite(cost) and bool(np.all(np.isfinite(gradient)))
        if not finite or prediction.status.failure():
            self.known = None
            return jnp.asarray(1e3), jnp.zeros_like(x)
        self.known = prediction
        if math.isnan(self.unit):
            self.unit = size_of(cost)
        norm = float(np.max(np.abs(self.space.free_gradient(np.asarray(x), gradient))))
        norm /= size_of(cost)
        if not cost >= self.best_cost:
            self.best, self.best_cost, self.best_gradient = np.asarray(x), cost, norm
        if self.watch is not None:
            values = dict(zip(self.space.names, np.exp(x).tolist(), strict=True))
            value = -cost if self.objective.maximised else cost
            self.watch(Evaluation(self.count, self.number, values, value, norm))
        return jnp.asarray(cost / self.unit), jnp.asarray(gradient / self.unit)

    def prediction_of(self, task: Task) -> Prediction:
        """The prediction of `task`, which the first evaluation may have made already."""
        if self.first is not None:
            pairs = zip(*map(jax.tree.leaves, (task, self.first[0])), strict=True)
            if all(np.isclose(x, y, rtol=1e-12, atol=0) for x, y in pairs):
                return self.first[1]
        return predict(task, throw=False, **self.numerics)

    def cost_and_gradient(self, x, known) -> tuple[float, np.ndarray, Prediction]:
        """The cost, its gradient by the coordinates and the prediction there."""

        def cost(x):
            prediction = predict(self.space.task(x), throw=False, known=known, **self.numerics)
            return self.objective.cost(prediction), jax.lax.stop_gradient(prediction)

        (value, prediction), gradient = jax.value_and_grad(cost, has_aux=True)(jnp.asarray(x))
        return float(value), np.asarray(gradient), prediction


def size_of(cost: float) -> float:
    """|cost|, what changes of it are compared with; 1 where it vanishes."""
    return abs(cost) or 1.0
