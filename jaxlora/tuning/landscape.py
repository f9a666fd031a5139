"""An objective over a box of hyperparameters, with its gradient, and the best point seen."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..outputs import Prediction
from ..prediction import predict
from ..programs import rehearse
from ..tasks import Task
from .objectives import Objective
from .space import Space

NEAR = 0.2  # in logarithms: descents that come so near to each other have met


class Evaluation(NamedTuple):
    """A point of a search: its number over all starts, the values, the objective, its gradient.

    `start` counts the descents, and is 0 where the best point of all is refined. `gradient` is the
    largest free |d objective/d log θ| over |objective|.
    """

    number: int
    start: int
    values: dict[str, float]
    objective: float
    gradient: float


class Met(Exception):
    """A descent has come to where an earlier one ended."""


class Point(NamedTuple):
    """Coordinates (k,), the cost there, its gradient (k,) by them and the prediction."""

    x: np.ndarray
    cost: float
    gradient: np.ndarray
    prediction: Prediction

    @property
    def failure(self) -> str | None:
        """Why nothing is known there, in a sentence; None where something is."""
        if failure := self.prediction.status.failure():
            return failure
        known = math.isfinite(self.cost) and bool(np.all(np.isfinite(self.gradient)))
        return None if known else "The objective has no value."


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
        self.unit = math.nan
        self.best: Point | None = None
        self.ended: np.ndarray | None = None  # where the best of the earlier descents did

    def begin(self, number: int) -> None:
        """Descend from another start, with a memory of the best point only."""
        self.number, self.known, self.unit = number, None, math.nan
        self.ended = None if self.best is None else self.best.x

    def __call__(self, x: jax.Array) -> jax.Array:
        """The cost at the coordinates x, with the gradient that is computed with it.

        Raises Met where another descent has been.
        """

        @jax.custom_vjp
        def cost(x):
            return self.evaluate(x)[0]

        cost.defvjp(self.evaluate, lambda gradient, scale: (scale * gradient,))
        return cost(x)

    def evaluate(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The cost and its gradient, in units of the first cost of this descent."""
        point = self.look(np.asarray(x), self.known)
        self.first = self.first or (self.space.task(x), point.prediction)
        if point.failure:
            self.known = None
            return jnp.asarray(1e3), jnp.zeros_like(x)
        self.known = point.prediction
        if math.isnan(self.unit):
            self.unit = size_of(point.cost)
        if self.best is None or point.cost < self.best.cost:
            self.best = point
        if self.ended is not None and np.max(np.abs(x - self.ended)) <= NEAR:
            raise Met
        return jnp.asarray(point.cost / self.unit), jnp.asarray(point.gradient / self.unit)

    def look(self, x: np.ndarray, known: Prediction | None = None) -> Point:
        """The objective at the coordinates x, sought afresh or from what is `known` nearby."""
        point = self._point(x, known)
        self.count += 1
        if self.watch is not None and not point.failure:
            values = dict(zip(self.space.names, np.exp(x).tolist(), strict=True))
            value = -point.cost if self.objective.maximised else point.cost
            self.watch(Evaluation(self.count, self.number, values, value, self.norm(point)))
        return point

    def norm(self, point: Point) -> float:
        """The largest free component of the gradient, relative to the cost."""
        free = self.space.free_gradient(point.x, point.gradient)
        return float(np.max(np.abs(free))) / size_of(point.cost)

    def prediction_of(self, task: Task) -> Prediction:
        """The prediction of `task`, which the first evaluation may have made already."""
        if self.first is not None:
            pairs = zip(*map(jax.tree.leaves, (task, self.first[0])), strict=True)
            if all(np.isclose(x, y, rtol=1e-12, atol=0) for x, y in pairs):
                return self.first[1]
        return predict(task, throw=False, **self.numerics)

    def _point(self, x: np.ndarray, known: Prediction | None) -> Point:
        def cost(x):
            prediction = predict(self.space.task(x), throw=False, known=known, **self.numerics)
            return self.objective.cost(prediction), prediction

        evaluate = jax.value_and_grad(cost, has_aux=True)
        if not self.count:
            rehearse(evaluate, jnp.asarray(x))
        (value, prediction), gradient = evaluate(jnp.asarray(x))
        # What programs return of replicates is NumPy's; objectives are written for JAX's arrays.
        prediction = jax.tree.map(jnp.asarray, prediction)
        return Point(x, float(value), np.asarray(gradient), prediction)


def size_of(cost: float) -> float:
    """|cost|, what changes of it are compared with; 1 where it vanishes."""
    return abs(cost) or 1.0
