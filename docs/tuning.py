"""Draws tuning.png: the front between E' and o_w, and the best split of a labelling budget."""

import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.plotting import plot_front, plot_splits

jax.config.update("jax_enable_x64", True)

FIGURE_3 = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3}
BOUNDS = {"lam": (0.03, 0.8), "lam_ft": (0.05, 3.0)}
BUDGETS = np.geomspace(0.2, 3.2, 5)
PRICES = (1.0, 0.1)  # of α and of α': ten labels of the fine-tuning task for one over D


def main() -> None:
    """Tune, and save the picture beside this file."""
    reused = jaxlora.Task(**FIGURE_3, lam=0.2, lam_ft=0.3, reuse=True)
    front = jaxlora.pareto_front(reused, BOUNDS, ("error_ft", "overlap"), points=7, starts=2)
    task = jaxlora.Task(**FIGURE_3, lam=0.2, lam_ft=0.3)
    splits = []
    for budget in BUDGETS:
        splits.append(jaxlora.best_split(task, float(budget), PRICES, BOUNDS, starts=1))
        task = splits[-1].tuned.task
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    plot_front(left, front, ("error_ft", "overlap"))
    plot_splits(right, BUDGETS.tolist(), splits)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
