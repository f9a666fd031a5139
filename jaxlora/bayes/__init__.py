"""Bayes-optimal benchmark of both stages (theory section 7)."""

from ._benchmark import BayesBenchmark, BayesOptimal, BayesStatus, bayes_optimal, samples_beside
from ._finetuning import CHANNELS
from ._pretraining import pretraining_overlap

__all__ = [
    "CHANNELS",
    "BayesBenchmark",
    "BayesOptimal",
    "BayesStatus",
    "bayes_optimal",
    "pretraining_overlap",
    "samples_beside",
]
