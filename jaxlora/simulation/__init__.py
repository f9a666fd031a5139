"""Simulations at finite D: layers trained as in the paper, and message passing."""

from ..checkpoints import Checkpoint, CheckpointError
from .amp import AmpSolution, bayes_amp, erm_amp
from .attention import Attention
from .ensemble import Simulation, simulate, simulate_finetunings
from .experiment import Outcome, run_seed
from .hypergradient import HyperGradient, hyperparameter_gradient
from .rank_one import RankOneData, draw_rank_one
from .setting import Setting
from .stages import TrainedPair, train_pair
from .training import Training

__all__ = [
    "AmpSolution",
    "Attention",
    "Checkpoint",
    "CheckpointError",
    "HyperGradient",
    "Outcome",
    "RankOneData",
    "Setting",
    "Simulation",
    "TrainedPair",
    "Training",
    "bayes_amp",
    "draw_rank_one",
    "erm_amp",
    "hyperparameter_gradient",
    "run_seed",
    "simulate",
    "simulate_finetunings",
    "train_pair",
]
