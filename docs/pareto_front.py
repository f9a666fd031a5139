"""Draws pareto_front.png: what the overlap costs in test error, at figure 3's parameters."""

import pathlib

import jax
import matplotlib.pyplot as plt

import jaxlora
from jaxlora.plotting import plot_front

jax.config.update("jax_enable_x64", True)

FIGURE_3 = {"tokens": 2, "kappa0": 0.5, "kappa": 1, "alpha": 0.2, "delta": 0.5, "alpha_ft": 3}
BOUNDS = {"lam": (0.003, 0.8), "lam_ft": (0.02, 5.0)}


def main() -> None:
    """Tune, print what was found and save the picture beside this file."""
    task = jaxlora.Task(**FIGURE_3, lam=0.03, lam_ft=0.3, reuse=True)
    front = jaxlora.pareto_front(task, BOUNDS, starts=2)
    for point in front:
        parameters = ", ".join(
            f"{name} = {found.value:.4f} ± {found.stderr:.4f}{' (bound)' if found.at_bound else ''}"
            for name, found in point.tuned.parameters.items()
        )
        values = ", ".join(
            f"{value:.4f} ± {stderr:.4f}"
            for value, stderr in zip(point.values, point.stderr, strict=True)
        )
        print(f"{point.weight:.2f}: {parameters}: {values} ({point.tuned.ending.value})")
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    plot_front(axes, front, ("error_ft", "overlap"))
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
