"""The search for the best hyperparameters: descents from several starts, then a look at the best.

Predictions on frozen draws are smooth functions of the hyperparameters, with exact gradients; so
few evaluations lead to an optimum, and its error bar comes from the replicates' own gradients.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..options import Options
from ..outputs import ConvergenceError, Prediction, mean_and_stderr
from ..tasks import Task
from .descent import DESCENTS
from .landscape import Evaluation, Landscape, size_of
from .objectives import Objective
from .space import Space

SAMPLES, REPLICATES = 2**13, 8  # an optimum is known well from fewer than a prediction
STEP = 1e-3  # in logarithms, of the differences of gradients


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
    - `gradient_norm`: largest |d objective/d log θ|/|objective| of those not at a bound;
      `converged` says that it came below the tolerance.
    - `curvature`: eigenvalues of the second derivatives by log θ, of those not at a bound; for an
      optimum all positive (negative where the objective is maximised). NaN where a solve next to
      it failed.
    - `evaluations`: values with gradients that the search took.
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
    evaluations: int
    converged: bool


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

    def descend(number: int, x) -> None:
        landscape.begin(number)
        DESCENTS[optimiser](landscape, x, space.low, space.high, tol, max_evaluations)

    for number, x in enumerate(space.starts(starts, seed), 1):
        descend(number, x)
    if landscape.best_gradient > tol:
        descend(starts + 1, landscape.best)  # in units of the cost there
    return _look(landscape, given, tol)


def _look(landscape: Landscape, given: Task, tol: float) -> Tuned:
    """Solve the best point afresh, and measure its surroundings."""
    space, objective, x = landscape.space, landscape.objective, landscape.best
    sign = -1.0 if objective.maximised else 1.0
    cost, gradient, prediction = landscape.cost_and_gradient(x, None)
    if failure := prediction.status.failure():
        raise ConvergenceError(f"at the best point: {failure}", prediction)
    if not (math.isfinite(cost) and np.all(np.isfinite(gradient))):
        raise ConvergenceError(f"{objective.name} has no value at any point tried", prediction)
    free = ~space.is_held(x, gradient)
    norm = float(np.max(np.abs(gradient[free]), initial=0.0)) / size_of(cost)
    hessian, gradients = _surroundings(landscape, x, free, prediction)
    known_around = bool(np.all(np.isfinite(hessian)))
    curvature = np.linalg.eigvalsh(hessian) if known_around else np.diag(hessian)
    stderr = np.full(len(x), math.nan)
    if len(curvature) and curvature[0] > 0:
        stderr[free] = stderr_of(np.linalg.solve(hessian, gradients.T).T)
    before = landscape.prediction_of(given)
    known = before.status.failure() is None
    costs, costs_before = (np.asarray(objective.cost(p.replicates)) for p in (prediction, before))
    values = np.exp(x)
    parameters = {
        name: Optimum(
            float(values[i]), float(stderr[i] * values[i]), not free[i], float(sign * gradient[i])
        )
        for i, name in enumerate(space.names)
    }
    return Tuned(
        space.task(jnp.asarray(x)),
        prediction,
        objective.name,
        sign * cost,
        float(stderr_of(costs)),
        float(objective.cost(before)) - cost if known else math.nan,
        float(stderr_of(costs_before - costs)) if known else math.nan,
        parameters,
        norm,
        (sign * curvature).tolist(),
        landscape.count,
        norm <= tol,
    )


def _surroundings(landscape: Landscape, x, free, prediction) -> tuple[np.ndarray, np.ndarray]:
    """Second derivatives of the cost by the free coordinates (k, k), and replicates' gradients.

    From differences, within the box, of exact gradients and of the replicates' costs (R, k).
    """
    space, objective = landscape.space, landscape.objective
    rows, columns = [], []
    for direction in STEP * np.eye(len(x))[free]:
        ends = [np.clip(x + step, space.low, space.high) for step in (direction, -direction)]
        distance = float(np.sum(ends[0] - ends[1]))
        ahead, behind = (landscape.cost_and_gradient(end, prediction) for end in ends)
        if any(p.status.failure() for *_, p in (ahead, behind)):
            distance = math.nan  # nothing is known of these surroundings
        rows.append((ahead[1] - behind[1])[free] / distance)
        costs = [np.asarray(objective.cost(p.replicates)) for *_, p in (ahead, behind)]
        columns.append((costs[0] - costs[1]) / distance)
    count = len(rows)
    hessian = np.array(rows).reshape(count, count)
    replicates = landscape.numerics["replicates"]
    return (hessian + hessian.T) / 2, np.array(columns).reshape(count, replicates).T


def stderr_of(replicates: np.ndarray) -> np.ndarray:
    """Standard errors of the means over the leading axis, NaN for a single replicate."""
    return np.asarray(mean_and_stderr(jnp.asarray(replicates))[1])
