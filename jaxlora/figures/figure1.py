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
    GREY,
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
INCHES = (9.0, 4.0)


class Data(NamedTuple):
    """Theory and trained layers for each Δ."""

    theory: dict[float, xarray.Dataset]
    layers: dict[float, xarray.Dataset | None]


def collect(lab: Lab) -> Data:
    """Sweep λ and λ', at both Δ."""
    count = lab.scale.points
    ridges = np.geomspace(FINEST, COARSEST, count)
    # λ = ∞ is the baseline without pre-training, λ' = ∞ that without fine-tuning.
    ridges_ft = np.unique([*np.geomspace(0.02, 5, count // 2), *RIDGES_FT])
    theory, layers = {}, {}
    for delta in DELTAS:
        fixed = FIXED | {"delta": delta}
        theory[delta] = lab.theory(
            f"delta_{delta:g}", fixed | {"lam": [*ridges, np.inf], "lam_ft": ridges_ft}, bayes=True
        )
        below = ridges[ridges < 0.4]
        chosen = below[spread(len(below), lab.scale.simulated)]
        layers[delta] = lab.simulation(
            f"delta_{delta:g}_layers", SIZE, fixed | {"lam": chosen, "lam_ft": RIDGES_FT}
        )
    return Data(theory, layers)


def draw(figure, data: Data) -> None:
    """A panel for each Δ, with E' against λ' at the best λ in its inset."""
    panels = figure.subplots(1, 2)
    for axes, delta in zip(panels, DELTAS, strict=True):
        theory, layers = data.theory[delta], data.layers[delta]
        for colour, ridge_ft in zip(COLOURS, RIDGES_FT, strict=False):
            one = theory.sel(lam_ft=ridge_ft)
            words = value_words("lam_ft", ridge_ft)
            draw_curve(axes, one, one.lam.values, "test_error_ft", color=colour, label=words)
            if layers is not None:
                trained = layers.sel(lam_ft=ridge_ft)
                draw_layers(axes, trained, trained.lam, "test_error_ft", colour)
            best = float(point_of_least(one, "test_error_ft").lam)
            if np.isfinite(best):
                axes.axvline(best, color=colour, linestyle=":", linewidth=0.8)
            alone = one.sel(lam=np.inf)
            draw_level(axes, float(alone.test_error_ft), colour, style="-.")
        draw_level(axes, _bayes(theory), BLACK, "Bayes-optimal")
        axes.plot([], [], "-.", color=GREY, linewidth=1, label=r"$\lambda = \infty$")
        axes.set_xscale("log")
        axes.set_xlabel(SYMBOLS["lam"])
        axes.set_title(rf"$\Delta = {delta:g}$", fontsize=10)
        _inset(axes, theory)
    panels[0].set_ylabel(SYMBOLS["test_error_ft"])
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(f"Figure 1 ({layers_words(data.layers[DELTAS[0]])})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What section 4.1 says of it."""
    gains, finite, minima = [], [], []
    for delta, theory in data.theory.items():
        error = number(theory, "test_error_ft")
        frozen = number(theory, "frozen_test_error")
        tuned = theory.lam_ft.values[np.isfinite(theory.lam_ft.values)]
        gains.append((frozen - error).sel(lam_ft=tuned))
        for ridge_ft in RIDGES_FT:
            curve = error.sel(lam_ft=ridge_ft)
            best = float(point_of_least(theory.sel(lam_ft=ridge_ft), "test_error_ft").lam)
            ends = [curve.sel(lam=end) for end in (theory.lam.values[0], np.inf)]
            finite += [share_positive(end - curve.sel(lam=best)) for end in ends]
            minima.append(f"{best:.3g} at Δ = {delta:g}, λ' = {ridge_ft:g}")
    shares = np.array([share_positive(gain) for gain in gains])
    worst = [float(gain.value.min()) for gain in gains]
    where = [_where(gain.value) for gain, share in zip(gains, shares, strict=True) if share < 1]
    return [
        Claim(
            "LoRA improves on the frozen layer at every λ and every finite λ'",
            float(np.mean(shares)),
            f"least gain of E' {min(worst):.2g}" + "".join(f"; fails {words}" for words in where),
        ),
        Claim("A finite λ is best for E'", float(np.mean(finite)), "best λ " + ", ".join(minima)),
        stability_claim(data.theory.values()),
        agreement_claim(
            (theory.sel(lam=layers.lam, lam_ft=layers.lam_ft), layers)
            for theory, layers in _pairs(data)
        ),
    ]


def _pairs(data: Data):
    both = zip(data.theory.values(), data.layers.values(), strict=True)
    return [(theory, layers) for theory, layers in both if layers is not None]


def _where(gain: xarray.DataArray) -> str:
    """The ranges of both ridges where there is no gain."""
    places = gain.where(gain <= 0, drop=True)
    if not places.size:
        return "nowhere, but is not resolved everywhere"
    return f"for λ {range_words(places.lam)}, λ' {range_words(places.lam_ft)}"


def _bayes(theory: xarray.Dataset) -> float:
    # It depends on neither ridge.
    return float(theory.bayes_mean_test_error_ft.max())


def _inset(axes, theory: xarray.Dataset) -> None:
    """E' against λ' at the best λ of all."""
    best = float(point_of_least(theory, "test_error_ft").lam)
    one = theory.sel(lam=best)
    inset = axes.inset_axes((0.1, 0.56, 0.36, 0.4))
    draw_curve(inset, one, one.lam_ft.values, "test_error_ft", color=BLACK)
    inset.set_xscale("log")
    inset.set_title(rf"$\lambda = {best:.2g}$", fontsize=7, pad=2)
    inset.set_xlabel(SYMBOLS["lam_ft"], fontsize=7, labelpad=0)
    inset.tick_params(labelsize=6)
