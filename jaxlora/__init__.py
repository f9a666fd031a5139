"""Theory of LoRA fine-tuning in a solvable attention model (arXiv:2606.05899), solved with JAX."""

from importlib.metadata import version

from .activations import ACTIVATIONS, Activation
from .noise import best_beta, effective_noise, recalibrated_noise, reused_noise
from .options import Options
from .outputs import ConvergenceError, Prediction
from .prediction import predict, predict_timed, solve_finetuning, solve_pretraining
from .results import Result
from .tasks import Task

__version__ = version("jaxlora")

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "ConvergenceError",
    "Options",
    "Prediction",
    "Result",
    "Task",
    "best_beta",
    "effective_noise",
    "predict",
    "predict_timed",
    "recalibrated_noise",
    "reused_noise",
    "solve_finetuning",
    "solve_pretraining",
]
