"""Figure 6: recalibration of the frozen layer, Ŵ → √β Ŵ."""

from typing import Any, NamedTuple

import numpy as np
import xarray

from ..noise import best_beta
from .claims import Claim, agreement_claim, number, point_of_least, share_positive, stability_claim
from .drawing import (
    BLACK,
    COLOURS,
    SYMBOLS,
    draw_curve,
    draw_layers,
    draw_level,
    in_order,
    layers_words,
    value_words,
)
from .lab import Lab, Size
from .scale import spread

SIZE = Size(800, 10, 60, 5)
FIXED: dict[str, Any] = {
    "tokens": 3,
    "delta": 0.5,
    "kappa0": 1.0,
    "kappa": 1.0,
    "alpha": 0.1,
    "alpha_ft": 3.0,
}
RIDGES = (0.005, 0.02, 0.05, 0.1)  # λ
TRAINED = (0.005, 0.05)
RATIOS = (0.7, 0.85, 1.0, 1.15, 1.3)  # β/β*
RIDGE, RATIO = 0.005, 0.8  # λ and β/β* of the fine-tuning
LAYERS = (FIXED | {"lam": RIDGE, "lam_ft": 1.0},)
INCHES = (9.0, 3.8)


class Data(NamedTuple):
    """β*(λ), and theory and layers of both panels: E(β) for each λ, and E'(λ') for both β."""

    best: dict[float, float]
    pretrained: dict[float, xarray.Dataset]
    pretrained_layers: dict[float, xarray.Dataset | None]
    finetuned: xarray.Dataset
    finetuned_layers: xarray.Dataset | None


def collect(lab: Lab) -> Data:
    """Sweep β for each λ without fine-tuning, and λ' for two β."""
    frozen = FIXED | {"lam_ft": np.inf}
    orders = lab.theory("ridges", frozen | {"lam": list(RIDGES)})
    betas = np.asarray(best_beta(orders.Q.values, orders.M.values)).tolist()
    # To six digits, as sweeps of other β are other sweeps, and the last digits are not the same
    # everywhere.
    best = {ridge: float(f"{beta:.6g}") for ridge, beta in zip(RIDGES, betas, strict=True)}
    fine = np.linspace(0.5, 1.5, lab.scale.points // 2)
    pretrained, layers = {}, {}
    for ridge in RIDGES:
        # With β = 1 among them, the layer as it was trained.
        ratios = np.unique([*fine, *RATIOS, 1 / best[ridge]])
        at_ridge = frozen | {"lam": ridge}
        name, curve = f"beta_at_{ridge:g}", {"beta": _betas(ratios, best[ridge])}
        pretrained[ridge] = lab.theory(name, at_ridge | curve)
        if ridge in TRAINED:
            points = {"beta": _betas(np.array(RATIOS), best[ridge])}
            layers[ridge] = lab.simulation(f"{name}_layers", at_ridge | points)
    tuned = FIXED | {"lam": RIDGE, "beta": [1.0, RATIO * best[RIDGE]]}
    ridges_ft = np.geomspace(0.02, 5, lab.scale.points)
    chosen = ridges_ft[spread(len(ridges_ft), max(lab.scale.simulated, 1))]
    return Data(
        best,
        pretrained,
        layers,
        lab.theory("finetuning", tuned | {"lam_ft": ridges_ft}, bayes=True),
        lab.simulation("finetuning_layers", tuned | {"lam_ft": chosen}),
    )


def _betas(ratios: np.ndarray, best: float) -> list[float]:
    return [1.0 if np.isclose(beta, 1) else beta for beta in (ratios * best).tolist()]


def draw(figure, data: Data) -> None:
    """E(β) for each λ, and E' against λ' for both β."""
    left, right = figure.subplots(1, 2)
    for colour, ridge in zip(in_order(len(RIDGES)), RIDGES, strict=True):
        one, best = data.pretrained[ridge], data.best[ridge]
        words = value_words("lam", ridge)
        draw_curve(left, one, one.beta / best, "test_error", color=colour, label=words)
        layers = data.pretrained_layers.get(ridge)
        if layers is not None:
            draw_layers(left, layers, layers.beta / best, "test_error", colour)
        untouched = float(one.test_error.sel(beta=1.0))
        left.plot(1 / best, untouched, "o", color=colour, markersize=8, fillstyle="none")
    left.axvline(1, color=BLACK, linestyle="--", linewidth=1)
    left.plot([], [], "o", color=BLACK, fillstyle="none", label=r"$\beta = 1$")
    left.set_xlabel(r"$\beta/\beta^\star$")
    left.set_ylabel(r"$E(\beta)$")
    for colour, beta in zip(COLOURS, data.finetuned.beta.values, strict=False):
        one = data.finetuned.sel(beta=beta)
        words = r"$\beta = 1$" if beta == 1 else rf"$\beta = {RATIO:g}\,\beta^\star$"
        draw_curve(right, one, one.lam_ft.values, "test_error_ft", color=colour, label=words)
        if data.finetuned_layers is not None:
            trained = data.finetuned_layers.sel(beta=beta)
            draw_layers(right, trained, trained.lam_ft, "test_error_ft", colour)
    bayes = float(data.finetuned.bayes_mean_test_error_ft.max())
    draw_level(right, bayes, BLACK, "Bayes-optimal")
    right.set_xscale("log")
    right.set_xlabel(SYMBOLS["lam_ft"])
    right.set_ylabel(SYMBOLS["test_error_ft"])
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Figure 6 ({layers_words(data.finetuned_layers)})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What section 4.1 and appendix E say of it."""
    least = {}
    for ridge, one in data.pretrained.items():
        least[ridge] = float(point_of_least(one, "test_error").beta) / data.best[ridge]
    error = number(data.finetuned, "test_error_ft")
    gain = error.sel(beta=1.0, drop=True) - error.isel(beta=-1, drop=True)
    best = [error.isel(beta=i, drop=True).value for i in (0, 1)]
    pairs = [
        (data.pretrained[ridge].sel(beta=layers.beta), layers)
        for ridge, layers in data.pretrained_layers.items()
        if layers is not None
    ]
    if (layers := data.finetuned_layers) is not None:
        pairs.append((data.finetuned.sel(lam_ft=layers.lam_ft), layers))
    return [
        Claim(
            "Recalibration by β = 0.8 β* improves the transfer, at λ = 0.005",
            share_positive(gain),
            f"least E' over λ': {float(best[0].min()):.4g} at β = 1, {float(best[1].min()):.4g} at "
            f"0.8 β* = {RATIO * data.best[RIDGE]:.3g}; gain {float(gain.value.min()):.2g} to "
            f"{float(gain.value.max()):.2g} over λ'",
        ),
        Claim(
            "For softmax the β of least E(β) is below β* = M/Q",
            float(np.mean([ratio < 1 for ratio in least.values()])),
            "β/β* of least E "
            + ", ".join(f"{ratio:.3g} (λ = {ridge:g})" for ridge, ratio in least.items()),
        ),
        stability_claim([data.finetuned, *data.pretrained.values()]),
        agreement_claim(pairs),
    ]
