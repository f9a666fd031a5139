"""The share of candidates that active fine-tuning had best label (Algorithm 1, theory section 8).

The selection is a hard threshold, so that there is no derivative by ρ: it is searched for, with λ'
tuned by its gradient at every ρ, which is exact as the selection does not depend on it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize, minimize_scalar

from ..active import LARGEST_POOL
from ..execution import prepare
from ..options import Options
from ..outputs import ConvergenceError, Prediction
from ..prediction import joined
from ..stages import finetune, pretrain
from ..tasks import Task
from .candidates import draw_candidates
from .landscape import size_of
from .objectives import Objective, Observe, as_objective
from .search import REPLICATES, SAMPLES, stderr_of
from .space import Bounds, Space, hyperparameter_space

STEP = 0.2  # in log ρ, of the differences that give the curvature
UNSOLVED = 1e3  # what a point costs that has no solution


class RatioPoint(NamedTuple):
    """A share ρ at the best λ' that was found for it: α' = ρ ᾱ', the objective and its stderr."""

    ratio: float
    alpha_ft: float
    lam_ft: float
    value: float
    stderr: float


class ActiveRatio(NamedTuple):
    """The best share of the candidates to label, and what is known of the objective there.

    - `ratio`: ρ, with its standard error, from the scatter of the replicates' own slopes over the
      curvature; NaN at a bound, or where the curvature is not that of an optimum.
    - `task` with that ρ, α' = ρ ᾱ' and λ', and its `prediction`, on the draws of the search;
      `predict` draws other candidates, and agrees within standard errors.
    - `value`: the objective with the price of the labels, and its standard error; `improvement`
      over labelling all candidates, ρ = 1, at the best λ' there, with the standard error of the
      difference on the same draws.
    - `curvature`: second derivative of the objective by log ρ, λ' tuned along.
    - `at_bound`: which of "active_ratio" and "lam_ft" a bound holds.
    - `curve`: all shares that were tried, in their order.
    - `evaluations`: solves with gradients. `converged`: whether ρ is known to `ratio_tol` in its
      logarithm, on these draws, the gradient by log λ' is below `tol`, and the curvature is that of
      an optimum, unless a bound holds ρ.
    """

    ratio: float
    stderr: float
    task: Task
    prediction: Prediction
    objective: str
    value: float
    value_stderr: float
    improvement: float
    improvement_stderr: float
    curvature: float
    at_bound: tuple[str, ...]
    curve: list[RatioPoint]
    evaluations: int
    converged: bool


