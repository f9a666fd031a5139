"""The search for the best hyperparameters: descents from several starts, then a look at the best.

Predictions on frozen draws have exact gradients; so few evaluations lead to an optimum, and its
error bar comes from the slopes of the replicates.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..options import Options
from ..outputs import Prediction
from ..tasks import Task
from .descent import DESCENTS
from .ending import Ending
from .landscape import Evaluation, Landscape, Met
from .objectives import Objective
from .refinement import ending, refine, stderr_of
from .space import Space

SAMPLES, REPLICATES = 2**13, 8  # an optimum is known well from fewer than a prediction


class Optimum(NamedTuple):
    """A hyperparameter's best value, its standard error, and whether a bound holds it there.

    `gradient` is the objective's by the logarithm of the value.
    """

    value: float
    stderr: float
    at_bound: bool
    gradient: float


class Tuned(NamedTuple):
    """The best hyperparameters that were found, and what is known of the objective there.

    - `task` and its `prediction`, solved afresh, on the draws of the search.
    - `value`: the objective, with its standard error; `improvement` over the task that was given,
      with the standard error of the difference on the same draws; NaN where that is not solved.
    - `parameters`: an `Optimum` each. Their standard errors come from the sampling error of the
      gradient; NaN where one is at a bound, or where the curvature is not that of an optimum.
    - `gradient_norm`: largest |d objective/d log θ|/|objective| of those not at a bound.
    - `curvature`: eigenvalues of the second derivatives by log θ, of those not at a bound; for an
      optimum all positive (negative where the objective is maximised). NaN where a solve next to
      it failed.
    - `jump`: the largest change of the objective, over ±5 % next to the optimum, that gradients do
      not account for, as samples change between minima; it is smaller for more samples.
    - `evaluations`: values with gradients that the search took; `ending`: an `Ending`, of which
      `converged` says that the gradient came below the tolerance.
    """

    task: Task
    prediction: Prediction
    objective: str
    value: float
    stderr: float
    improvement: float
    improvement_stderr: float
    parameters: dict[str, Optimum]
    gradient_norm: float
    curvature: list[float]
    jump: float
    evaluations: int
    ending: Ending

    @property
    def converged(self) -> bool:
        """Whether the gradient is below the tolerance."""
        return self.ending is Ending.CONVERGED


def search(
    space: Space,
    objective: Objective,
    given: Task,
    *,
    starts: int = 3,
    optimiser: str = "lbfgs",
    tol: float = 1e-4,
    max_evaluations: int = 40,
    watch: Callable[[Evaluation], None] | None = None,
    seed: int = 0,
    **numerics: Any,
) -> Tuned:
    """The best point of `space` for `objective`, and what it improves on `given`; see `tune`."""
    if optimiser not in DESCENTS:
        raise ValueError(f"optimiser = {optimiser!r}: must be one of {', '.join(DESCENTS)}")
    for name, number in (("starts", starts), ("max_evaluations", max_evaluations)):
        if number < 1:
            raise ValueError(f"{name} = {number}: must be at least 1")
    options = numerics.get("options") or Options()
    if options.precision != "float64":
        raise ValueError(f"precision = {options.precision!r}: must be float64 to tune")
    numerics = {"samples": SAMPLES, "replicates": REPLICATES, "seed": seed, **numerics}
    landscape = Landscape(space, objective, numerics, watch)
    for number, x in enumerate(space.starts(starts, seed), 1):
        landscape.begin(number)
        with contextlib.suppress(Met):
            DESCENTS[optimiser](landscape, x, space.low, space.high, tol, max_evaluations)
    return _report(landscape, given, tol)


def _report(landscape: Landscape, given: Task, tol: float) -> Tuned:
    """The refined best point, and what is known of it."""
    point, around = refine(landscape, tol)
    space, objective, x, free = landscape.space, landscape.objective, point.x, around.free
    sign = -1.0 if objective.maximised else 1.0
    stderr = np.full(len(x), math.nan)
    stderr[free] = around.stderr
    before = landscape.prediction_of(given)
    known = before.status.failure() is None
    predictions = point.prediction, before
    costs, costs_before = (np.asarray(objective.cost(p.replicates)) for p in predictions)
    values = np.exp(x)
    parameters = {
        name: Optimum(
            float(values[i]),
            float(stderr[i] * values[i]),
            not free[i],
            float(sign * point.gradient[i]),
        )
        for i, name in enumerate(space.names)
    }
    return Tuned(
        space.task(jnp.asarray(x)),
        point.prediction,
        objective.name,
        sign * point.cost,
        float(stderr_of(costs)),
        float(objective.cost(before)) - point.cost if known else math.nan,
        float(stderr_of(costs_before - costs)) if known else math.nan,
        parameters,
        landscape.norm(point),
        (sign * around.curvature).tolist(),
        around.jump,
        landscape.count,
        ending(landscape, point, around, tol),
    )
