"""Figure 5: as figure 2 for σ = x/T, and the excess over what unlimited labels would leave."""

from typing import Any

import numpy as np
import xarray

from ..noise import identity_finetuned_error
from .claims import Claim, Number, number, share_positive, stability_claim
from .drawing import BLACK, SYMBOLS, draw_curve, in_order, layers_words, value_words
from .effective import GIVEN, triples
from .figure2 import Data, agreement, draw_labels, sweep_noise
from .lab import Lab, Size

SIZE = Size(5_000, 5, 500, 5)
TOKENS, LABELS, TRAINED = 3, (2.0, 5.0, 10.0, 30.0), (2.0, 5.0, 10.0)
FIXED: dict[str, Any] = {"tokens": TOKENS, "lam_ft": 0.5, "activation": "identity"}
DELTA, OTHER = 0.0, 2.0
LAYERS = tuple(FIXED | {"delta": DELTA, "given": GIVEN, "alpha_ft": labels} for labels in TRAINED)
INCHES = (10.0, 3.6)


def collect(lab: Lab) -> Data:
    """Sweep Δ_eff and α', at a Δ that allows all Δ_eff, and in theory at another."""
    data = sweep_noise(lab, FIXED, (DELTA,), LABELS, TRAINED)
    noise = data.noise[DELTA]
    data.noise[OTHER] = noise[noise >= OTHER / 2]
    given = triples(data.noise[OTHER], OTHER)
    curves = {"delta": OTHER, "given": given, "alpha_ft": list(LABELS)}
    data.theory[OTHER] = lab.theory(f"delta_{OTHER:g}", FIXED | curves)
    return data


def draw(figure, data: Data) -> None:
    """E', and its excess over Δ_eff = 0 and over α' → ∞."""
    panels = figure.subplots(1, 3)
    draw_labels(panels[0], data, DELTA)
    noise = data.noise[DELTA]
    panels[0].plot(noise, _unlimited(noise), "--", color=BLACK, label=r"$\alpha' \to \infty$")
    panels[0].legend(frameon=False, fontsize=8)
    panels[0].set_ylabel(SYMBOLS["test_error_ft"])
    theory = data.theory[DELTA]
    excesses = (
        (panels[1], theory.test_error_ft.isel(given=0), r"$E' - E'(\Delta_{\mathrm{eff}} = 0)$"),
        (panels[2], _limit(theory, noise), r"$E' - E'(\alpha' \to \infty)$"),
    )
    colours = in_order(theory.sizes["alpha_ft"])
    for axes, reference, words in excesses:
        for colour, labels in zip(colours, theory.alpha_ft.values, strict=True):
            one = theory.sel(alpha_ft=labels)
            excess = one.assign(test_error_ft=one.test_error_ft - reference.sel(alpha_ft=labels))
            label = value_words("alpha_ft", labels)
            draw_curve(axes, excess, noise, "test_error_ft", color=colour, label=label)
        axes.set_xlabel(SYMBOLS["effective_noise"])
        axes.set_ylabel(words)
    figure.suptitle(f"Figure 5 ({layers_words(data.layers[DELTA])})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What appendix E says of it."""
    theory, other = data.theory[DELTA], data.theory[OTHER]
    shared = np.flatnonzero(np.isin(data.noise[DELTA], data.noise[OTHER]))
    one = number(theory.isel(given=shared).assign_coords(given=other.given), "test_error_ft")
    difference = one - number(other, "test_error_ft")
    apart = abs(difference.value / one.value).values
    same = abs(difference.value).values <= 3 * difference.stderr.values
    error = number(theory, "test_error_ft")
    limit = _limit(theory, data.noise[DELTA])
    excess = error - Number(limit, 0 * limit)
    return [
        Claim(
            "For σ = x/T the error depends on the pre-training through Δ_eff alone",
            float(np.mean(same[np.isfinite(apart)])),
            f"E' at Δ = {DELTA:g} and {OTHER:g} is {100 * np.nanmax(apart):.2g} % apart at most",
        ),
        Claim(
            "Limited labels cost an excess error that falls with α'",
            share_positive(_falls(excess)),
            "excess over α' → ∞ at the largest Δ_eff "
            + ", ".join(
                f"{float(excess.value.isel(given=-1).sel(alpha_ft=a)):.3g} (α' = {a:g})"
                for a in LABELS
            ),
        ),
        stability_claim(data.theory.values()),
        agreement(data),
    ]


def _unlimited(noise: np.ndarray) -> np.ndarray:
    """E' as α' → ∞, where χ = χ*."""
    return np.asarray(identity_finetuned_error(noise, 1.0, 1.0, TOKENS))


def _limit(theory: xarray.Dataset, noise: np.ndarray) -> xarray.DataArray:
    """The same at the points of `theory`."""
    return xarray.zeros_like(theory.test_error_ft) + _unlimited(noise)[:, None]


def _falls(error: Number) -> Number:
    """By how much it falls from each α' to the next."""
    before, after = error.isel(alpha_ft=slice(None, -1)), error.isel(alpha_ft=slice(1, None))
    index = before.value.alpha_ft.values
    return before - Number(*(part.assign_coords(alpha_ft=index) for part in after))