def best_active_ratio(
    task: Task,
    pool: float,
    over: Bounds = ("lam_ft",),
    objective: str | Observe | Objective = "error_ft",
    *,
    price: float = 0.0,
    bounds: tuple[float, float] = (0.02, 1.0),
    points: int = 7,
    ratio_tol: float = 0.02,
    tol: float = 1e-4,
    max_evaluations: int = 40,
    watch: Callable[[RatioPoint], None] | None = None,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    options: Options | None = None,
) -> ActiveRatio:
    """The share ρ of ᾱ' D candidates to label for the least E' after active fine-tuning.

    Algorithm 1 keeps the α' D = ρ ᾱ' D candidates of least |σ(z) − σ(0)|²_F: fewer labels, but of
    sequences with less effective noise, Δ/2 + Q0 − M²/Q as ρ → 0 (28).

    - `pool`: ᾱ', candidates over D. `task`'s own α' and ρ do not count.
    - `over`: ("lam_ft",), or a mapping from it to bounds, for the best λ' at every ρ, sought from
      that of the ρ before, at first from `task`'s; () to hold λ'. No others, as the selection
      depends on them and has no derivative.
    - `objective` as in `tune`; `price` of a label over D is added, `price` ρ ᾱ', as more labels
      may always help.
    - `bounds` of ρ, from 1/64 on. `points` spread over them in log ρ are tried first, then SciPy's
      bounded search goes on between the neighbours of the best, until log ρ is known to
      `ratio_tol`. `tol` and `max_evaluations` are those of a descent in log λ', as in `tune`.
    - `watch` is called with every `RatioPoint`. Other keywords as in `predict`; float64 only.

    All shares are solved on the same draws, of one pool of candidates, and a change of ρ changes as
    large a share of the samples: differences are known better than the objective itself, which is
    a step function on these draws. Reused sequences are selected by their fields after the
    pre-training.

    Raises ValueError for an argument out of range, ConvergenceError where the pre-training or the
    best point is not solved, RuntimeError without float64.
    """
    goal, options = as_objective(objective), options or Options()
    _check(pool, price, bounds, points, ratio_tol, tol, max_evaluations, over, options)
    space = hyperparameter_space(task, over) if over else None
    whole = _relabelled(task, 1.0, pool)
    whole, drawn, options = prepare(whole, samples, replicates, seed, options)
    pretrained = pretrain(whole, drawn, options)
    if failure := pretrained.status.failure():
        raise ConvergenceError(f"pretraining: {failure}", pretrained)
    candidates = draw_candidates(whole, pretrained.order, drawn, seed, options)
    count = 0

    def evaluate(ratio: float, x: np.ndarray, here, known) -> tuple[float, np.ndarray, Prediction]:
        """The cost, its gradient by the coordinates x of `space`, and the prediction."""
        nonlocal count
        count += 1

        def cost(x):
            at = whole if space is None else eqx.tree_at(_lam_ft, whole, space.task(x).lam_ft)
            at = _relabelled(at, ratio, pool)
            prediction = joined(pretrained, finetune(at, pretrained, here, options, known))
            return goal.cost(prediction) + price * ratio * pool, jax.lax.stop_gradient(prediction)

        if space is None:
            value, prediction = cost(x)
            return float(value), x, prediction
        (value, prediction), gradient = jax.value_and_grad(cost, has_aux=True)(jnp.asarray(x))
        return float(value), np.asarray(gradient), prediction

    def solve(ratio: float) -> "_Point":
        """The best point at a share, from the solved one that is nearest to it."""
        solved = [p for p in found.values() if p.prediction is not None]
        near = min(solved, key=lambda p: abs(math.log(p.ratio / ratio)), default=None)
        start = space.start if space is not None else np.zeros(0)
        x, known = (start, None) if near is None else (near.x, near.prediction)
        here = candidates.samples_at(ratio)
        descent = _Descent(lambda x, known: evaluate(ratio, x, here, known), space, known)
        descent.run(x, tol, max_evaluations)
        point = _Point(ratio, descent.x, descent.cost, descent.norm, descent.prediction)
        if watch is not None:
            watch(shown(point))
        return found.setdefault(ratio, point)

    def shown(point: "_Point") -> RatioPoint:
        lam_ft = float(whole.lam_ft) if space is None else math.exp(point.x[0])
        value = sign * point.cost if point.prediction is not None else math.nan
        return RatioPoint(
            point.ratio, point.ratio * pool, lam_ft, value, float(stderr_of(costs(point)))
        )

    def costs(point: "_Point") -> np.ndarray:
        """Those of every replicate."""
        if point.prediction is None:
            return np.full(replicates, math.nan)
        cost = np.asarray(goal.cost(point.prediction.replicates))
        return cost + price * point.ratio * pool

    sign = -1.0 if goal.maximised else 1.0
    found: dict[float, _Point] = {}
    low, high = bounds
    full = solve(1.0)
    grid = np.geomspace(high, low, points).tolist()
    grid[0], grid[-1] = high, low
    tried = [found.get(ratio) or solve(ratio) for ratio in grid]
    best = int(np.argmin([point.cost for point in tried]))
    ends = grid[min(best + 1, points - 1)], grid[max(best - 1, 0)]
    outcome: Any = minimize_scalar(
        lambda log_ratio: solve(math.exp(log_ratio)).cost,
        bounds=np.log(ends),
        method="bounded",
        options={"xatol": ratio_tol},
    )
    point = min((p for p in found.values() if low <= p.ratio <= high), key=lambda p: p.cost)
    if point.prediction is None:
        raise ConvergenceError(f"{goal.name} has no value at any share tried", None)
    curvature, stderr, known_around = math.nan, math.nan, point.ratio in bounds
    if not known_around:
        step = min(STEP, math.log(high / point.ratio), math.log(point.ratio / low))
        ahead, behind = (solve(point.ratio * math.exp(s)) for s in (step, -step))
        if ahead.prediction is not None and behind.prediction is not None:
            curvature = (ahead.cost + behind.cost - 2 * point.cost) / step**2
            slopes = (costs(ahead) - costs(behind)) / (2 * step)
            known_around = curvature > 0
        if known_around:
            stderr = point.ratio * float(stderr_of(slopes)) / curvature
    held = ("active_ratio",) * (point.ratio in bounds)
    if space is not None and np.any(np.isin(point.x, [space.low, space.high])):
        held += ("lam_ft",)
    at = shown(point)
    final = eqx.tree_at(_lam_ft, whole, jnp.asarray(at.lam_ft))
    return ActiveRatio(
        point.ratio,
        stderr,
        _relabelled(final, point.ratio, pool),
        point.prediction,
        goal.name,
        at.value,
        at.stderr,
        full.cost - point.cost if full.prediction is not None else math.nan,
        float(stderr_of(costs(full) - costs(point))),
        sign * curvature,
        held,
        [shown(found[ratio]) for ratio in sorted(found)],
        count,
        bool(outcome.success and point.norm <= tol and known_around),
    )


