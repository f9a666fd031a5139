"""The numbers of all units as one labelled dataset."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray

from ..activations import as_activation
from ..results import Result
from .design import PARAMETERS, Design
from .plan import VERSIONS, Plan, Unit
from .variables import CONVERGED, OF_PRETRAINING, SIMULATED, SUFFIX, attributes_of
from .work import Arrays

PARAMETER_WORDS = {
    "tokens": ("$T$", "tokens in a sequence"),
    "activation": (r"$\sigma$", "activation"),
    "reuse": ("$e$", "whether fine-tuning is on pre-training sequences"),
    "kappa0": (r"$\kappa_0$", "rank of the teacher over D"),
    "kappa": (r"$\kappa$", "rank of the student over D"),
    "alpha": (r"$\alpha$", "pre-training samples over D^2"),
    "delta": (r"$\Delta$", "label noise"),
    "lam": (r"$\lambda$", "pre-training ridge"),
    "alpha_ft": (r"$\alpha'$", "labelled fine-tuning samples over D"),
    "lam_ft": (r"$\lambda'$", "fine-tuning ridge"),
    "beta": (r"$\beta$", "recalibration"),
    "given": ("given", "number of the pre-training set by hand"),
    "given_Q0": ("$Q_0$", "squared norm of the teacher's weights, set by hand"),
    "given_Q": ("$Q$", "squared norm of the pre-trained weights, set by hand"),
    "given_M": ("$M$", "overlap of pre-trained and teacher weights, set by hand"),
    "active_ratio": (r"$\rho$", "share of the candidates that is labelled"),
    "dim": ("$D$", "dimension of the trained layers"),
}


def dataset_of(plan: Plan, done: Iterable[tuple[Unit, Arrays]]) -> xarray.Dataset:
    """The dataset of a plan whose units have these arrays; NaN where one is missing."""
    design = plan.design
    dims = [setting.dimension for setting in plan.experiment.settings] if plan.experiment else []
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for unit, found in done:
        simulated = unit.kind == "simulation"
        shape = (design.size, len(dims)) if simulated else (design.size,)
        for name, values in found.items():
            if name not in arrays:
                whole = np.issubdtype(values.dtype, np.integer)
                blank = np.full(shape, -1 if whole else np.nan, values.dtype)
                arrays[name] = ((*design.dims, "dim") if simulated else design.dims, blank)
            points = unit.points.ravel()
            arrays[name][1][(points, unit.variant) if simulated else points] = values
    variables = {}
    for name, (along, values) in arrays.items():
        shape = (*design.shape, *values.shape[1:])
        variables[name] = (along, values.reshape(shape), attributes_of(name))
    coordinates = _coordinates(design)
    if dims:
        coordinates["dim"] = ("dim", np.array(dims), _words("dim"))
    return xarray.Dataset(variables, coordinates, _attributes(plan))


def parameters_of(dataset: xarray.Dataset) -> dict[str, Any]:
    """The parameters that all points of a dataset share."""
    return {name: dataset.attrs[name] for name in PARAMETERS if name in dataset.attrs}


def solved(dataset: xarray.Dataset, name: str) -> xarray.DataArray:
    """A number of the theory, NaN where it was not solved; or one of trained layers."""
    values = dataset[name]
    for result in ("result",) if name in OF_PRETRAINING else ("result", "result_ft"):
        if result in dataset and not name.startswith(SIMULATED):
            values = values.where(dataset[result] <= max(r for r in Result if r.successful))
    return values


def failures(dataset: xarray.Dataset) -> dict[str, int]:
    """How many points of each stage were not solved, or not trained by all seeds."""
    found = {}
    for suffix, stage in ((suffix, stage) for stage, suffix in SUFFIX.items()):
        if f"result{suffix}" in dataset:
            failed = dataset[f"result{suffix}"] > max(r for r in Result if r.successful)
            found[stage] = int(failed.sum())
        if CONVERGED + suffix in dataset:
            found[f"{stage} of trained layers"] = int((dataset[CONVERGED + suffix] < 1).sum())
    if "bayes_result" in dataset:
        failed = dataset["bayes_result"] > max(r for r in Result if r.successful)
        found["Bayes-optimal benchmark"] = int(failed.sum())
    return {name: count for name, count in found.items() if count}


def _coordinates(design: Design) -> dict[str, Any]:
    found = {}
    for name, values in design.axes.items():
        along = name if design.kind == "grid" else "point"
        parts = {name: np.array(values if name != "activation" else list(map(_name, values)))}
        if name == "given":
            triples = dict(zip(("given_Q0", "given_Q", "given_M"), parts[name].T, strict=True))
            parts = {"given": np.arange(len(values))} | triples
        found |= {part: (along, array, _words(part)) for part, array in parts.items()}
    if design.dims == ("point",):
        found["point"] = ("point", np.arange(design.size), {"long_name": "number of the point"})
    return found


def _name(activation) -> str:
    return as_activation(activation).name


def _words(name: str) -> dict[str, str]:
    symbol, description = PARAMETER_WORDS[name]
    return {"long_name": description, "units": "1", "symbol": symbol}


def _attributes(plan: Plan) -> Mapping[str, Any]:
    """What all points share, the versions and how it was computed; plain values only."""
    fixed = {name: value for name, value in plan.design.fixed.items() if value is not None}
    fixed["activation"] = _name(fixed.get("activation", "softmax"))
    if "activation" in plan.design.axes:
        del fixed["activation"]
    plain = {name: int(v) if isinstance(v, bool) else v for name, v in fixed.items()}
    theory, experiment = plan.theory, plan.experiment
    if theory is not None:
        plain |= {"samples": theory.samples, "replicates": theory.replicates, "seed": theory.seed}
        plain["precision"] = theory.options.precision
    if experiment is not None:
        plain |= {"simulation_seeds": experiment.seeds, "simulation_seed": experiment.seed}
    return {
        "title": "Theory of LoRA fine-tuning in a solvable attention model (arXiv:2606.05899)",
        "Conventions": "CF-1.11",
        **plain,
        **{f"{name}_version": version(name) for name in VERSIONS},
        "configuration": json.dumps(plan.identity()),
    }
