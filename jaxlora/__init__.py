"""Theory of LoRA fine-tuning in a solvable attention model (arXiv:2606.05899), solved with JAX."""

from importlib.metadata import version

from .activations import ACTIVATIONS, Activation, RowHessian
from .bayes import BayesBenchmark, BayesOptimal, bayes_optimal
from .boundaries import (
    collapse_boundary,
    parting_boundary,
    replicon_boundary,
    transition_boundary,
    zero_branch_boundary,
)
from .noise import best_beta, effective_noise, recalibrated_noise, reused_noise
from .options import Options
from .outputs import ConvergenceError, Prediction
from .prediction import predict, predict_timed, solve_finetuning, solve_pretraining
from .results import Result
from .stability import Stability
from .tasks import Task

__version__ = version("jaxlora")

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "BayesBenchmark",
    "BayesOptimal",
    "ConvergenceError",
    "Options",
    "Prediction",
    "Result",
    "RowHessian",
    "Stability",
    "Task",
    "bayes_optimal",
    "best_beta",
    "collapse_boundary",
    "effective_noise",
    "parting_boundary",
    "predict",
    "predict_timed",
    "recalibrated_noise",
    "replicon_boundary",
    "reused_noise",
    "solve_finetuning",
    "solve_pretraining",
    "transition_boundary",
    "zero_branch_boundary",
]
