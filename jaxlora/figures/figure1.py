"""Figure 1: the fine-tuning error against both ridges, on fresh sequences."""

from typing import Any, NamedTuple

import numpy as np
import xarray

from .claims import (
    Claim,
    agreement_claim,
    number,
    point_of_least,
    range_words,
    share_positive,
    stability_claim,
)
from .drawing import (
    BLACK,
    COLOURS,
    SYMBOLS,
    draw_curve,
    draw_layers,
    draw_level,
    layers_words,
    value_words,
)
from .lab import Lab, Size
from .scale import spread

SIZE = Size(150, 4, 60, 4)
FIXED: dict[str, Any] = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "alpha_ft": 3.0}
DELTAS = (0.5, 2.0)
RIDGES_FT = (0.05, 1.0, np.inf)
FINEST, COARSEST = 0.003, 1.0  # λ: the second is above λ_c
LAYERS = (FIXED | {"delta": DELTAS[0], "lam": COARSEST, "lam_ft": 1.0},)
INCHES = (12.0, 3.9)


class Data(NamedTuple):
    """For each Δ: theory and layers over λ, theory over λ' at the λ of least E'."""

    theory: dict[float, xarray.Dataset]
    layers: dict[float, xarray.Dataset | None]
    at_best: dict[float, xarray.Dataset]


def collect(lab: Lab) -> Data:
    """Sweep λ for each λ' and, where E' is least, λ', at both Δ."""
    ridges = np.geomspace(FINEST, COARSEST, lab.scale.points)
    ridges_ft = np.geomspace(0.02, 5, lab.scale.points // 2)
    below = ridges[ridges < 0.4]
    chosen = below[spread(len(below), lab.scale.simulated)]
    data = Data({}, {}, {})
    for delta in DELTAS:
        fixed, name = FIXED | {"delta": delta}, f"delta_{delta:g}"
        # λ = ∞ is the baseline without pre-training, λ' = ∞ that without fine-tuning.
        curves = {"lam": [*ridges, np.inf], "lam_ft": RIDGES_FT}
        theory = lab.theory(name, fixed | curves, bayes=True)
        points = {"lam": chosen, "lam_ft": RIDGES_FT}
        data.theory[delta] = theory
        data.layers[delta] = lab.simulation(f"{name}_layers", fixed | points)
        best = {"lam": float(point_of_least(theory, "test_error_ft").lam), "lam_ft": ridges_ft}
        data.at_best[delta] = lab.theory(f"{name}_best", fixed | best)
    return data


def draw(figure, data: Data) -> None:
    """For each Δ: E' against λ, and beside it against λ' at the best λ."""
    panels = figure.subplots(1, 4, width_ratios=(3, 1.7, 3, 1.7))
    for delta, axes, beside in zip(DELTAS, panels[::2], panels[1::2], strict=True):
        theory, layers = data.theory[delta], data.layers[delta]
        for colour, ridge_ft in zip(COLOURS, RIDGES_FT, strict=False):
            one = theory.sel(lam_ft=ridge_ft)
            words = value_words("lam_ft", ridge_ft)
            draw_curve(axes, one, one.lam.values, "test_error_ft", color=colour, label=words)
            if layers is not None:
                trained = layers.sel(lam_ft=ridge_ft)
                draw_layers(axes, trained, trained.lam, "test_error_ft", colour)
            least = point_of_least(one, "test_error_ft")
            axes.plot(least.lam, least.test_error_ft, "*", color=colour, markersize=9)
            alone = float(one.test_error_ft.sel(lam=np.inf))
            draw_level(axes, alone, colour, style=(0, (1, 3)))
        one, best = data.at_best[delta], float(point_of_least(theory, "test_error_ft").lam)
        draw_curve(beside, one, one.lam_ft.values, "test_error_ft", color=BLACK)
        for each, x, title in (
            (axes, "lam", rf"$\Delta = {delta:g}$"),
            (beside, "lam_ft", value_words("lam", best)),
        ):
            draw_level(each, _bayes(theory), BLACK, "Bayes-optimal")
            each.set_xscale("log")
            each.set_xlabel(SYMBOLS[x])
            each.set_title(title, fontsize=10)
        axes.plot([], [], color=BLACK, linestyle=(0, (1, 3)), label=r"$\lambda = \infty$")
        axes.plot([], [], "*", color=BLACK, label="least")
    panels[0].set_ylabel(SYMBOLS["test_error_ft"])
    labelled = panels[0].get_legend_handles_labels()
    figure.legend(*labelled, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.suptitle(f"Figure 1 ({layers_words(data.layers[DELTAS[0]])})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What section 4.1 says of it."""
    tuned, shown, lost, finite, minima = [], [], [], [], []
    for delta, theory in data.theory.items():
        error = number(theory, "test_error_ft")
        gain = number(theory, "frozen_test_error") - error
        tuned.append(gain.isel(lam_ft=error.value.fillna(np.inf).argmin("lam_ft")))
        for ridge_ft in RIDGES_FT:
            curve, which = error.sel(lam_ft=ridge_ft), f"(Δ = {delta:g}, λ' = {ridge_ft:g})"
            best = float(point_of_least(theory.sel(lam_ft=ridge_ft), "test_error_ft").lam)
            solved_at = curve.value.dropna("lam").lam.values
            ends = [curve.sel(lam=end) for end in (solved_at[0], np.inf)]
            finite += [end - curve.sel(lam=best) for end in ends]
            minima.append(f"{best:.3g} {which}")
            if np.isfinite(ridge_ft):
                shown.append(gain.sel(lam_ft=ridge_ft))
                none = shown[-1].value.where(shown[-1].value <= 0).dropna("lam").lam
                if none.size:
                    lost.append(f"not for λ = {range_words(none)} {which}")
    return [
        Claim(
            "LoRA improves on the frozen layer at every λ, at the better of the λ' shown",
            share_positive(*tuned),
            f"gain of E' from {min(float(gain.value.min()) for gain in tuned):.2g} on",
        ),
        Claim(
            "It does at each λ' shown",
            share_positive(*shown),
            "; ".join(lost) or f"from {min(float(gain.value.min()) for gain in shown):.2g} on",
        ),
        Claim("A finite λ is best for E'", share_positive(*finite), "best λ " + ", ".join(minima)),
        stability_claim([*data.theory.values(), *data.at_best.values()]),
        agreement_claim(
            (theory.sel(lam=layers.lam, lam_ft=layers.lam_ft), layers)
            for theory, layers in _pairs(data)
        ),
    ]


def _pairs(data: Data):
    both = zip(data.theory.values(), data.layers.values(), strict=True)
    return [(theory, layers) for theory, layers in both if layers is not None]


def _bayes(theory: xarray.Dataset) -> float:
    # It depends on neither ridge.
    return float(theory.bayes_mean_test_error_ft.max())
