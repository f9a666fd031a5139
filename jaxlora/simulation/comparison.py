"""Theory and experiments of the same parameters side by side, and their trend with D.

With eigenvalues of Ŝ/√D of order one, third cumulants of the pre-activations, E A_ab A_bc A_ca =
Tr Ŝ³/D³, and their covariance with the Gram matrices of the loss, Tr Ŝ/D², are of order 1/√D. So
are corrections to the limit D → ∞. Those in 1/D can have larger factors, and prevail up to a D of
a hundred or so. Beside Gaussian side fields, of a given pre-training, there are only these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..outputs import Prediction
from .ensemble import Simulation
from .measurements import MeasuredFinetuning, MeasuredPretraining

ROUNDING = 1e-12  # relative
NAMES = {
    "pretraining": MeasuredPretraining._fields,
    "finetuning": MeasuredFinetuning._fields,
}


class Compared(NamedTuple):
    """A number at one D; `z` is its difference from the theory in standard errors of both.

    `allowed` says whether what the trend does not ascribe to finite D is within three of them, with
    the error of the trend's limit. NaN where there is a single seed, or no theory.
    """

    dimension: int
    value: float
    stderr: float
    z: float
    allowed: bool


class Trend(NamedTuple):
    """The fit a + c/√D + b/D of a number over several D, by least squares of its standard errors.

    `limit` is a, `root` c and `slope` b; `z` is the difference of a from the theory in standard
    errors of both. Sizes within a factor of ten hardly tell c from b, so one more datum is that c
    is 0 with a standard error of the order of the number itself, or of its differences times √D
    where it vanishes in the limit. c is 0 exactly where the pre-training is given.
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
            given = any(s.task.given is not None for s in simulations)
            trend = _trend(measured, theory, error, root=not given)
            sizes = tuple(_compared(*point, theory, error, trend) for point in measured)
            observables.append(Observable(stage, name, theory, error, sizes, trend))
    return observables


def _compared(dimension, value, stderr, theory, error, trend: Trend | None) -> Compared:
    both = math.hypot(stderr, error)
    difference = value - theory
    left, spread = difference, both
    if trend is not None:
        left, spread = left - trend.finite_size(dimension), math.hypot(both, trend.limit_stderr)
    return Compared(dimension, value, stderr, _ratio(difference, both), abs(left) <= 3 * spread)


def _trend(measured, theory: float, error: float, root: bool) -> Trend | None:
    sizes, values, errors = (np.array(column, float) for column in zip(*measured, strict=True))
    # Numbers that scatter by rounding only have no trend.
    if len(set(sizes)) < 2 or not np.all(errors > ROUNDING * np.abs(values)):
        return None
    order = max(np.max(np.abs(values)), np.ptp(values) * np.min(sizes) ** 0.5) if root else 0.0
    rows = np.stack([np.ones_like(sizes), order * sizes**-0.5, 1 / sizes], axis=1)
    design = np.vstack([rows / errors[:, None], [0, 1, 0]])
    Q, R = np.linalg.qr(design)
    inverse = np.linalg.inv(R)
    scales = np.array([1, order, 1])
    fitted = scales * (inverse @ Q.T @ np.append(values / errors, 0))
    spreads = scales * np.linalg.norm(inverse, axis=1)
    (a, da), (c, dc), (b, db) = zip(fitted.tolist(), spreads.tolist(), strict=True)
    return Trend(a, da, c, dc, b, db, _ratio(a - theory, math.hypot(da, error)))


def _ratio(difference: float, error: float) -> float:
    return difference / error if error > 0 else math.nan
