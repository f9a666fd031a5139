"""Theory and experiments of the same parameters side by side, and their trend with D.

Third cumulants of the pre-activations, such as E A_ab A_bc A_ca = Tr Ŝ³/D³ with eigenvalues of
Ŝ/√D of order one, are of order 1/√D, and so are corrections to the limit D → ∞. Those in 1/D can
have larger factors, and prevail up to a D of a hundred or so.
"""

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
    """The fit a + c/√D + b/D of a number over several D, by least squares of its standard errors.

    `limit` is a, `root` c and `slope` b; `z` is the difference of a from the theory in standard
    errors of both. Sizes within a factor of ten hardly tell c from b, so c is taken to be of the
    order of the number itself: 0 with its largest value as a standard error, one more datum.
    """

    limit: float
    limit_stderr: float
    root: float
    root_stderr: float
    slope: float
    slope_stderr: float
    z: float

    def finite_size(self, dimension: int) -> float:
        """What it ascribes to finite D."""
        return self.root / dimension**0.5 + self.slope / dimension


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
    finite_size = abs(trend.finite_size(dimension)) if trend is not None else 0.0
    difference = value - theory
    allowed = abs(difference) <= 3 * both + finite_size
    return Compared(dimension, value, stderr, _ratio(difference, both), allowed)


def _trend(measured, theory: float, error: float) -> Trend | None:
    sizes, values, errors = (np.array(column, float) for column in zip(*measured, strict=True))
    if len(set(sizes)) < 2 or not np.all(errors > 0):
        return None
    rows = np.stack([np.ones_like(sizes), sizes**-0.5, 1 / sizes], axis=1) / errors[:, None]
    design = np.vstack([rows, [0, 1 / np.max(np.abs(values)), 0]])
    covariance = np.linalg.inv(design.T @ design)
    limit, root, slope = map(float, covariance @ design.T @ np.append(values / errors, 0))
    spreads = map(float, np.sqrt(np.diag(covariance)))
    limit_stderr, root_stderr, slope_stderr = spreads
    z = _ratio(limit - theory, math.hypot(limit_stderr, error))
    return Trend(limit, limit_stderr, root, root_stderr, slope, slope_stderr, z)


def _ratio(difference: float, error: float) -> float:
    return difference / error if error > 0 else math.nan
