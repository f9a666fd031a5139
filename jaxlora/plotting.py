"""Pictures."""

import os
from collections.abc import Sequence

import numpy as np

from .outputs import Prediction
from .simulation import Simulation
from .spectrum import density, edges
from .tasks import Task
from .tuning import FrontPoint, Split

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#B0B0B0"  # distinct to colour-blind readers
BANDS = 2  # standard errors, of bands and bars
MARKERS = "osD^v<>"  # of dimensions, in turn
APART = 0.07  # of the height of a picture, from which words beside points do not overlap
LETTERS = {"lam": "λ", "lam_ft": "λ'", "alpha": "α", "alpha_ft": "α'", "beta": "β", "delta": "Δ"}
SYMBOLS = {
    "error_ft": r"$E'$",
    "error": r"$E$",
    "forgetting": r"$E''$",
    "effective_noise": r"$\Delta_{\mathrm{eff}}$",
    "overlap": r"$o_w$",
}


def check_spectrum(task: Task) -> None:
    """Raise ValueError for a pre-training whose eigenvalues there are none of, or all 0."""
    if task.given is not None:
        raise ValueError("spectrum: a given pre-training has no eigenvalues")
    if not np.isfinite(task.lam):
        raise ValueError(f"spectrum: at lam = {float(task.lam):g} all eigenvalues are 0")


def plot_spectrum(axes, prediction: Prediction, simulation: Simulation, bins: int = 40) -> None:
    """Histogram of the eigenvalues of Ŝ/√D over all seeds, and the theory's density.

    In theory Ŝ/√D has the law of (M̂/V̂)(x − ε)₊ with x ~ μ_η (theory section 4); its mass at 0 is
    given in the legend beside the simulated share. Raises ValueError for a pre-training that is
    given, and for λ = ∞.
    """
    task = simulation.task
    check_spectrum(task)
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
    from matplotlib.figure import Figure  # here, as it takes a sixth of the time to import jaxlora

    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    plot_spectrum(figure.subplots(), prediction, simulation)
    figure.savefig(path, dpi=150)


def plot_front(axes, front: Sequence[FrontPoint], names: tuple[str, str]) -> None:
    """A Pareto front of the objectives `names`, with the values that lead to its points.

    Where points are close, only some have their values beside them; the ends have.
    """
    x, y = np.array([point.values for point in front]).T
    x_error, y_error = np.array([point.stderr for point in front]).T
    axes.errorbar(x, y, y_error, x_error, "o-", color=BLUE, ecolor=GREY, markersize=4, linewidth=1)
    ends, shown = [0, len(front) - 1], []
    for number in [*ends, *range(1, len(front) - 1)]:
        if all(abs(y[number] - y[other]) >= APART * np.ptp(y) for other in shown):
            shown.append(number)
    for number in sorted(shown):
        tuned = front[number].tuned.parameters.items()
        axes.annotate(
            ", ".join(f"{LETTERS.get(k, k)} = {v.value:.2g}" for k, v in tuned),
            (x[number], y[number]),
            xytext=(7, -7),
            textcoords="offset points",
            fontsize=7,
        )
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.35 * (right - left))  # for the words beside the last point
    axes.set_xlabel(SYMBOLS.get(names[0], names[0]))
    axes.set_ylabel(SYMBOLS.get(names[1], names[1]))


def plot_splits(axes, budgets: Sequence[float], splits: Sequence[Split]) -> None:
    """The share of each budget that is best spent on pre-training, and the E' that it buys.

    Shares that a bound holds are hollow.
    """
    shares = [100 * split.share for split in splits]
    errors = [100 * split.stderr for split in splits]
    axes.errorbar(budgets, shares, errors, fmt="o-", color=BLUE, markersize=5)
    held = [split.tuned.parameters["odds"].at_bound for split in splits]
    hollow = {"color": BLUE, "markerfacecolor": "w", "markersize": 7, "zorder": 3}
    axes.plot(np.asarray(budgets)[held], np.asarray(shares)[held], "o", **hollow)
    axes.set_ylim(0, 105)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
    axes.minorticks_off()
    axes.set_xlabel("budget")
    axes.set_ylabel("spent on pre-training (%)", color=BLUE)
    right = axes.twinx()
    values = [split.tuned.value for split in splits]
    right.plot(budgets, values, "s--", color=ORANGE, markersize=4)
    right.set_ylim(0, None)
    right.set_ylabel(rf"{SYMBOLS['error_ft']} at the best split", color=ORANGE)
