"""Draws docs/tuning.png: what one objective costs in the other, and how to spend labels."""

import pathlib

import jax
import matplotlib.pyplot as plt

import jaxlora
from jaxlora.plotting import plot_front, plot_splits

jax.config.update("jax_enable_x64", True)

BUDGETS = (0.2, 0.4, 0.8)
PRICES = (1.0, 0.1)  # of α and α'
COST = {"samples": 2**12, "starts": 2}


def main() -> None:
    """Tune, draw, and save the picture beside this file."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    reused = jaxlora.Task(
        tokens=2,
        kappa0=0.5,
        kappa=1.0,
        alpha=0.2,
        delta=0.5,
        lam=0.03,
        alpha_ft=3.0,
        lam_ft=0.2,
        reuse=True,
    )
    over = {"lam": (0.003, 1.0), "lam_ft": (0.01, 10.0)}
    front = jaxlora.pareto_front(reused, over, ("error_ft", "overlap"), points=6, **COST)
    for point in front:
        print(point.weight, point.values, {k: v.value for k, v in point.tuned.parameters.items()})
    plot_front(left, front, ("error_ft", "overlap"))
    left.set_title("reused sequences, over (λ, λ')", fontsize=10)

    fresh = jaxlora.Task(
        tokens=3, kappa0=1.0, kappa=1.0, alpha=0.1, delta=0.5, lam=0.05, alpha_ft=3.0, lam_ft=0.2
    )
    splits = [jaxlora.best_split(fresh, budget, PRICES, **COST) for budget in BUDGETS]
    for budget, split in zip(BUDGETS, splits, strict=True):
        print(budget, split.share, split.stderr, split.tuned.value, split.tuned.gradient_norm)
    plot_splits(right, BUDGETS, splits)
    right.set_title(r"budget = $\alpha + 0.1\,\alpha'$, at the best (λ, λ')", fontsize=10)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
