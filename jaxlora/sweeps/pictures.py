"""Pictures of a sweep."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
import xarray

from ..plotting import BANDS, GREY, MARKERS
from .dataset import solved
from .slices import choose_axes, choose_variable, hold
from .variables import CONVERGED, NUMBERS, SIMULATED, STDERR, SUFFIX

# What nothing can beat, and what there is without fine-tuning, for each number.
BOUNDS = {
    "test_error": "bayes_test_error",
    "test_error_ft": "bayes_test_error_ft",
    "overlap": "bayes_overlap",
}
BASELINES = {"test_error_ft": "frozen_test_error", "forgetting": "test_error"}


def plot_sweep(
    axes,
    dataset: xarray.Dataset,
    variable: str | None = None,
    *,
    x: str | None = None,
    by: str | None = None,
    at: Mapping[str, Any] | None = None,
    heat: bool = False,
) -> None:
    """Draw a number along the axis `x`, a curve for each value of `by`, or `heat` over both.

    Lines are theory, with bands of two standard errors; points with bars are trained layers. The
    Bayes-optimal number is dashed, that of the frozen layer dotted. `at` holds the other axes.
    Points that failed are left out; of trained layers, those whose training did not converge for
    every seed are hollow, and left out of a heat map. Raises ValueError for names that the dataset
    does not have.
    """
    name = choose_variable(dataset, variable)
    chosen = hold(dataset, at or {}, [])
    x, by, others = choose_axes(chosen, x, by)
    chosen = hold(chosen, {}, others)
    if heat:
        if by is None or not np.issubdtype(chosen[by].dtype, np.number):
            raise ValueError("a heat map needs two axes of numbers")
        _heat(axes, chosen, name, x, by)
    else:
        _curves(axes, chosen, name, x, by)


def save_sweep(path: os.PathLike | str, dataset: xarray.Dataset, *names: Any, **how: Any) -> None:
    """Draw `plot_sweep` into a file: png, pdf or svg by its name."""
    figure = matplotlib.figure.Figure(figsize=(5.5, 3.8), layout="constrained")
    plot_sweep(figure.subplots(), dataset, *names, **how)
    figure.savefig(path, dpi=150)


def _curves(axes, dataset: xarray.Dataset, name: str, x: str, by: str | None) -> None:
    dataset = dataset.sortby(x)
    values = dataset[x].values
    finite = np.isfinite(values)
    curves = [(dataset, None)]
    if by is not None:
        across = [dataset.isel({by: i}) for i in range(dataset.sizes[by])]
        curves = [(one, _value(one, by)) for one in across]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
    for (one, label), colour in zip(curves, colours, strict=True):
        if name in one:
            y, error = _solved(one, name), one[name + STDERR].values
            axes.plot(values[finite], y[finite], color=colour, label=label)
            low, high = y - BANDS * error, y + BANDS * error
            axes.fill_between(
                values[finite], low[finite], high[finite], color=colour, alpha=0.25, linewidth=0
            )
            label = None
        if SIMULATED + name in one:
            _points(axes, one, name, x, colour, label, describe=one is curves[0][0])
    _references(axes, dataset, name, x, by)
    if _is_logarithmic(values[finite]):
        axes.set_xscale("log")
    axes.set_xlabel(_symbol(dataset, x))
    axes.set_ylabel(_symbol(dataset, name))
    if axes.get_legend_handles_labels()[0]:
        columns = 1 + (len(curves) > 6)
        axes.legend(frameon=False, fontsize=8, ncols=columns)


def _points(axes, dataset: xarray.Dataset, name: str, x: str, colour, label, describe) -> None:
    for k, dim in enumerate(dataset["dim"].values):
        one = dataset.isel(dim=k)
        words = label if k == 0 else None
        if words is None and describe:
            words = f"$D = {dim}$"
        values, converged = one[SIMULATED + name], _converged(one, name)
        for which, face, said in ((converged, colour, words), (~converged, "white", None)):
            if said is None and not which.any():
                continue
            axes.errorbar(
                one[x].values,
                values.where(which).values,
                BANDS * one[SIMULATED + name + STDERR].values,
                fmt=MARKERS[k % len(MARKERS)],
                color=colour,
                markerfacecolor=face,
                markersize=4,
                linewidth=1,
                label=said,
            )


def _references(axes, dataset: xarray.Dataset, name: str, x: str, by: str | None) -> None:
    """The Bayes-optimal number and that of the frozen layer, where curves share them."""
    values = dataset[x].values
    for table, style, words in ((BOUNDS, "--", "Bayes-optimal"), (BASELINES, ":", None)):
        other = table.get(name)
        if other is None or other not in dataset:
            continue
        line = solved(dataset, other)
        if by is not None:
            first = line.isel({by: 0})
            if float(abs(line - first).max()) > 1e-6 * float(abs(first).max()):
                continue
            line = first
        label = words or f"without fine-tuning ({_symbol(dataset, other)})"
        axes.plot(values, line.values, style, color="black" if words else GREY, label=label)


def _heat(axes, dataset: xarray.Dataset, name: str, x: str, by: str) -> None:
    source = name if name in dataset else SIMULATED + name
    dataset = dataset.isel(dim=-1) if "dim" in dataset.dims else dataset
    for axis in (x, by):
        dataset = dataset.sortby(axis)
        dataset = dataset.isel({axis: np.isfinite(dataset[axis].values)})
    if source != name:
        dataset = dataset.assign({source: dataset[source].where(_converged(dataset, name))})
    z = _solved(dataset.transpose(by, x, ...), source)
    edges = [_edges(dataset[axis].values) for axis in (x, by)]
    mesh = axes.pcolormesh(*edges, z, cmap="viridis")
    for axis, set_scale in ((x, axes.set_xscale), (by, axes.set_yscale)):
        if _is_logarithmic(dataset[axis].values):
            set_scale("log")
    if np.any(np.isfinite(z)):
        best = np.nanargmax(z) if name == "overlap" else np.nanargmin(z)
        row, column = np.unravel_index(best, z.shape)
        words = "largest" if name == "overlap" else "least"
        axes.plot(
            dataset[x].values[column],
            dataset[by].values[row],
            "*",
            color="white",
            markeredgecolor="black",
            markersize=11,
            label=f"{words}: {z[row, column]:.4g}",
        )
        axes.legend(loc="upper right", fontsize=8)
    axes.figure.colorbar(mesh, ax=axes, label=_symbol(dataset, name))
    axes.set_xlabel(_symbol(dataset, x))
    axes.set_ylabel(_symbol(dataset, by))


def _edges(values: np.ndarray) -> np.ndarray:
    """The edges of cells around sorted values, in the middle between them on their scale."""
    x = np.log(values) if _is_logarithmic(values) else values
    if len(x) == 1:
        edges = np.array([x[0] - 0.5, x[0] + 0.5])
    else:
        middle = (x[1:] + x[:-1]) / 2
        edges = np.concatenate([[1.5 * x[0] - 0.5 * x[1]], middle, [1.5 * x[-1] - 0.5 * x[-2]]])
    return np.exp(edges) if _is_logarithmic(values) else edges


def _converged(dataset: xarray.Dataset, name: str) -> xarray.DataArray:
    """Where the training behind a number of trained layers converged for every seed."""
    stages = list(SUFFIX)
    stage = next(variable.stage for variable in NUMBERS if variable.name == name)
    shares = [dataset[CONVERGED + SUFFIX[s]] for s in stages[: stages.index(stage) + 1]]
    return functools.reduce(np.minimum, shares) == 1


def _solved(dataset: xarray.Dataset, name: str) -> np.ndarray:
    return solved(dataset, name).values


def _is_logarithmic(values: np.ndarray) -> bool:
    """Whether the steps of positive values are nearer to equal ratios than to equal differences."""
    if len(values) < 3 or np.any(values <= 0):
        return False
    values = np.sort(values)

    def spread(x):
        steps = np.diff(x)
        return np.std(steps) / np.mean(steps)

    return spread(np.log(values)) < spread(values)


def _value(dataset: xarray.Dataset, name: str) -> str:
    value = dataset[name].item()
    if isinstance(value, str):
        return value
    words = r"\infty" if np.isinf(value) else f"{float(value):.3g}"
    return f"{_symbol(dataset, name).rstrip('$')} = {words}$"


def _symbol(dataset: xarray.Dataset, name: str) -> str:
    source = name if name in dataset.variables else SIMULATED + name
    return dataset[source].attrs.get("symbol", name)
