"""tune(): the hyperparameters that make an error smallest or the overlap largest."""

from collections.abc import Callable
from typing import Any

from ..tasks import Task
from .landscape import Evaluation
from .objectives import Objective, Observe, as_objective
from .search import Tuned, search
from .space import Bounds, hyperparameter_space


def tune(
    task: Task,
    over: Bounds,
    objective: str | Observe | Objective = "error_ft",
    *,
    starts: int = 3,
    optimiser: str = "lbfgs",
    tol: float = 1e-4,
    max_evaluations: int = 40,
    watch: Callable[[Evaluation], None] | None = None,
    **numerics: Any,
) -> Tuned:
    """Tune the hyperparameters `over` of `task`, by exact gradients in their logarithms.

    - `over`: names of parameters, or a mapping from them to bounds (low, high); `BOUNDS` else.
    - `objective`: "error_ft" (E'), "error" (E), "forgetting" (E''), "effective_noise" (Δ_eff), all
      minimised, "overlap" (o_w), maximised, or a function to minimise of anything that has the
      fields `pretraining` and `finetuning` of a `Prediction`.
    - `starts`: descents, the first from `task` itself, the others from points spread over the box;
      `optimiser`: "lbfgs" (jaxopt's, with bounds) or "adam" (optax's).
    - `tol`: of |d objective/d log θ|/|objective|; `max_evaluations`: gradients a start.
    - `watch`: called with every `Evaluation`. Other keywords as in `predict`; 2¹³ samples unless
      told. Needs float64.

    The best point of all is reported, which may be a local optimum only; see `Tuned`. Derivatives
    leave out what `prediction.status.*.kinks` says. Raises ValueError for a name or bound that
    makes no sense, ConvergenceError where the best point cannot be solved, RuntimeError without
    float64.
    """
    return search(
        hyperparameter_space(task, over),
        as_objective(objective),
        task,
        starts=starts,
        optimiser=optimiser,
        tol=tol,
        max_evaluations=max_evaluations,
        watch=watch,
        **numerics,
    )
