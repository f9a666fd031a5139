"""What the replicates of a stage amount to: means, standard errors, and how the solves ended."""

import equinox as eqx
import jax
import jax.numpy as jnp

from . import finetuning, pretraining
from .noise import effective_noise
from .observables import Errors, evaluate
from .outputs import Branch, Finetuning, Pretraining, SolveStatus, mean_and_stderr
from .programs import Program
from .results import Result, worst
from .sampling import Draws
from .stability import Stability, jumps, verdict
from .tasks import Task


class Pretrained(eqx.Module):
    """A solved pre-training: values, standard errors, status, and (Q, M, V) of each replicate."""

    values: Pretraining
    stderr: Pretraining
    status: SolveStatus
    order: jax.Array


class Finetuned(eqx.Module):
    """A solved fine-tuning: values, standard errors and status."""

    values: Finetuning
    stderr: Finetuning
    status: SolveStatus


@Program
def summarise_pretraining(
    solution: pretraining.PretrainingSolution, test: Draws, task: Task
) -> Pretrained:
    """The pre-training of the replicates, averaged."""
    order = solution.order
    values, stderr = mean_and_stderr(
        Pretraining(
            Q=order[:, 0],
            M=order[:, 1],
            V=order[:, 2],
            Q_hat=solution.conjugates.Q,
            M_hat=solution.conjugates.M,
            V_hat=solution.conjugates.V,
            test_error=_pretraining_test_error(task, order, test),
            train_error=solution.train_error,
            effective_noise=_effective_noise(task, order),
            critical_lam=solution.critical_lam,
            replicon=solution.replicon,
        )
    )
    status = _status(solution, values.replicon, stderr.replicon)
    return Pretrained(values, stderr, status, order)


@Program
def summarise_finetuning(
    branches: finetuning.FinetuningSolution,
    order: jax.Array,
    test: Draws,
    task: Task,
) -> Finetuned:
    """The branch of least energy over all replicates, averaged, and a summary of every branch."""
    branches = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), branches)
    results = jax.vmap(worst)(branches.result)
    lowest = _lowest(branches.energy.mean(1))
    solution = jax.tree.map(lambda x: x[lowest], branches)

    q, m, v = solution.order.T
    errors = _test_errors(task, order, q, m, test)
    summaries = [
        Branch(
            start=name,
            q=branches.order[i, :, 0],
            m=branches.order[i, :, 1],
            v=branches.order[i, :, 2],
            energy=branches.energy[i],
            result=branches.result[i],
        )
        for i, name in enumerate(finetuning.STARTS)
    ]
    values, stderr = mean_and_stderr(
        Finetuning(
            q=q,
            m=m,
            v=v,
            q_hat=solution.conjugates.q,
            m_hat=solution.conjugates.m,
            v_hat=solution.conjugates.v,
            test_error=errors.finetuning,
            train_error=solution.train_error,
            overlap=finetuning.overlap(q, m),
            forgetting=errors.forgetting,
            energy=solution.energy,
            replicon=solution.replicon,
            frozen_test_error=errors.frozen,
            branches=tuple(summaries),
        )
    )
    values = eqx.tree_at(lambda f: [b.result for b in f.branches], values, list(results))
    status = _status(solution, values.replicon, stderr.replicon)
    return Finetuned(values, stderr, status)


@Program
def given_pretraining(test: Draws, task: Task) -> Pretrained:
    """The effective pre-training set by hand, as if it were solved."""
    assert task.given is not None
    _, Q, M = task.given
    count = test.weights.shape[0]
    zero, unknown = jnp.zeros_like(Q), jnp.full(count, jnp.nan, Q.dtype)
    order = jnp.tile(jnp.stack([Q, M, zero]), (count, 1))
    values, stderr = mean_and_stderr(
        Pretraining(
            Q=order[:, 0],
            M=order[:, 1],
            V=unknown,
            Q_hat=unknown,
            M_hat=unknown,
            V_hat=unknown,
            test_error=_pretraining_test_error(task, order, test),
            train_error=unknown,
            effective_noise=_effective_noise(task, order),
            critical_lam=unknown,
            replicon=unknown,
        )
    )
    result, undefined = jnp.asarray(Result.GIVEN), jnp.asarray(Stability.UNDEFINED)
    status = SolveStatus(result, zero, zero, zero, zero, zero, zero, undefined)
    return Pretrained(values, stderr, status, order)


def _test_errors(task, order, q, m, test: Draws) -> Errors:
    def one(inputs):
        (Q, M, _), q, m, draws = inputs
        return evaluate(task, Q, M, q, m, draws)

    return jax.lax.map(one, (order, q, m, test))


def _pretraining_test_error(task, order, test: Draws) -> jax.Array:
    zero = jnp.zeros_like(order[:, 0])
    return _test_errors(task, order, zero, zero, test).pretraining


def _effective_noise(task, order) -> jax.Array:
    return effective_noise(task.teacher_variance(), order[:, 0], order[:, 1], task.beta)


def _lowest(energies) -> jax.Array:
    """The branch of least energy, the first among equals.

    Whether it converged does not count: where the lowest failed, another's success would mislead.
    """
    energies = jnp.where(jnp.isfinite(energies), energies, jnp.inf)
    margin = 1e-7 * (1 + jnp.abs(energies[0]))
    return jnp.where(jnp.min(energies) < energies[0] - margin, jnp.argmin(energies), 0)


def _status(
    solution: pretraining.PretrainingSolution | finetuning.FinetuningSolution, replicon, stderr
) -> SolveStatus:
    """The status over replicates; a collapsed pre-training is exact."""
    solved = solution.fixed_point
    collapsed = solution.result == Result.COLLAPSED

    def most(x):
        return jnp.max(jnp.where(collapsed, 0, x))

    switched_share = jnp.mean(jnp.where(collapsed, 0, solved.switched_share))
    stein_gap, gap_error = mean_and_stderr(solution.stein_gap)
    return SolveStatus(
        worst(solution.result),
        most(solved.residual),
        jnp.mean(jnp.where(collapsed, 0, solved.iterations), dtype=solved.value.dtype),
        switched_share,
        most(solved.largest_gradient),
        stein_gap,
        most(solved.switching_jump),
        verdict(replicon, stderr, jumps(switched_share, stein_gap, gap_error)),
    )
