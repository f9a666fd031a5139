"""The last steps to an optimum, by gradients alone, and what surrounds it.

On frozen draws an objective is smooth but for steps, of the order of one sample's share, where a
sample changes between minima of its proximal map. Its gradients hardly change there, so that a root
of the gradient is well defined where a line search, which compares values, stops at a step.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from ..kinks import Kink
from ..outputs import ConvergenceError, mean_and_stderr
from .ending import Ending
from .landscape import Landscape, Point, size_of

STEP = 0.05  # in logarithms, of differences: so long that single samples do not matter
ROUNDS = 3  # searches for a root, each with the curvature where the last one ended
LARGEST_JUMP = 1e-3  # of the objective, that a refinement may climb where gradients lead down
EVALUATIONS = 5  # a round
LEAST = float(np.finfo(float).eps)


class Surroundings(NamedTuple):
    """What differences over ±`STEP` say of a point, for the k coordinates that no bound holds.

    - `free`: which coordinates these are; `hessian` (k, k) of the cost, NaN where a solve failed.
    - `slopes` (R, k): of the cost of every replicate.
    - `jump`: the largest change of the cost that its gradients do not account for.
    """

    free: np.ndarray
    hessian: np.ndarray
    slopes: np.ndarray
    jump: float

    @property
    def curvature(self) -> np.ndarray:
        """The eigenvalues of `hessian` in rising order, or NaN."""
        known = bool(np.all(np.isfinite(self.hessian)))
        return np.linalg.eigvalsh(self.hessian) if known else np.diag(self.hessian)

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors (k,) of the coordinates of the optimum, from those of the slopes."""
        if not self.is_minimum:
            return np.full(len(self.hessian), math.nan)
        return stderr_of(np.linalg.solve(self.hessian, self.slopes.T).T)

    @property
    def is_minimum(self) -> bool:
        """Whether the cost rises in every direction (no direction: also true)."""
        return bool(np.all(self.curvature > 0))


def refine(landscape: Landscape, tol: float) -> tuple[Point, Surroundings]:
    """The root of the gradient next to the best point of the descents, and its surroundings.

    Every evaluation solves afresh, so that the same point has the same values.
    Raises ConvergenceError where the best point, or all, cannot be solved.
    """
    landscape.number = 0
    best = landscape.space.start if landscape.best is None else landscape.best.x
    point = landscape.look(best)
    if point.failure:
        raise ConvergenceError(f"at the best point: {point.failure}", point.prediction)
    around = survey(landscape, point)
    for _ in range(ROUNDS):
        if landscape.norm(point) <= tol or not around.is_minimum:
            break
        nearer = _root(landscape, point, around, tol)
        if np.max(np.abs(nearer.x - point.x)) > STEP / 2:
            around = survey(landscape, nearer)
        point = nearer
        if ending(landscape, point, around, tol) is Ending.JUMPS:
            break
    return point, around


def ending(landscape: Landscape, point: Point, around: Surroundings, tol: float) -> Ending:
    """How the search for `point` ended."""
    if landscape.norm(point) <= tol:
        return Ending.CONVERGED
    if Kink.BRANCHES in Kink(int(point.prediction.status.finetuning.kinks)):
        return Ending.BRANCHES
    gradient = point.gradient[around.free]
    if around.is_minimum:
        step = np.linalg.solve(around.hessian, gradient)
        within = bool(np.all(np.abs(step) <= around.stderr))
        if within and gradient @ step / 2 < around.jump:
            return Ending.JUMPS
    return Ending.UNFINISHED


def survey(landscape: Landscape, point: Point) -> Surroundings:
    """Differences, within the box, of exact gradients and of the replicates' costs."""
    space, objective = landscape.space, landscape.objective
    free = ~space.is_held(point.x, point.gradient)
    rows, columns, jumps = [], [], [0.0]
    for i in np.flatnonzero(free).tolist():
        direction = STEP * np.eye(len(point.x))[i]
        sides = [
            landscape.look(np.clip(point.x + step, space.low, space.high))
            for step in (direction, -direction)
        ]
        distance = sides[0].x[i] - sides[1].x[i]
        if any(side.failure for side in sides):
            distance = math.nan  # nothing is known of these surroundings
        rows.append((sides[0].gradient - sides[1].gradient)[free] / distance)
        costs = [np.asarray(objective.cost(side.prediction.replicates)) for side in sides]
        columns.append((costs[0] - costs[1]) / distance)
        jumps.append(_jump(point, sides, i))
    count = len(rows)
    hessian = np.array(rows).reshape(count, count)
    slopes = np.array(columns).reshape(count, landscape.numerics["replicates"]).T
    return Surroundings(free, (hessian + hessian.T) / 2, slopes, max(jumps))


def stderr_of(replicates: np.ndarray) -> np.ndarray:
    """Standard errors of the means over the leading axis, NaN for a single replicate."""
    return np.asarray(mean_and_stderr(jnp.asarray(replicates))[1])


def _jump(point: Point, sides: list[Point], i: int) -> float:
    """What the rule of Simpson, from the gradients at three points, leaves of a difference."""
    ahead, behind = sides
    lengths = ahead.x[i] - point.x[i], point.x[i] - behind.x[i]
    if not math.isclose(*lengths, rel_tol=1e-6):
        return 0.0  # next to a bound
    slopes = ahead.gradient[i] + 4 * point.gradient[i] + behind.gradient[i]
    return abs(ahead.cost - behind.cost - lengths[0] / 3 * slopes)


def _root(landscape: Landscape, point: Point, around: Surroundings, tol: float) -> Point:
    """Where the free gradient is least next to `point`, or `point` itself.

    A least-squares search in the box with the matrix `around.hessian`. Values may rise on the way
    by steps, where gradients say that they fall.
    """
    space, free, unit = landscape.space, around.free, size_of(point.cost)
    seen = [point]

    def gradient(y):
        x = point.x.copy()
        x[free] = y
        here = landscape.look(x)
        if here.failure:
            return np.full(len(y), 1e3)
        seen.append(here)
        return here.gradient[free] / unit

    matrix = around.hessian / unit
    least_squares(
        gradient,
        point.x[free],
        jac=lambda _: matrix,  # type: ignore[arg-type]
        bounds=(space.low[free], space.high[free]),
        ftol=LEAST,
        xtol=LEAST,
        gtol=tol * float(around.curvature[0]) / unit,
        max_nfev=EVALUATIONS,
    )

    def is_lower(other: Point) -> bool:
        by_gradients = (point.gradient + other.gradient) @ (other.x - point.x) / 2
        return bool(by_gradients <= 0) and other.cost - point.cost <= LARGEST_JUMP * unit

    return min(filter(is_lower, seen), key=landscape.norm)
