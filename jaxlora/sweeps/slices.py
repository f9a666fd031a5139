"""Which points of a sweep to look at: one axis along, one across, the others held."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray

from .variables import NUMBERS, SIMULATED

DEFAULT = "test_error_ft"


def choose_variable(dataset: xarray.Dataset, name: str | None) -> str:
    """The variable of that name, by default E'; raises ValueError where there is none."""
    names = [v.name for v in NUMBERS if v.name in dataset or SIMULATED + v.name in dataset]
    name = DEFAULT if name is None else name
    if name not in names:
        raise ValueError(f"variable = {name!r}: must be one of {', '.join(names)}")
    return name


def choose_axes(
    dataset: xarray.Dataset, x: str | None, by: str | None
) -> tuple[str, str | None, list[str]]:
    """The axis along, the axis across if there is one, and the others.

    By default the longest is along and the next one across. Raises ValueError for an axis that the
    sweep does not have.
    """
    axes = [name for name in dataset.dims if name not in ("dim", "point")]
    if "point" in dataset.dims:
        raise ValueError("a list of points has no axes to draw along; sweep a grid")
    for name, value in (("x", x), ("by", by)):
        if value is not None and value not in axes:
            raise ValueError(f"{name} = {value!r}: must be one of {', '.join(map(str, axes))}")
    numbers = [a for a in axes if np.issubdtype(dataset[a].dtype, np.number)]
    if x is not None and x == by:
        raise ValueError(f"by = {by!r}: must be another axis than x")
    if x is not None and x not in numbers:
        raise ValueError(f"x = {x!r}: must be an axis of numbers")
    longest = sorted(numbers, key=lambda a: -dataset.sizes[a])
    if x is None:
        x = next((str(a) for a in longest if a != by), None)
    if x is None:
        raise ValueError("the sweep has no axis of numbers to draw along")
    rest = [str(a) for a in axes if a != x]
    if by is None and rest:
        by = next((str(a) for a in longest if a != x), rest[0])
    return str(x), by, [a for a in rest if a != by]


def hold(dataset: xarray.Dataset, at: Mapping[str, Any], others: list[str]) -> xarray.Dataset:
    """The dataset at the values `at` of axes, nearest ones of numbers.

    Raises ValueError for an axis that is not there or of `others`, with more than one value, that
    is not held.
    """
    for name, value in at.items():
        if name not in dataset.dims:
            there = ", ".join(str(d) for d in dataset.dims)
            raise ValueError(f"at {name} = {value}: the sweep has the axes {there}")
        if np.issubdtype(dataset[name].dtype, np.number):
            try:
                wanted = float(value)
            except ValueError:
                wanted = np.nan
            if np.isnan(wanted):
                raise ValueError(f"at {name} = {value!r}: must be a number")
            there = dataset[name].values.astype(float)
            with np.errstate(invalid="ignore"):  # inf − inf
                far = np.where(there == wanted, 0.0, np.abs(there - wanted))
            nearest = int(np.argmin(far))
            # Points of trained layers keep their dimension, to be named.
            dataset = dataset.isel({name: [nearest] if name == "dim" else nearest})
        else:
            values = [str(v).lower() for v in dataset[name].values]
            if str(value).lower() not in values:
                raise ValueError(f"at {name} = {value}: must be one of {', '.join(values)}")
            dataset = dataset.isel({name: values.index(str(value).lower())})
    for name in others:
        if name in dataset.dims and dataset.sizes[name] > 1:
            values = ", ".join(f"{v:g}" if np.isreal(v) else str(v) for v in dataset[name].values)
            raise ValueError(f"at {name}: must be held at a value of {values}")
    return dataset.squeeze([d for d in others if d in dataset.dims])
