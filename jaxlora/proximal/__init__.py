"""Proximal maps of both stages, Prox and prox of theory section 3, with their derivatives."""

from ._global import (
    LocalMinima,
    Minimum,
    changed_share,
    first_branches,
    follow_minimum,
    global_minimum,
    local_minima,
    lowest_minimum,
)
from ._implicit import Known, local_minimum
from ._linear import inverse, solve, times
from ._newton import Newton, OptStep, State
from ._problems import FinetuningProblem, PretrainingProblem, Problem
from ._response import blend, response_sums
from ._starts import finetuning_starts, pretraining_starts
from ._stock import Stock

SOLVERS = ("newton", "bfgs", "lbfgs")


def make_solver(name: str, problem: Problem, tol: float = 1e-10):
    """The batched solver of that name for `problem`; raises ValueError for an unknown one."""
    if name not in SOLVERS:
        raise ValueError(f"solver = {name!r}: must be one of {', '.join(SOLVERS)}")
    if name == "newton":
        return Newton(problem, tol=tol)
    return Stock(problem, name, tol=tol)


__all__ = [
    "SOLVERS",
    "FinetuningProblem",
    "Known",
    "LocalMinima",
    "Minimum",
    "Newton",
    "OptStep",
    "PretrainingProblem",
    "Problem",
    "State",
    "Stock",
    "blend",
    "changed_share",
    "finetuning_starts",
    "first_branches",
    "follow_minimum",
    "global_minimum",
    "inverse",
    "local_minima",
    "local_minimum",
    "lowest_minimum",
    "make_solver",
    "pretraining_starts",
    "response_sums",
    "solve",
    "times",
]
