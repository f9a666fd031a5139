"""Figure 4: active fine-tuning against labels chosen evenly, by Δ_eff and labelled fraction."""

import itertools
from typing import Any, NamedTuple

import numpy as np
import xarray

from ..plotting import BANDS
from ..sweeps.dataset import solved
from .claims import Claim, Number, agreement_claim, number, share_positive, stability_claim
from .drawing import BLACK, COLOURS, SYMBOLS, draw_curve, draw_layers, layers_words, value_words
from .effective import GIVEN, noises, triples
from .lab import Lab, Size
from .scale import spread

SIZE = Size(10_000, 5, 200, 3)
POOL = 100.0  # candidates over D, of which the share ρ is labelled
FIXED: dict[str, Any] = {"tokens": 3, "delta": 0.0}
RATIOS = (0.03, 0.1, 0.3)  # ρ
RIDGES_FT = (0.1, 0.2, 0.5, 1.0)  # of which each point has the best
EVEN = 1.0  # labels chosen evenly: all of as many candidates as labels
LAYERS = tuple(
    FIXED
    | {"given": GIVEN, "alpha_ft": ratio * POOL, "active_ratio": which, "lam_ft": RIDGES_FT[0]}
    for ratio in RATIOS
    for which in (ratio, EVEN)
)
INCHES = (9.0, 4.0)


class Data(NamedTuple):
    """For each ρ: theory at all λ', that at the best ones, layers, and theory at their points."""

    noise: np.ndarray
    theory: dict[float, xarray.Dataset]
    tuned: dict[float, xarray.Dataset]
    layers: dict[float, xarray.Dataset | None]
    at_layers: dict[float, xarray.Dataset]


def collect(lab: Lab) -> Data:
    """Sweep Δ_eff and λ' with and without Algorithm 1, for each ρ."""
    noise = noises((lab.scale.points + 1) // 2)
    places = spread(len(noise), max(lab.scale.simulated, 1))
    data = Data(noise, {}, {}, {}, {})
    for ratio in RATIOS:
        common = FIXED | {"alpha_ft": ratio * POOL}
        given = triples(noise, FIXED["delta"])
        curves = {"given": given, "active_ratio": [ratio, EVEN], "lam_ft": list(RIDGES_FT)}
        theory = lab.theory(f"ratio_{ratio:g}", common | curves)
        error = solved(theory, "test_error_ft").fillna(np.inf)
        tuned = theory.isel(lam_ft=error.argmin("lam_ft"))
        # Both choices at every place, one after the other.
        along, which = (
            xarray.DataArray(x.ravel(), dims="point") for x in np.meshgrid(places, (0, 1))
        )
        at_layers = tuned.isel(given=along, active_ratio=which)
        points = {
            "given": [given[i] for i in along.values],
            "active_ratio": at_layers.active_ratio.values,
            "lam_ft": at_layers.lam_ft.values,
        }
        layers = lab.simulation(f"ratio_{ratio:g}_layers", common | points, "list")
        data.theory[ratio], data.tuned[ratio], data.layers[ratio] = theory, tuned, layers
        data.at_layers[ratio] = at_layers.assign_coords(noise=("point", noise[along.values]))
    return data


def draw(figure, data: Data) -> None:
    """E' with its gain in the inset, and the overlap."""
    panels = figure.subplots(1, 2)
    inset = panels[0].inset_axes((0.1, 0.63, 0.32, 0.32))
    for colour, ratio in zip(COLOURS, RATIOS, strict=False):
        tuned, layers = data.tuned[ratio], data.layers[ratio]
        active, even = (tuned.sel(active_ratio=which) for which in (ratio, EVEN))
        for axes, name in zip(panels, ("test_error_ft", "overlap"), strict=True):
            words = value_words("active_ratio", ratio)
            draw_curve(axes, active, data.noise, name, color=colour, label=words)
            draw_curve(axes, even, data.noise, name, color=colour, linestyle="--")
            if layers is not None:
                for which in (ratio, EVEN):
                    chosen = layers.active_ratio.values == which
                    x = data.at_layers[ratio].noise.values[chosen]
                    draw_layers(
                        axes, layers.isel(point=chosen), x, name, colour, hollow=which == EVEN
                    )
        gain = _gain(tuned, ratio, "test_error_ft")
        inset.errorbar(data.noise, gain.value, BANDS * gain.stderr, color=colour, linewidth=1)
    for axes, name in zip(panels, ("test_error_ft", "overlap"), strict=True):
        axes.set_xlabel(SYMBOLS["effective_noise"])
        axes.set_ylabel(SYMBOLS[name])
        axes.plot([], [], color=BLACK, label="active")
        axes.plot([], [], "--", color=BLACK, label="evenly chosen")
    inset.set_title(r"gain $\Delta E'$", fontsize=7, pad=2)
    inset.tick_params(labelsize=6)
    panels[1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle(f"Figure 4 ({layers_words(data.layers[RATIOS[0]])})", fontsize=10)


def claims(data: Data) -> list[Claim]:
    """What section 4.3 says of it."""
    noisy = data.noise > 0  # at Δ_eff = 0 there is no noise to be chosen from
    gains = {
        name: [_gain(data.tuned[ratio], ratio, name).isel(given=noisy) for ratio in RATIOS]
        for name in ("test_error_ft", "overlap")
    }
    least, most = (
        [gain.isel(given=end, drop=True) for gain in gains["test_error_ft"]] for end in (0, -1)
    )
    by_noise = [one - other for one, other in zip(most, least, strict=True)]
    by_ratio = [one - other for one, other in itertools.pairwise(most)]

    def words(name: str) -> str:
        return "; ".join(
            f"{float(gain.value.min()):.2g} to {float(gain.value.max()):.2g} (ρ = {ratio:g})"
            for gain, ratio in zip(gains[name], RATIOS, strict=True)
        )

    return [
        Claim(
            "Active fine-tuning lowers E' at every ρ < 1",
            share_positive(*gains["test_error_ft"]),
            f"gain {words('test_error_ft')}",
        ),
        Claim(
            "It raises o_w",
            share_positive(*gains["overlap"]),
            f"gain {words('overlap')}",
        ),
        Claim(
            "The gain is larger for larger Δ_eff and smaller ρ",
            share_positive(*by_noise, *by_ratio),
            f"gain of E' at Δ_eff = {data.noise[-1]:g}: "
            + ", ".join(f"{g.words()} (ρ = {r:g})" for g, r in zip(most, RATIOS, strict=True)),
        ),
        stability_claim(data.tuned.values()),
        agreement_claim(
            (data.at_layers[ratio].drop_vars("noise"), layers)
            for ratio, layers in data.layers.items()
            if layers is not None
        ),
    ]


def _gain(tuned: xarray.Dataset, ratio: float, name: str) -> Number:
    """By how much Algorithm 1 betters a number, each choice at its best λ'."""
    one, other = (
        number(tuned.drop_vars("lam_ft"), name).sel(active_ratio=which, drop=True)
        for which in ((EVEN, ratio) if name == "test_error_ft" else (ratio, EVEN))
    )
    return one - other
