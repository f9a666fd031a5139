"""What the replicates of a stage amount to: means, standard errors, and how the solves ended."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp

from .branches import BranchedFixedPoint
from .kinks import coexist, finetuning_kinks, given_kinks, pretraining_kinks
from .laws import conditional_variance
from .noise import effective_noise
from .observation import ObservedFinetuning, ObservedPretraining, errors_on_test_draws
from .outputs import Finetuning, Pretraining, SolveStatus, mean_and_stderr
from .programs import Program
from .results import Result, worst
from .sampling import Draws
from .stability import Stability, jumps, verdict
from .tasks import Task


class Pretrained(eqx.Module):
    """A solved pre-training: values, standard errors, status, and the replicates' own values.

    `order` (R, 3) are their (Q, M, V).
    """

    values: Pretraining
    stderr: Pretraining
    status: SolveStatus
    replicates: Pretraining
    order: jax.Array


class Finetuned(eqx.Module):
    """A solved fine-tuning: values, standard errors, status, and the replicates' own values."""

    values: Finetuning
    stderr: Finetuning
    status: SolveStatus
    replicates: Finetuning


@Program
def summarise_pretraining(
    observed: ObservedPretraining, fixed_point: BranchedFixedPoint, result: jax.Array
) -> Pretrained:
    """The pre-training of the replicates, averaged."""
    values, stderr = _values_and_stderr(observed)
    collapsed = result == Result.COLLAPSED
    # A collapsed replicate is exact; what was solved in its place does not count.
    fixed_point = jax.tree.map(partial(_where_first, ~collapsed), fixed_point)
    kinks = partial(pretraining_kinks, jnp.any(collapsed))
    status = _status(fixed_point, result, observed.stein_gap, values, stderr, kinks)
    return Pretrained(values, stderr, status, observed.values, observed.order)


@Program
def summarise_finetuning(
    observed: ObservedFinetuning,
    fixed_point: BranchedFixedPoint,
    result: jax.Array,
    lowest: jax.Array,
    task: Task,
) -> Finetuned:
    """The fine-tuning of the replicates, averaged; `lowest` is the branch of least energy.

    `fixed_point` and `result` have leading axes (replicates, starts).
    """
    values, stderr = _values_and_stderr(observed)
    results = list(jax.vmap(worst)(result.T))
    values = eqx.tree_at(lambda f: [branch.result for branch in f.branches], values, results)
    fixed_point, result = jax.tree.map(lambda x: x[:, lowest], (fixed_point, result))
    kinks = partial(finetuning_kinks, task, coexist(observed.values.branches))
    status = _status(fixed_point, result, observed.stein_gap, values, stderr, kinks)
    return Finetuned(values, stderr, status, observed.values)


@Program
def given_pretraining(test: Draws, task: Task) -> Pretrained:
    """The effective pre-training set by hand, as if it were solved."""
    assert task.given is not None
    _, Q, M = task.given
    count = test.weights.shape[0]
    unknown = jnp.full(count, jnp.nan, Q.dtype)
    Q, M = jnp.full(count, Q), jnp.full(count, M)
    errors = errors_on_test_draws(task, Q, M, 0 * Q, 0 * M, test)
    replicates = Pretraining(
        Q=Q,
        M=M,
        V=unknown,
        Q_hat=unknown,
        M_hat=unknown,
        V_hat=unknown,
        test_error=errors.pretraining,
        train_error=unknown,
        effective_noise=effective_noise(task.teacher_variance(), Q, M, task.beta),
        critical_lam=unknown,
        replicon=unknown,
    )
    values, stderr = mean_and_stderr(replicates)
    zero = jnp.zeros((), Q.dtype)
    kinks = given_kinks(conditional_variance(task.teacher_variance(), M[0], Q[0]))
    result, undefined = jnp.asarray(int(Result.GIVEN)), jnp.asarray(int(Stability.UNDEFINED))
    status = SolveStatus(result, zero, zero, zero, zero, zero, zero, undefined, kinks)
    return Pretrained(values, stderr, status, replicates, jnp.stack([Q, M, 0 * Q], axis=1))


@Program
def lowest_branch(energies: jax.Array) -> jax.Array:
    """The start of least energy (replicates, ..., starts) on average, the first among equals.

    Whether it converged does not count: where the lowest failed, another's success would mislead.
    But what has no energy, as it is not finite, is not the lowest.
    """
    energies = jnp.mean(energies, axis=0)
    energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
    least = jnp.min(energies, axis=-1)
    margin = 1e-7 * (1 + jnp.abs(least))
    return jnp.where(energies[..., 0] <= least + margin, 0, jnp.argmin(energies, axis=-1))


def _values_and_stderr(observed):
    """Means and standard errors of the observables; the replicon's with what may be unseen."""
    values, stderr = mean_and_stderr(observed.values)
    unseen = jnp.max(observed.unseen_replicon) / observed.unseen_replicon.shape[0]
    return values, eqx.tree_at(lambda s: s.replicon, stderr, jnp.hypot(stderr.replicon, unseen))


def _where_first(usable: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.where(jnp.reshape(usable, usable.shape + (1,) * (x.ndim - 1)), x, 0)


def _status(
    fixed_point: BranchedFixedPoint, result, stein_gap, values, stderr, kinks: Callable
) -> SolveStatus:
    """The status over replicates, with the `kinks` of jumps and a stability."""
    switched_share = jnp.mean(fixed_point.switched_share)
    stein_gap, gap_error = mean_and_stderr(stein_gap)
    jumping = jumps(switched_share, stein_gap, gap_error)
    stability = verdict(values.replicon, stderr.replicon, jumping)
    return SolveStatus(
        worst(result),
        jnp.max(fixed_point.residual),
        jnp.mean(fixed_point.iterations, dtype=fixed_point.residual.dtype),
        switched_share,
        jnp.max(fixed_point.largest_gradient),
        stein_gap,
        jnp.max(fixed_point.switching_jump),
        stability,
        kinks(jumping, stability),
    )
