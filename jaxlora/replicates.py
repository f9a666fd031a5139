"""Each stage solved on every replicate of the draws, and what is averaged over them."""

import equinox as eqx
import jax
import jax.numpy as jnp

from . import finetuning, pretraining
from .active import select
from .laws import correlated
from .noise import effective_noise
from .observables import Errors, evaluate
from .options import Options
from .outputs import Branch, Finetuning, Pretraining, SolveStatus, mean_and_stderr
from .results import Result, worst
from .sampling import Draws, Samples
from .stability import Stability, jumps, verdict
from .symmetric import root_weights, unpack
from .tasks import Task

PRETRAINING_START = (1.0, 0.5, 1.0)
MET = 1e-6  # relative distance of two solutions that are the same
LEAST_GUESS = 1e-4  # of q, for a replicate's solution to start the next one


class Pretrained(eqx.Module):
    """A solved pre-training: values, standard errors, status, and its replicates.

    `order` (R, 3) is (Q, M, V) of each replicate, `student` (R, L, n) the packed z/√s on its
    training samples, for reused sequences.
    """

    values: Pretraining
    stderr: Pretraining
    status: SolveStatus
    order: jax.Array
    student: jax.Array | None


class Finetuned(eqx.Module):
    """A solved fine-tuning: values, standard errors and status."""

    values: Finetuning
    stderr: Finetuning
    status: SolveStatus


def pretrain(task: Task, samples: Samples, options: Options) -> Pretrained:
    """Solve the pre-training on every replicate, each from the solution of the one before."""
    if task.given is not None:
        return _given_pretraining(task, samples)

    def solve(start, draws):
        solution = pretraining.solve_state_evolution(task, draws, start, options)
        evolution = pretraining.StateEvolution(task, draws, options)
        train_error = evolution.train_error(solution.order, task.beta * solution.minimum)
        usable = solution.result == Result.CONVERGED
        return jnp.where(usable, solution.order, start), (solution, train_error)

    start = jnp.asarray(PRETRAINING_START, task.delta.dtype)
    _, (solution, train_error) = jax.lax.scan(solve, start, samples.train)
    order = solution.order
    values, stderr = mean_and_stderr(
        Pretraining(
            Q=order[:, 0],
            M=order[:, 1],
            V=order[:, 2],
            Q_hat=solution.conjugates.Q,
            M_hat=solution.conjugates.M,
            V_hat=solution.conjugates.V,
            test_error=_pretraining_test_error(task, order, samples.test),
            train_error=train_error,
            effective_noise=_effective_noise(task, order),
            critical_lam=solution.critical_lam,
            replicon=solution.replicon,
        )
    )
    status = _status(solution, values.replicon, stderr.replicon)
    return Pretrained(values, stderr, status, order, solution.minimum)


def finetune(task: Task, pretrained: Pretrained, samples: Samples, options: Options) -> Finetuned:
    """Solve the fine-tuning on every replicate from all starts and keep the lowest energy."""

    def fields_of(inputs):
        order, student, draws, pool = inputs
        return training_fields(task, order, student, draws, pool, options)

    inputs = (pretrained.order, pretrained.student, samples.train, samples.pool)
    side_fields = jax.lax.map(fields_of, inputs)
    branches = _solve_branches(task, side_fields, samples.train, options)
    results = jax.vmap(worst)(branches.result)
    lowest = _lowest(branches.energy.mean(1))
    solution = jax.tree.map(lambda x: x[lowest], branches)

    q, m, v = solution.order.T
    errors = _test_errors(task, pretrained.order, q, m, samples.test)
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


def _solve_branches(task, side_fields, draws, options) -> finetuning.FinetuningSolution:
    """The solutions from every start on every replicate, of leading axes (starts, replicates).

    Each replicate starts from the solutions of the one before; where two of those met, they would
    meet again, and one is solved.
    """
    starts = jnp.asarray(list(finetuning.STARTS.values()), task.delta.dtype)

    def solve_replicate(guesses, inputs):
        fields, draws = inputs

        def solve(guess):
            return finetuning.solve_state_evolution(task, fields, draws, guess, options)

        def solve_branch(last, inputs):
            start, guess = inputs
            last_guess, last_solution = last
            met = jnp.all(jnp.abs(guess - last_guess) <= MET * jnp.abs(guess))
            solution = jax.lax.cond(met, lambda: last_solution, lambda: solve(guess))
            # Next to ŵ = 0 the map hardly moves, even where another replicate's leads away from it.
            usable = (solution.result == Result.CONVERGED) & (solution.order[0] > LEAST_GUESS)
            return (guess, solution), (jnp.where(usable, solution.order, start), solution)

        shapes = jax.eval_shape(solve, starts[0])
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        blank = (jnp.zeros_like(starts[0]), nothing)
        return jax.lax.scan(solve_branch, blank, (starts, guesses))[1]

    _, solutions = jax.lax.scan(solve_replicate, starts, (side_fields, draws))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), solutions)


def _given_pretraining(task: Task, samples: Samples) -> Pretrained:
    """The effective pre-training set by hand, as if it were solved."""
    assert task.given is not None
    _, Q, M = task.given
    count = samples.train.weights.shape[0]
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
            test_error=_pretraining_test_error(task, order, samples.test),
            train_error=unknown,
            effective_noise=_effective_noise(task, order),
            critical_lam=unknown,
            replicon=unknown,
        )
    )
    result, undefined = jnp.asarray(Result.GIVEN), jnp.asarray(Stability.UNDEFINED)
    status = SolveStatus(result, zero, zero, zero, zero, zero, zero, undefined)
    return Pretrained(values, stderr, status, order, None)


def training_fields(task, order, student, draws, pool, options) -> finetuning.SideFields:
    """(z*, z) on the labelled sequences: under Q, or under R for e = 1, selected by Algorithm 1."""
    source = draws if pool is None else pool
    Q, M, V = order
    teacher, fresh = correlated(task.teacher_variance(), M, Q, source.first, source.second)
    if not task.reuse:
        student = fresh
    elif pool is not None:
        evolution = pretraining.StateEvolution(task, pool, options)
        student = jnp.where(V > 0, evolution.search(order).x, 0.0)
    root = root_weights(task.tokens, teacher)
    teacher = unpack(root * teacher, task.tokens)
    student = unpack(root * task.beta * student, task.tokens)
    if pool is not None:
        count = draws.weights.shape[-1]
        ratio = jax.lax.stop_gradient(task.active_ratio)
        teacher, student = select(task.activation, ratio, teacher, student, count)
    return finetuning.SideFields(teacher, student)


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
