"""The six figures of the paper (theory section 10), drawn from sweeps of theory and experiment."""

from .claims import Claim
from .make import FIGURES, Figure, check_figures, make_figure
from .scale import FULL, QUICK, Scale

__all__ = ["FIGURES", "FULL", "QUICK", "Claim", "Figure", "Scale", "check_figures", "make_figure"]
