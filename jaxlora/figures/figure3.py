"""Figure 3: fine-tuning on sequences of the pre-training, against both ridges."""

from typing import Any, NamedTuple

import numpy as np
import xarray

from ..noise import reused_noise
from ..sweeps.dataset import solved
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

SIZE = Size(1000, 5, 60, 5)
FIXED: dict[str, Any] = {
    "tokens": 2,
    "delta": 0.5,
    "kappa0": 0.5,
    "kappa": 1.0,
    "alpha": 0.2,
    "alpha_ft": 3.0,
    "reuse": True,
}
RIDGES_FT = (0.2, 0.5, 1.0)
FINEST, COARSEST = 0.005, 0.5  # λ, below λ_c = 0.86
LAYERS = (FIXED | {"lam": COARSEST, "lam_ft": RIDGES_FT[0]},)
INCHES = (10.0, 3.6)


class Data(NamedTuple):
    """Theory and trained layers; `linear` is the theory for σ = x/T."""

    theory: xarray.Dataset
    linear: xarray.Dataset
    layers: xarray.Dataset | None


def collect(lab: Lab) -> Data:
    """Sweep λ and λ'."""
    ridges = np.geomspace(FINEST, COARSEST, lab.scale.points)
    chosen = ridges[spread(len(ridges), lab.scale.simulated)]
    curves, few = {"lam": ridges, "lam_ft": list(RIDGES_FT)}, {"lam": ridges[::4], "lam_ft": 0.5}
    theory = lab.theory("ridges", FIXED | curves, bayes=True)
    linear = lab.theory("ridges_identity", FIXED | few | {"activation": "identity"})
    layers = lab.simulation("ridges_layers", FIXED | curves | {"lam": chosen})
    return Data(theory, linear, layers)


def draw(figure, data: Data) -> None:
    """Errors of the pre-training, error and overlap of the fine-tuning."""
    panels = figure.subplots(1, 3)
    theory, layers = data.theory, data.layers
    first = theory.isel(lam_ft=0)
    trained = None if layers is None else layers.isel(lam_ft=0)
    for colour, name, words in (
        (COLOURS[0], "test_error", "test"),
        (COLOURS[1], "train_error", "train"),
    ):
        draw_curve(panels[0], first, first.lam.values, name, color=colour, label=words)
        draw_layers(panels[0], trained, None if trained is None else trained.lam, name, colour)
    panels[0].set_ylabel(SYMBOLS["test_error"])
    draw_level(panels[0], float(theory.bayes_mean_test_error.max()), BLACK, "Bayes-optimal")
    for axes, name in ((panels[1], "test_error_ft"), (panels[2], "overlap")):
        for colour, ridge_ft in zip(COLOURS[2:], RIDGES_FT, strict=False):
            one = theory.sel(lam_ft=ridge_ft)
            words = value_words("lam_ft", ridge_ft)
            draw_curve(axes, one, one.lam.values, name, color=colour, label=words)
            if layers is not None:
                draw_layers(axes, layers.sel(lam_ft=ridge_ft), layers.lam, name, colour)
        axes.set_ylabel(SYMBOLS[name])
    draw_level(panels[1], float(theory.bayes_mean_test_error_ft.max()), BLACK, "Bayes-optimal")
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlabel(SYMBOLS["lam"])
    panels[0].legend(frameon=False, fontsize=8)
    panels[1].legend(frameon=False, fontsize=8)
    figure.suptitle(f"Figure 3 ({layers_words(layers)})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What section 4.2 says of it."""
    theory = data.theory
    largest = theory.lam.values[solved(theory, "overlap").fillna(-np.inf).argmax("lam").values]
    curves = [("test_error", RIDGES_FT[0]), *(("test_error_ft", r) for r in RIDGES_FT)]
    finite, places = [], []
    for name, ridge_ft in curves:
        curve = number(theory, name).sel(lam_ft=ridge_ft)
        best = float(point_of_least(theory.sel(lam_ft=ridge_ft), name).lam)
        solved_at = curve.value.dropna("lam").lam.values
        ends = [curve.sel(lam=solved_at[end]) for end in (0, -1)]
        finite += [end - curve.sel(lam=best) for end in ends]
        symbol = "E" if name == "test_error" else f"E' (λ' = {ridge_ft:g})"
        places.append(f"{best:.3g} for {symbol}")
    fresh = solved(data.linear, "effective_noise")
    reused = np.asarray(reused_noise(fresh.values, data.linear.V.values, FIXED["tokens"]))
    linear = data.linear.assign(ratio=reused / fresh)
    least, ratio = point_of_least(linear, "ratio"), linear.ratio.dropna("lam")
    return [
        Claim(
            "With reused sequences λ → 0 gives the largest overlap",
            float(np.mean(largest == theory.lam.values[0])),
            "largest o_w at λ = "
            + ", ".join(f"{x:.3g} (λ' = {r:g})" for x, r in zip(largest, RIDGES_FT, strict=True))
            + f", of λ from {theory.lam.values[0]:.3g} on",
        ),
        Claim("A finite λ is best for E and E'", share_positive(*finite), "; ".join(places)),
        Claim(
            "Reuse reduces the effective noise, Δ_eff(e = 1) < Δ_eff(e = 0) (27), for σ = x/T",
            float(np.mean(ratio < 1)),
            f"the ratio is {range_words(ratio)}, smallest at λ = {float(least.lam):.3g} of "
            f"{range_words(ratio.lam)}",
        ),
        stability_claim([theory, linear]),
        agreement_claim(
            [] if data.layers is None else [(theory.sel(lam=data.layers.lam), data.layers)]
        ),
    ]
