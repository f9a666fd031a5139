"""What is in a sweep, in numbers and in words."""

import json
from typing import Any

import numpy as np
import xarray

from .dataset import failures, parameters_of, solved
from .plan import VERSIONS
from .variables import NUMBERS, SIMULATED, STDERR

SHOWN = ("test_error", "test_error_ft", "overlap", "forgetting", "effective_noise")


def describe(dataset: xarray.Dataset) -> dict[str, Any]:
    """Axes, fixed parameters, ranges of the main numbers, failures, versions, as JSON has them."""
    ranges = {}
    for prefix in ("", SIMULATED):
        for variable in NUMBERS:
            name = prefix + variable.name
            if variable.name in SHOWN and name in dataset:
                ranges[name] = _range(dataset, name)
    return {
        "axes": {str(name): _axis(dataset[name]) for name in dataset.dims},
        "parameters": {k: _plain(v) for k, v in parameters_of(dataset).items()},
        "numbers": ranges,
        "failures": failures(dataset),
        "seed": _plain(dataset.attrs.get("seed")),
        "versions": {name: dataset.attrs.get(f"{name}_version") for name in VERSIONS},
    }


def to_words(path: str, said: dict[str, Any]) -> str:
    """What `describe` said, as lines for people."""
    lines = [path]
    for name, axis in said["axes"].items():
        lines.append(f"  {name:<14} {axis['count']} values from {axis['first']} to {axis['last']}")
    lines += ["", "  ".join(f"{k}={v}" for k, v in said["parameters"].items()), ""]
    for name, found in said["numbers"].items():
        if found is None:
            lines.append(f"  {name:<32} undefined")
            continue
        where = ", ".join(f"{k}={v}" for k, v in found["least_at"].items())
        lines.append(
            f"  {name:<32} {found['least']:.5g} to {found['largest']:.5g}, "
            f"least at {where or '-'}; median standard error {_short(found['stderr'])}"
        )
    failed = ", ".join(f"{stage} at {count} points" for stage, count in said["failures"].items())
    lines += ["", f"failed: {failed or 'none'}"]
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    return "\n".join([*lines, f"seed {said['seed']}; {versions}"])


def _range(dataset: xarray.Dataset, name: str) -> dict[str, Any] | None:
    values = solved(dataset, name)
    if not np.any(np.isfinite(values)):
        return None
    least = values.where(np.isfinite(values), np.inf).argmin(...)
    places = least if isinstance(least, dict) else {}
    errors = dataset[name + STDERR].values
    known = errors[np.isfinite(errors)]
    return {
        "least": float(values.min()),
        "largest": float(values.max()),
        "least_at": {str(k): _plain(dataset[k].values[int(i)]) for k, i in places.items()},
        "stderr": float(np.median(known)) if known.size else None,
    }


def _axis(values: xarray.DataArray) -> dict[str, Any]:
    return {
        "count": int(values.size),
        "first": _plain(values.values[0]),
        "last": _plain(values.values[-1]),
    }


def _plain(value: Any) -> Any:
    """A value that JSON can hold, rounded as people read it."""
    if isinstance(value, np.ndarray):
        return [_plain(x) for x in value]
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return json.loads(f"{value:.6g}") if np.isfinite(value) else str(value)
    return value


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1g}"
