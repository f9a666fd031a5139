"""Figure 2: the fine-tuning error against the effective noise of the pre-training, softmax."""

from typing import Any, NamedTuple

import numpy as np
import xarray

from .claims import Claim, agreement_claim, number, share_positive, stability_claim, unsolved
from .drawing import SYMBOLS, draw_curve, draw_layers, in_order, layers_words, value_words
from .effective import GIVEN, at_same_points, noises, triples
from .lab import Lab, Size
from .scale import spread

SIZE = Size(10_000, 5, 500, 5)
FIXED: dict[str, Any] = {"tokens": 3, "lam_ft": 0.5}
DELTAS = (0.0, 2.0)
LABELS = (2.0, 5.0, 10.0, 30.0)  # α'
TRAINED = (2.0, 5.0, 10.0)
LAYERS = tuple(
    FIXED | {"delta": DELTAS[0], "given": GIVEN, "alpha_ft": labels} for labels in TRAINED
)
INCHES = (8.0, 3.8)


class Data(NamedTuple):
    """Δ_eff, theory and trained layers for each Δ, and the places of the layers along Δ_eff."""

    noise: dict[float, np.ndarray]
    theory: dict[float, xarray.Dataset]
    layers: dict[float, xarray.Dataset | None]
    places: dict[float, np.ndarray]


def collect(lab: Lab) -> Data:
    """Sweep Δ_eff and α', at both Δ."""
    return sweep_noise(lab, FIXED, DELTAS, LABELS, TRAINED)


def sweep_noise(lab: Lab, fixed: dict[str, Any], deltas, labels, trained) -> Data:
    """Theory at Δ_eff by α' for each Δ, and layers at some of the points."""
    data = Data({}, {}, {}, {})
    for delta in deltas:
        noise = noises(lab.scale.points, delta / 2)
        places = spread(len(noise), max(lab.scale.simulated, 1))
        common = fixed | {"delta": delta}
        data.noise[delta], data.places[delta] = noise, places
        curves = {"given": triples(noise, delta), "alpha_ft": list(labels)}
        points = {"given": triples(noise[places], delta), "alpha_ft": list(trained)}
        data.theory[delta] = lab.theory(f"delta_{delta:g}", common | curves)
        data.layers[delta] = lab.simulation(f"delta_{delta:g}_layers", common | points)
    return data


def draw(figure, data: Data) -> None:
    """A panel for each Δ, a curve for each α'."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, delta in zip(panels, DELTAS, strict=True):
        draw_labels(axes, data, delta)
        axes.set_title(rf"$\Delta = {delta:g}$", fontsize=10)
    panels[0].set_ylabel(SYMBOLS["test_error_ft"])
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"Figure 2 ({layers_words(data.layers[DELTAS[0]])})", fontsize=10)


def draw_labels(axes, data: Data, delta: float) -> None:
    """E' against Δ_eff, a curve for each α'."""
    theory, layers = data.theory[delta], data.layers[delta]
    for colour, labels in zip(
        in_order(theory.sizes["alpha_ft"]), theory.alpha_ft.values, strict=True
    ):
        one, words = theory.sel(alpha_ft=labels), value_words("alpha_ft", labels)
        draw_curve(axes, one, data.noise[delta], "test_error_ft", color=colour, label=words)
        if layers is not None and labels in layers.alpha_ft:
            x = data.noise[delta][data.places[delta]]
            draw_layers(axes, layers.sel(alpha_ft=labels), x, "test_error_ft", colour)
    axes.set_xlabel(SYMBOLS["effective_noise"])


def claims(data: Data) -> list[Claim]:
    """What section 4.1 says of it."""
    rising = [_rises(theory) for theory in data.theory.values()]
    error = {delta: number(theory, "test_error_ft") for delta, theory in data.theory.items()}
    first, second = DELTAS
    # Where both have the same Δ_eff.
    shared = np.flatnonzero(np.isin(data.noise[first], data.noise[second]))
    one, other = error[first].isel(given=shared), error[second]
    apart = np.abs(one.value.values / other.value.values - 1)
    apart = apart[np.isfinite(apart)]
    if not apart.size:
        raise unsolved(data.theory[second], "test_error_ft")
    spread = float(one.value.max() / one.value.min() - 1)
    return [
        Claim(
            "E' falls as Δ_eff does, at every α'",
            float(np.mean(rising)),
            "steps of E' along Δ_eff: share that rises by more than its error "
            + ", ".join(
                f"{share:.3g} (Δ = {d:g})" for d, share in zip(DELTAS, rising, strict=True)
            ),
        ),
        Claim(
            "Softmax curves of equal Δ_eff nearly coincide",
            float(np.mean(apart < 0.1)),
            f"E' at Δ = {first:g} and {second:g} differs by {100 * np.median(apart):.2g} % in "
            f"the median, {100 * np.max(apart):.2g} % at most; E' varies by {spread:.2g}",
        ),
        stability_claim(data.theory.values()),
        agreement(data),
    ]


def agreement(data: Data) -> Claim:
    """Theory and trained layers at the layers' points."""
    return agreement_claim(
        (at_same_points(data.theory[delta], layers, data.places[delta]), layers)
        for delta, layers in data.layers.items()
        if layers is not None
    )


def _rises(theory: xarray.Dataset) -> float:
    """The share of steps along Δ_eff by which E' rises, resolved."""
    error = number(theory, "test_error_ft")
    later = error.isel(given=slice(1, None))
    index = later.value.given.values
    before = error.isel(given=slice(None, -1))
    before = type(before)(*(part.assign_coords(given=index) for part in before))
    return share_positive(later - before)
