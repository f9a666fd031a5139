"""Hyperparameters tuned by exact gradients: optima, Pareto fronts, labelling budgets."""

from .active_ratio import ActiveRatio, RatioPoint, best_active_ratio
from .ending import Ending
from .landscape import Evaluation
from .objectives import OBJECTIVES, Objective
from .pareto import FrontPoint, pareto_front
from .search import Optimum, Tuned
from .space import BOUNDS
from .split import Split, best_split
from .tune import tune

__all__ = [
    "BOUNDS",
    "OBJECTIVES",
    "ActiveRatio",
    "Ending",
    "Evaluation",
    "FrontPoint",
    "Objective",
    "Optimum",
    "RatioPoint",
    "Split",
    "Tuned",
    "best_active_ratio",
    "best_split",
    "pareto_front",
    "tune",
]
