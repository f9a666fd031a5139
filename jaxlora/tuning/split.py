"""How to spend labels: on the pre-training or on the fine-tuning."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp

from ..tasks import Task
from .objectives import Objective, Observe, as_objective
from .search import Tuned, search
from .space import Bounds, hyperparameter_space, make_space

LEAST_SHARE = 0.02  # of the budget, for either stage


class Split(NamedTuple):
    """The best split of a labelling budget: samples, share spent on pre-training, and the search.

    `stderr` is the standard error of the share; `tuned.parameters` has the ridges too, and
    `tuned.improvement` is over the same budget spent in the proportion of the task given.
    """

    alpha: float
    alpha_ft: float
    share: float
    stderr: float
    tuned: Tuned


def best_split(
    task: Task,
    budget: float,
    prices: tuple[float, float] = (1.0, 1.0),
    over: Bounds = ("lam", "lam_ft"),
    objective: str | Observe | Objective = "error_ft",
    **settings: Any,
) -> Split:
    """The α and α' of least E' among those of the same cost, at the best λ and λ' for each.

    The cost of N = α D² and N' = α' D labels, in units of D²: `prices`[0] α + `prices`[1] α' =
    `budget`, so that a price of α' is that of one label over D. `over` are the hyperparameters that
    are tuned along, `objective` and other keywords as in `tune`. `task`'s own α and α' set the
    split to start from.

    Raises ValueError for a budget or price that is not positive and finite, for a pre-training
    given by hand, and for reused sequences: those have labels already; ConvergenceError where the
    best point cannot be solved, RuntimeError without float64.
    """
    for name, value in (("budget", budget), ("prices[0]", prices[0]), ("prices[1]", prices[1])):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: must be positive and finite")
    if task.given is not None:
        raise ValueError("given = (Q0, Q, M): has no pre-training samples to pay for")
    if task.reuse:
        raise ValueError("reuse = True: reused sequences have labels of both tasks; must be False")
    named = tuple(over) if not isinstance(over, str) else (over,)
    if "alpha" in named or "alpha_ft" in named:
        raise ValueError("over: α and α' are what the budget sets")
    others = hyperparameter_space(task, over)
    spent = prices[0] * float(task.alpha), prices[1] * float(task.alpha_ft)
    most = (1 - LEAST_SHARE) / LEAST_SHARE
    bounds = {"odds": (1 / most, most)}
    bounds |= others.bounds
    start = {"odds": spent[0] / spent[1]} | {name: getattr(task, name) for name in others.names}

    def build(values) -> Task:
        rest = others.build({name: values[name] for name in others.names})
        on_finetuning = budget / (1 + values["odds"])
        alphas = [(budget - on_finetuning) / prices[0], on_finetuning / prices[1]]
        alphas = [jnp.asarray(x, task.delta.dtype) for x in alphas]
        return eqx.tree_at(lambda t: [t.alpha, t.alpha_ft], rest, alphas)

    space = make_space(start, bounds, build)
    begin = space.task(jnp.asarray(space.start))
    tuned = search(space, as_objective(objective), begin, **settings)
    odds = tuned.parameters["odds"]
    share = odds.value / (1 + odds.value)
    return Split(
        float(tuned.task.alpha),
        float(tuned.task.alpha_ft),
        share,
        odds.stderr / (1 + odds.value) ** 2,
        tuned,
    )
