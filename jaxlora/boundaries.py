"""Boundaries between phases, as values of a parameter where a solve changes its nature.

λ_c and λ'_c are explicit; the others are roots, found to 1e-4 by bracketing on frozen draws, where
what is solved is a smooth function of the parameters (theory sections 4–6).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from scipy.optimize import root_scalar

from .execution import prepare
from .finetuning import APART
from .labelled import choose_sequences, labelled_fields
from .options import REPLICATES, SAMPLES, Options
from .outputs import ConvergenceError, Prediction, mean_and_stderr
from .prediction import predict, solve_pretraining
from .pretraining import StateEvolution, collapse_threshold
from .results import Result
from .sampling import Samples
from .stages import pretrain
from .tasks import PARAMETERS, Task
from .zero_branch import ZeroBranch, zero_branch

STAGES = ("pretraining", "finetuning")
Observed = tuple[jax.Array, jax.Array, jax.Array]
Curve = Callable[[float], tuple[float, float, Result]]
ACCURACY = 1e-5  # of roots, relative


class Boundary(NamedTuple):
    """A value of a parameter on a boundary, and its standard error from sampling (NaN: none).

    `result` is how the solve on the boundary ended: a failed one makes the value a rough guide.
    """

    value: float
    stderr: float
    result: Result = Result.CONVERGED


class ZeroBranchBoundary(NamedTuple):
    """λ'_c and what makes it: the outlier of the Hessian at ŵ = 0 and the edge of its bulk.

    The outlier is NaN where a replicate has none.
    """

    critical: Boundary
    outlier: Boundary
    edge: Boundary


class Parting(NamedTuple):
    """Where the informed and the uninformed fixed point part.

    `energy_gap` is the informed one's energy minus the uninformed one's, just inside the region
    where both exist; the lower is the empirical risk minimiser. `result` is the worse of both
    solves there.
    """

    value: float
    energy_gap: float
    result: Result

    @property
    def lower(self) -> str:
        """The start that leads to the lower energy there."""
        return "informed" if self.energy_gap < 0 else "uninformed"


def collapse_boundary(task: Task, **numerics: Any) -> Boundary:
    """λ_c (theory section 4): from this λ on Ŵ = 0. `task.lam` plays no role.

    Keywords as in `predict`. Raises ValueError for a pre-training given by hand.
    """
    if task.given is not None:
        raise ValueError("given = (Q0, Q, M): has no pre-training, and so no λ_c")
    values, stderr = _run(_collapse, task, **numerics)
    return Boundary(float(values), float(stderr))


def zero_branch_boundary(task: Task, **numerics: Any) -> ZeroBranchBoundary:
    """λ'_c of the zero branch of fine-tuning (theory section 5). `task.lam_ft` plays no role.

    The branch ŵ = 0 is locally stable for λ' > λ'_c. Keywords as in `predict`. Raises ValueError
    for the identity, which has no zero branch; ConvergenceError where the pre-training fails.
    """
    values, stderr, result = _run(_zero_branch, task, **numerics)
    if not Result(int(result)).successful:
        raise ConvergenceError(f"pretraining: {Result(int(result)).message}", None)

    def boundary(name: str) -> Boundary:
        return Boundary(float(getattr(values, name)), float(getattr(stderr, name)))

    return ZeroBranchBoundary(boundary("critical"), boundary("outlier"), boundary("edge"))


def replicon_boundary(
    task: Task, stage: str, along: str, bracket: tuple[float, float], **numerics: Any
) -> Boundary:
    """Where the replicon of `stage` is 1 as the parameter `along` varies in `bracket` (section 6).

    Keywords as in `predict`. Raises ValueError where it is not below 1 at one end and above at the
    other, and for a bad stage, parameter or bracket.
    """
    if stage not in STAGES:
        raise ValueError(f"stage = {stage!r}: must be one of {', '.join(STAGES)}")
    solve = solve_pretraining if stage == "pretraining" else predict

    def replicon(solved) -> Observed:
        if stage == "pretraining":
            return solved.values.replicon - 1, solved.stderr.replicon, solved.status.result
        result = jnp.maximum(solved.status.pretraining.result, solved.status.finetuning.result)
        return solved.finetuning.replicon - 1, solved.stderr.finetuning.replicon, result

    curve = _curve(task, along, lambda t: replicon(solve(t, throw=False, **numerics)))
    return _root(curve, along, bracket, "replicon − 1")


def transition_boundary(
    task: Task, along: str, bracket: tuple[float, float], **numerics: Any
) -> Boundary:
    """Where the informed and the uninformed fixed point have the same energy (section 5).

    Both must exist over the whole `bracket` of the parameter `along`; see `parting_boundary`.
    Keywords as in `predict`; raises ValueError where the energies do not cross.
    """

    def gap(solved: Prediction) -> Observed:
        informed, uninformed = solved.finetuning.branches
        errors = [branch.energy for branch in solved.stderr.finetuning.branches]
        return informed.energy - uninformed.energy, jnp.hypot(*errors), _worst_branch(solved)

    curve = _curve(task, along, lambda t: gap(predict(t, throw=False, **numerics)))
    return _root(curve, along, bracket, "energy gap")


def parting_boundary(
    task: Task, along: str, bracket: tuple[float, float], **numerics: Any
) -> Parting:
    """Where the informed and the uninformed fixed point part as `along` varies (section 5).

    They must be apart at one end of `bracket` and the same at the other, else ValueError. Where
    replicates part at different values, by several per cent at times, their mean distance falls in
    steps, of which one is found. Keywords as in `predict`.
    """

    def distance_and_gap(solved: Prediction) -> Observed:
        informed, uninformed = solved.finetuning.branches
        distance = jnp.abs(informed.q - uninformed.q) + jnp.abs(informed.m - uninformed.m)
        return distance, informed.energy - uninformed.energy, _worst_branch(solved)

    curve = _curve(task, along, lambda t: distance_and_gap(predict(t, throw=False, **numerics)))
    low, high = _checked(along, bracket)
    apart = {x: curve(x) for x in (low, high)}
    together, split = (low, high) if apart[high][0] > APART else (high, low)
    if not apart[together][0] <= APART < apart[split][0]:
        shown = ", ".join(f"{d:.3g} at {along} = {x:g}" for x, (d, *_) in apart.items())
        raise ValueError(f"bracket: the fixed points must part within it; they differ by {shown}")
    _, gap, result = apart[split]
    while abs(split - together) > ACCURACY * abs(split):
        middle = 0.5 * (split + together)
        found = curve(middle)
        if found[0] > APART:
            split, (_, gap, result) = middle, found
        else:
            together = middle
    return Parting(0.5 * (split + together), gap, result)


def _worst_branch(solved: Prediction) -> jax.Array:
    results = [branch.result for branch in solved.finetuning.branches]
    return jnp.max(jnp.stack([solved.status.pretraining.result, *results]))


def _run(function, task: Task, samples=SAMPLES, replicates=REPLICATES, seed=0, options=None):
    return function(*prepare(task, samples, replicates, seed, options))


@eqx.filter_jit
def _collapse(task: Task, samples: Samples, options: Options):
    def threshold(draws):
        return collapse_threshold(task, StateEvolution(task, draws, options).at_collapse())

    # No proximal map is solved: the many draws of the test averages are cheap.
    return mean_and_stderr(jax.lax.map(threshold, samples.test))


@eqx.filter_jit
def _zero_branch(task: Task, samples: Samples, options: Options):
    pretrained = pretrain(task, samples, options)

    def threshold(inputs) -> ZeroBranch:
        order, draws, pool = inputs
        labelled = choose_sequences(task, order, draws, pool, options)
        fields = labelled_fields(task, order, draws, pool, labelled, options)
        return zero_branch(task, fields, draws)

    inputs = (pretrained.order, samples.finetuning, samples.pool)
    values, stderr = mean_and_stderr(jax.lax.map(threshold, inputs))
    return values, stderr, pretrained.status.result


def _curve(task: Task, along: str, observe: Callable[[Task], Observed]) -> Curve:
    """Two numbers that `observe` reads off the solve, and its result, against a parameter."""
    if along not in PARAMETERS:
        raise ValueError(f"along = {along!r}: must be one of {', '.join(PARAMETERS)}")
    if getattr(task, along) is None:
        raise ValueError(f"along = {along!r}: the task does not have it")
    compiled = eqx.filter_jit(lambda x: observe(eqx.tree_at(lambda t: getattr(t, along), task, x)))

    def evaluate(x: float) -> tuple[float, float, Result]:
        first, second, result = compiled(jnp.asarray(x, task.delta.dtype))
        return float(first), float(second), Result(int(result))

    return evaluate


def _root(
    curve: Curve,
    along: str,
    bracket: tuple[float, float],
    what: str,
) -> Boundary:
    """The root of the first number of `curve`, whose standard error is the second."""
    low, high = _checked(along, bracket)
    ends = {x: curve(x)[0] for x in (low, high)}
    if not math.isfinite(sum(ends.values())) or ends[low] * ends[high] > 0:
        shown = ", ".join(f"{value:.4g} at {along} = {x:g}" for x, value in ends.items())
        raise ValueError(f"bracket: {what} must change sign within it, but is {shown}")
    root = root_scalar(
        lambda x: ends.get(x) or curve(x)[0], bracket=(low, high), rtol=ACCURACY, xtol=1e-12
    ).root
    step = 0.01 * root
    slope = (curve(root + step)[0] - curve(root - step)[0]) / (2 * step)
    _, stderr, result = curve(root)
    return Boundary(root, stderr / abs(slope) if slope else math.nan, result)


def _checked(along: str, bracket: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(x) for x in bracket)
    if not 0 <= low < high < math.inf:
        raise ValueError(
            f"bracket = ({low:g}, {high:g}): must be two finite, increasing values of {along}"
        )
    return low, high
