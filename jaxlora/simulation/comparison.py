"""Theory and experiments of the same parameters side by side, and their trend in 1/D."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..outputs import Prediction
from .ensemble import Simulation
from .measurements import MeasuredFinetuning, MeasuredPretraining

NAMES = {
    "pretraining": MeasuredPretraining._fields,
    "finetuning": MeasuredFinetuning._fields,
}


class Compared(NamedTuple):
    """A number at one D; `z` is its difference from the theory in standard errors of both.

    `allowed` says whether the difference is within three of them and what the trend ascribes to
    finite D. NaN where there is a single seed, or no theory.
    """

    dimension: int
    value: float
    stderr: float
    z: float
    allowed: bool


class Trend(NamedTuple):
    """The fit a + b/D of a number over several D, by least squares of its standard errors.

    `limit` is a, `slope` b; `z` the difference of a from the theory in standard errors of both.
    """

    limit: float
    limit_stderr: float
    slope: float
    slope_stderr: float
    z: float


class Observable(NamedTuple):
    """One number in theory and at every D; `trend` is None below two D with error bars."""

    stage: str
    name: str
    theory: float
    theory_stderr: float
    sizes: tuple[Compared, ...]
    trend: Trend | None


def compare(prediction: Prediction, simulations: Sequence[Simulation]) -> list[Observable]:
    """Every number that theory and experiment share."""
    observables = []
    for stage, names in NAMES.items():
        for name in names:
            theory = float(getattr(getattr(prediction, stage), name))
            error = float(getattr(getattr(prediction.stderr, stage), name))
            measured = [
                (
                    s.setting.dimension,
                    getattr(getattr(s, stage), name),
                    getattr(getattr(s.stderr, stage), name),
                )
                for s in simulations
            ]
            if math.isnan(theory) or any(math.isnan(value) for _, value, _ in measured):
                continue
            # A number that is given or exact has no error.
            error = 0.0 if math.isnan(error) else error
            trend = _trend(measured, theory, error)
            sizes = tuple(_compared(*point, theory, error, trend) for point in measured)
            observables.append(Observable(stage, name, theory, error, sizes, trend))
    return observables


def _compared(dimension, value, stderr, theory, error, trend: Trend | None) -> Compared:
    both = math.hypot(stderr, error)
    finite_size = abs(trend.slope) / dimension if trend is not None else 0.0
    difference = value - theory
    allowed = abs(difference) <= 3 * both + finite_size
    return Compared(dimension, value, stderr, _ratio(difference, both), allowed)


def _trend(measured, theory: float, error: float) -> Trend | None:
    sizes, values, errors = (np.array(column, float) for column in zip(*measured, strict=True))
    if len(set(sizes)) < 2 or not np.all(errors > 0):
        return None
    design = np.stack([np.ones_like(sizes), 1 / sizes], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    limit, slope = covariance @ design.T @ (values / errors)
    spread = np.sqrt(np.diag(covariance))
    z = _ratio(limit - theory, math.hypot(spread[0], error))
    return Trend(float(limit), float(spread[0]), float(slope), float(spread[1]), z)


def _ratio(difference: float, error: float) -> float:
    return difference / error if error > 0 else math.nan
