"""Draws theory_and_experiment.png: both stages' errors in theory and of trained layers."""

import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxlora
from jaxlora.simulation import Setting, simulate

jax.config.update("jax_enable_x64", True)

DIMENSION, SEEDS = 120, 8
FIGURE_1 = {"tokens": 3, "kappa0": 1, "kappa": 1, "alpha": 0.1, "delta": 0.5, "alpha_ft": 3}
CURVES = (
    ("pretraining", "test_error", "E", "#0072B2", "o"),
    ("pretraining", "train_error", "E, training", "#56B4E9", "s"),
    ("finetuning", "test_error", "E'", "#D55E00", "^"),
    ("finetuning", "train_error", "E', training", "#E69F00", "v"),
)


def task(lam: float) -> jaxlora.Task:
    """Figure 1's point at the ridge λ."""
    return jaxlora.Task(**FIGURE_1, lam=lam, lam_ft=0.2)


def main() -> None:
    """Predict and simulate, and save the picture beside this file."""
    fine, coarse = np.geomspace(0.003, 0.5, 61), np.geomspace(0.004, 0.4, 7)
    predicted = [jaxlora.predict(task(lam), samples=2**13, throw=False) for lam in fine]
    setting = Setting(DIMENSION, normalise_teacher=True, starts=2)
    measured = [simulate(task(lam), setting, seeds=SEEDS) for lam in coarse]
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for stage, name, label, colour, marker in CURVES:
        axes.plot(fine, [getattr(getattr(p, stage), name) for p in predicted], color=colour)
        axes.errorbar(
            coarse,
            [getattr(getattr(s, stage), name) for s in measured],
            [2 * getattr(getattr(s.stderr, stage), name) for s in measured],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle="none",
            label=label,
        )
    axes.plot([], [], color="grey", label="theory")
    axes.set_xscale("log")
    axes.set_xlabel("pre-training ridge λ")
    axes.set_ylabel("error")
    axes.set_ylim(0, None)
    axes.legend(frameon=False, ncols=2)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
