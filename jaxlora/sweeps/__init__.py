"""Predictions and experiments at many points, on any hardware, with results that are kept."""

from .design import Design, draw_random, make_design
from .engines import Engine, LostWorkersError
from .layout import Layout, default_layout
from .plan import Experiment, Plan, Theory
from .run import Progress, run, sweep

__all__ = [
    "Design",
    "Engine",
    "Experiment",
    "Layout",
    "LostWorkersError",
    "Plan",
    "Progress",
    "Theory",
    "default_layout",
    "draw_random",
    "make_design",
    "run",
    "sweep",
]
