"""Simulations at finite D."""

from .amp import AmpSolution, bayes_amp, erm_amp
from .rank_one import RankOneData, draw_rank_one

__all__ = ["AmpSolution", "RankOneData", "bayes_amp", "draw_rank_one", "erm_amp"]
