"""Pictures."""

import os

import matplotlib.figure
import numpy as np

from .outputs import Prediction
from .simulation import Simulation
from .spectrum import density, edges

BLUE, GREY = "#0072B2", "#B0B0B0"  # distinct to colour-blind readers


def plot_spectrum(axes, prediction: Prediction, simulation: Simulation, bins: int = 40) -> None:
    """Histogram of the eigenvalues of Ŝ/√D over all seeds, and the theory's density.

    In theory Ŝ/√D has the law of (M̂/V̂)(x − ε)₊ with x ~ μ_η (theory section 4); its mass at 0 is
    given in the legend beside the simulated share.
    """
    task = simulation.task
    values = np.concatenate([outcome.eigenvalues for outcome in simulation.outcomes])
    theory = prediction.pretraining
    M_hat, V_hat = float(theory.M_hat), float(theory.V_hat)
    eta, eps = float(theory.Q_hat) ** 0.5 / M_hat, 2 * float(task.kappa**0.5 * task.lam) / M_hat
    kappa0 = float(task.kappa0)
    scale, right = M_hat / V_hat, float(np.max(np.asarray(edges(eta, kappa0))))
    # The density ends like a square root: nodes that crowd at the ends resolve it.
    angle = (np.arange(2000) + 0.5) / 2000 * np.pi
    x = eps + (right - eps) * (1 - np.cos(angle)) / 2
    weights = (right - eps) * np.sin(angle) / 2 * np.pi / 2000
    rho = np.asarray(density(x, eta, kappa0))
    positive = float(np.sum(rho * weights))
    zero = values < 1e-3 * np.max(values)
    width = np.max(values) / bins
    axes.hist(
        values[~zero],
        bins=np.arange(0, np.max(values) + width, width),
        weights=np.full(np.sum(~zero), 1 / (len(values) * width)),
        color=GREY,
        label=f"D = {simulation.setting.dimension}, {len(simulation.outcomes)} seeds; "
        f"at 0: {np.mean(zero):.3f}",
    )
    axes.plot(scale * (x - eps), rho / scale, color=BLUE, label=f"theory; at 0: {1 - positive:.3f}")
    axes.set_xlabel(r"eigenvalue of $\hat S/\sqrt{D}$")
    axes.set_ylabel("density")
    axes.legend(frameon=False)


def save_spectrum(path: os.PathLike | str, prediction: Prediction, simulation: Simulation) -> None:
    """Draw `plot_spectrum` into a file: png, pdf or svg by its name."""
    figure = matplotlib.figure.Figure(figsize=(5.5, 3.5), layout="constrained")
    plot_spectrum(figure.subplots(), prediction, simulation)
    figure.savefig(path, dpi=150)
