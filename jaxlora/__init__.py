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
from .kinks import Kink
from .noise import best_beta, effective_noise, recalibrated_noise, reused_noise
from .options import Options
from .outputs import ConvergenceError, Prediction
from .prediction import predict, predict_timed, solve_finetuning, solve_pretraining
from .results import Result
from .saving import load, save
from .sensitivities import Sensitivities, sensitivities
from .stability import Stability
from .sweeps import sweep
from .tasks import Task
from .tuning import ActiveRatio, Split, Tuned, best_active_ratio, best_split, pareto_front, tune

__version__ = version("jaxlora")

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "ActiveRatio",
    "BayesBenchmark",
    "BayesOptimal",
    "ConvergenceError",
    "Kink",
    "Options",
    "Prediction",
    "Result",
    "RowHessian",
    "Sensitivities",
    "Split",
    "Stability",
    "Task",
    "Tuned",
    "bayes_optimal",
    "best_active_ratio",
    "best_beta",
    "best_split",
    "collapse_boundary",
    "effective_noise",
    "load",
    "pareto_front",
    "parting_boundary",
    "predict",
    "predict_timed",
    "recalibrated_noise",
    "replicon_boundary",
    "reused_noise",
    "save",
    "sensitivities",
    "solve_finetuning",
    "solve_pretraining",
    "sweep",
    "transition_boundary",
    "tune",
    "zero_branch_boundary",
]
