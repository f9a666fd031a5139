"""The front between two objectives: what one costs in the other."""

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np

from ..outputs import ConvergenceError
from ..tasks import Task
from .objectives import Objective, Observe, as_objective
from .refinement import stderr_of
from .search import Tuned
from .space import Bounds, hyperparameter_space
from .tune import tune


class FrontPoint(NamedTuple):
    """A task that no other one betters in both objectives, `values` of both and standard errors.

    `weight` is that of the second objective in the sum that it minimises.
    """

    weight: float
    values: tuple[float, float]
    stderr: tuple[float, float]
    tuned: Tuned


def pareto_front(
    task: Task,
    over: Bounds,
    objectives: tuple[str | Observe | Objective, str | Observe | Objective] = (
        "error_ft",
        "overlap",
    ),
    *,
    points: int = 7,
    starts: int = 3,
    **settings: Any,
) -> list[FrontPoint]:
    """Points on the Pareto front of two objectives over hyperparameters, by scalarised tuning.

    Its ends are the optima of each alone; between them the sum (1 − s) f₁ + s f₂ is minimised at
    equidistant weights s, with both in units of what they change by from end to end, each from the
    point before. That finds the convex part of a front; where weights lead to the same point the
    front bends away from it there. In order of the weight; points that another betters are left
    out, and weights between the ends where nothing is solved. Arguments as in `tune`.

    Raises ValueError for fewer than two points, and what `tune` raises for the ends.
    """
    if points < 2:
        raise ValueError(f"points = {points}: must be at least 2")
    pair = tuple(as_objective(objective) for objective in objectives)
    bounds = hyperparameter_space(task, over).bounds
    first, last = (tune(task, bounds, one, starts=starts, **settings) for one in pair)
    ends = np.array([[float(one.cost(t.prediction)) for one in pair] for t in (first, last)])
    spans = ends[1] - ends[0]  # of the first cost, which rises, and of the second, which falls
    found = [_point(0.0, first, pair)]
    if spans[0] > 0 > spans[1]:
        for weight in np.linspace(0, 1, points)[1:-1].tolist():
            scalarised = _scalarised(pair, weight, ends[0], np.abs(spans))
            with contextlib.suppress(ConvergenceError):
                tuned = tune(found[-1].tuned.task, bounds, scalarised, starts=1, **settings)
                found.append(_point(weight, tuned, pair))
    found.append(_point(1.0, last, pair))
    return [point for point in found if not any(_betters(other, point, pair) for other in found)]


def _scalarised(pair, weight: float, origin, spans) -> Objective:
    shares = np.array([1 - weight, weight]) / spans

    def observe(prediction) -> jax.Array:
        costs = (one.cost(prediction) for one in pair)
        changes = [s * (c - o) for s, c, o in zip(shares, costs, origin, strict=True)]
        return 1 + weight + changes[0] + changes[1]  # from 1 on, which keeps it off 0

    return Objective(f"{1 - weight:g} {pair[0].name}, {weight:g} {pair[1].name}", observe)


def _point(weight: float, tuned: Tuned, pair) -> FrontPoint:
    replicates = [one.observe(tuned.prediction.replicates) for one in pair]
    first, second = (float(one.observe(tuned.prediction)) for one in pair)
    return FrontPoint(
        weight,
        (first, second),
        (float(stderr_of(replicates[0])), float(stderr_of(replicates[1]))),
        tuned,
    )


def _betters(one: FrontPoint, other: FrontPoint, pair) -> bool:
    """Whether `one` is no worse in both objectives, and better in one."""
    signs = [-1 if objective.maximised else 1 for objective in pair]
    changes = [s * (a - b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
    return max(changes) <= 0 and min(changes) < 0