class _Point(NamedTuple):
    """A share at its best coordinates; without a prediction where nothing was solved."""

    ratio: float
    x: np.ndarray
    cost: float
    norm: float
    prediction: Prediction | None


class _Descent:
    """A descent at one share, and the best of the points that it comes by."""

    def __init__(self, evaluate, space: Space | None, known: Prediction | None):
        self.evaluate, self.space, self.known = evaluate, space, known
        self.x, self.cost, self.norm = np.zeros(0), UNSOLVED, math.inf
        self.prediction: Prediction | None = None

    def run(self, x: np.ndarray, tol: float, evaluations: int) -> None:
        """From x, until the relative gradient is below `tol`."""
        self.x = x
        first, _ = self(x)
        if self.space is None or self.norm <= tol:
            return
        unit = size_of(first)
        minimize(
            lambda x: tuple(part / unit for part in self(x)),
            x,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(self.space.low, self.space.high, strict=True)),
            options={"gtol": tol, "ftol": 0.0, "maxfun": evaluations},
        )

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The cost and its gradient, flat where there is no solution."""
        cost, gradient, prediction = self.evaluate(x, self.known)
        finite = math.isfinite(cost) and bool(np.all(np.isfinite(gradient)))
        if not finite or prediction.status.failure():
            self.known = None
            return UNSOLVED, np.zeros_like(gradient)
        self.known = prediction
        if self.prediction is None or cost < self.cost:
            free = gradient if self.space is None else self.space.free_gradient(x, gradient)
            self.norm = float(np.max(np.abs(free), initial=0.0)) / size_of(cost)
            self.x, self.cost, self.prediction = np.array(x), cost, prediction
        return cost, gradient


def _lam_ft(task: Task):
    return task.lam_ft


def _relabelled(task: Task, ratio: float, pool: float) -> Task:
    """The task that labels the share ρ of ᾱ' D candidates."""
    values = [jnp.asarray(x, task.delta.dtype) for x in (ratio * pool, ratio)]
    return eqx.tree_at(lambda t: [t.alpha_ft, t.active_ratio], task, values)


def _check(
    pool, price, bounds, points, ratio_tol, tol, max_evaluations, over, options: Options
) -> None:
    """Raise ValueError for what makes no sense."""
    for name, value in (("pool", pool), ("ratio_tol", ratio_tol), ("tol", tol)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: must be positive and finite")
    if not 0 <= price < math.inf:
        raise ValueError(f"price = {price!r}: must be non-negative and finite")
    low, high = bounds
    if not 1 / LARGEST_POOL <= low < high <= 1:
        raise ValueError(f"bounds = {bounds!r}: must increase between 1/{LARGEST_POOL} and 1")
    for name, value, least in (("points", points, 3), ("max_evaluations", max_evaluations, 1)):
        if value < least:
            raise ValueError(f"{name} = {value}: must be at least {least}")
    for name in (over,) if isinstance(over, str) else over:
        if name != "lam_ft":
            raise ValueError(f"over = {name!r}: must be 'lam_ft', or empty to hold it")
    if options.precision != "float64":
        raise ValueError(f"precision = {options.precision!r}: must be float64 to tune")
