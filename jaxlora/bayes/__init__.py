"""Bayes-optimal benchmark of both stages (theory section 7)."""

from ._benchmark import SAMPLES_SHARE, BayesBenchmark, BayesOptimal, BayesStatus, bayes_optimal
from ._finetuning import CHANNELS
from ._pretraining import pretraining_overlap

__all__ = [
    "CHANNELS",
    "SAMPLES_SHARE",
    "BayesBenchmark",
    "BayesOptimal",
    "BayesStatus",
    "bayes_optimal",
    "pretraining_overlap",
]
