"""Curves, points and labels that all figures share."""

from typing import Any

import matplotlib
import numpy as np
import xarray

from ..plotting import BANDS, BLUE, MARKERS, ORANGE
from ..sweeps.dataset import PARAMETER_WORDS, solved
from ..sweeps.variables import NUMBERS, OF_PRETRAINING, SIMULATED, STDERR

BLACK = "#000000"
# Distinct to colour-blind readers (Okabe and Ito).
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
REPLICONS = ("replicon", "replicon_ft")
SYMBOLS = {variable.name: variable.symbol for variable in NUMBERS}
SYMBOLS |= {name: symbol for name, (symbol, _) in PARAMETER_WORDS.items()}


def in_order(count: int) -> np.ndarray:
    """Colours of curves whose parameter has an order."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count))


def draw_curve(axes, dataset: xarray.Dataset, x, name: str, **style) -> None:
    """A number of the theory against the values `x`, with a band of two standard errors.

    Faint where a replicon on which it depends is not below 1, left out where it was not solved.
    """
    x, finite = np.asarray(x), np.isfinite(x)
    dataset, x = dataset.isel({solved(dataset, name).dims[0]: finite}), x[finite]
    y, error = solved(dataset, name).values, dataset[name + STDERR].values
    (line,) = axes.plot(x, np.where(is_stable(dataset, name), y, np.nan), **style)
    faint = {"color": line.get_color(), "linestyle": line.get_linestyle(), "alpha": 0.4}
    axes.plot(x, y, **faint)
    axes.fill_between(
        x, y - BANDS * error, y + BANDS * error, color=line.get_color(), alpha=0.25, linewidth=0
    )


def is_stable(dataset: xarray.Dataset, name: str) -> np.ndarray:
    """Where no replicon of the stages on which a number depends reaches 1."""
    replicons = REPLICONS[:1] if name in OF_PRETRAINING else REPLICONS
    return np.all([~(dataset[one].values >= 1) for one in replicons], axis=0)


def draw_layers(
    axes, dataset: xarray.Dataset | None, x, name: str, colour, *, hollow: bool = False
) -> None:
    """The same of trained layers with bars of two standard errors, a marker for each dimension."""
    if dataset is None:
        return
    for k in range(dataset.sizes["dim"]):
        one = dataset.isel(dim=k)
        axes.errorbar(
            x,
            one[SIMULATED + name].values,
            BANDS * one[SIMULATED + name + STDERR].values,
            fmt=MARKERS[k % len(MARKERS)],
            color=colour,
            markersize=4,
            linewidth=1,
            markeredgecolor=colour if hollow else "white",
            markeredgewidth=1.0 if hollow else 0.4,
            markerfacecolor="white" if hollow else colour,
        )


def draw_level(axes, value: float, colour, words: str | None = None, style: Any = "--") -> None:
    """A horizontal line."""
    axes.axhline(value, color=colour, linestyle=style, linewidth=1, label=words)


def value_words(name: str, value: float) -> str:
    """A parameter and its value, in mathematical notation."""
    number = r"\infty" if np.isinf(value) else f"{value:.3g}"
    return f"{SYMBOLS[name].rstrip('$')} = {number}$"


def layers_words(simulation: xarray.Dataset | None) -> str:
    """Which layers were trained, for a title."""
    if simulation is None:
        return "theory"
    dims = ", ".join(str(dim) for dim in simulation["dim"].values)
    return f"lines: theory; points: $D = {dims}$, {simulation.attrs['simulation_seeds']} seeds"
