"""Draws best_split.png: how a labelling budget is best split between α and α', at figure 1's."""

import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.plotting import plot_splits

jax.config.update("jax_enable_x64", True)

BUDGETS = (0.1, 0.2, 0.4, 0.8, 1.6)
PRICES = (1.0, 0.1)  # α + 0.1 α' = budget
FIGURE_1 = {"tokens": 3, "kappa0": 1, "kappa": 1, "delta": 0.5}


def best_splits() -> list[jaxlora.Split]:
    """The best split of every budget, of those next to two starts.

    These are that of the next larger budget, and nearly all spent on the pre-training: with small
    budgets that is another optimum.
    """
    beside = jaxlora.Task(**FIGURE_1, alpha=0.5, alpha_ft=5.0, lam=0.05, lam_ft=0.1)
    alone = jaxlora.Task(**FIGURE_1, alpha=0.95, alpha_ft=0.5, lam=0.05, lam_ft=0.7)
    splits = []
    for budget in reversed(BUDGETS):
        found = [jaxlora.best_split(task, budget, PRICES, starts=1) for task in (beside, alone)]
        beside = found[0].tuned.task
        splits.append(min(found, key=lambda split: split.tuned.value))
    return splits[::-1]


def main() -> None:
    """Tune, print what was found and save the picture beside this file."""
    splits = best_splits()
    for budget, split in zip(BUDGETS, splits, strict=True):
        tuned, ridges = split.tuned, (split.tuned.parameters[name] for name in ("lam", "lam_ft"))
        print(
            f"budget {budget}: α = {split.alpha:.3f}, α' = {split.alpha_ft:.2f}, "
            f"share {split.share:.3f} ± {split.stderr:.3f}, "
            f"λ, λ' = {', '.join(f'{r.value:.3f}' for r in ridges)}, "
            f"E' = {tuned.value:.4f} ± {tuned.stderr:.4f} ({tuned.ending.value})"
        )
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    plot_splits(axes, np.array(BUDGETS), splits)
    axes.set_xlabel("budget α + 0.1 α'")
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
