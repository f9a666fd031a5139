"""Draws docs/finetuning_error.png: E' against λ at the parameters of the paper's figure 1."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxlora

jax.config.update("jax_enable_x64", True)

RIDGES = np.geomspace(3e-3, 1.0, 15)
COLOURS = {0.05: "#0072B2", 1.0: "#D55E00", np.inf: "#000000"}  # told apart by colour-blind eyes


def main() -> None:
    """Predict the curves and save the picture beside this file."""
    point = jaxlora.Task(
        tokens=3, kappa0=1.0, kappa=1.0, alpha=0.1, delta=0.5, lam=0.05, alpha_ft=3.0, lam_ft=0.2
    )
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for lam_ft, colour in COLOURS.items():
        errors, bars = [], []
        for lam in RIDGES:
            leaves = (jnp.asarray(lam), jnp.asarray(lam_ft))
            task = eqx.tree_at(lambda t: (t.lam, t.lam_ft), point, leaves)
            prediction = jaxlora.predict(task, samples=2**13)
            errors.append(float(prediction.finetuning.test_error))
            bars.append(float(prediction.stderr.finetuning.test_error))
        errors, bars = np.array(errors), np.array(bars)
        label = "frozen (λ' = ∞)" if np.isinf(lam_ft) else f"λ' = {lam_ft:g}"
        axes.plot(RIDGES, errors, color=colour, label=label)
        axes.fill_between(RIDGES, errors - 2 * bars, errors + 2 * bars, color=colour, alpha=0.3)
    axes.set(xscale="log", xlabel="pre-training ridge λ", ylabel="fine-tuning test error E'")
    axes.legend(frameon=False)
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
