"""Every observable of a stage on every replicate, with its derivatives by all real parameters."""

from typing import NamedTuple

import jax

from . import finetuning, pretraining
from .labelled import labelled_fields
from .noise import effective_noise
from .observables import Errors, evaluate
from .options import Options
from .outputs import Branch, Finetuning, Pretraining
from .programs import Program
from .replicates import LabelledSolutions, TrainingSet
from .sampling import Draws, FieldDraws
from .tasks import Task


class PretrainingSet(NamedTuple):
    """What to observe of replicates' pre-training: draws, test draws and solutions."""

    draws: FieldDraws
    test: Draws
    solution: pretraining.Solution


class FinetuningSet(NamedTuple):
    """What to observe of replicates' fine-tuning: training sets, test draws and solutions."""

    training: TrainingSet
    test: Draws
    solved: LabelledSolutions


class ObservedPretraining(NamedTuple):
    """(Q, M, V) of each replicate (R, 3), its observables, what its replicon may lack, its gap.

    The last two are `unseen_replicon` and `stein_gap` of a `Description`.
    """

    order: jax.Array
    values: Pretraining
    unseen_replicon: jax.Array
    stein_gap: jax.Array


class ObservedFinetuning(NamedTuple):
    """The observables of each replicate, what its replicon may lack, and its Stein gap."""

    values: Finetuning
    unseen_replicon: jax.Array
    stein_gap: jax.Array


@Program
def observe_pretraining(sets: PretrainingSet, task: Task, options: Options) -> ObservedPretraining:
    """All observables of solved pre-trainings."""
    draws, test, solution = sets
    describe = jax.vmap(
        lambda draws, solution: pretraining.describe(task, draws, solution, options)
    )
    said = describe(draws, solution)
    Q, M, V = (said.order[:, i] for i in range(3))
    values = Pretraining(
        Q=Q,
        M=M,
        V=V,
        Q_hat=said.conjugates.Q,
        M_hat=said.conjugates.M,
        V_hat=said.conjugates.V,
        test_error=errors_on_test_draws(task, Q, M, 0 * Q, 0 * M, test).pretraining,
        train_error=said.train_error,
        effective_noise=effective_noise(task.teacher_variance(), Q, M, task.beta),
        critical_lam=said.critical_lam,
        replicon=said.replicon,
    )
    return ObservedPretraining(said.order, values, said.unseen_replicon, said.stein_gap)


@Program
def observe_finetuning(
    sets: FinetuningSet, task: Task, lowest: jax.Array, options: Options
) -> ObservedFinetuning:
    """All observables of solved fine-tunings, those of the start `lowest` first of all."""
    training, test, (labelled, solutions) = sets

    def describe(training: TrainingSet, labelled, solved):
        order, draws, pool = training
        fields = labelled_fields(task, order, draws, pool, labelled, options)

        def branch(one):
            return finetuning.order_and_energy(task, fields, draws, one, options)

        reported = jax.tree.map(lambda x: x[lowest], solved)
        said = finetuning.describe(task, fields, draws, reported, options)
        return said, jax.vmap(branch)(solved)

    said, (orders, energies) = jax.vmap(describe)(training, labelled, solutions.solved)
    Q, M = training.order[:, 0], training.order[:, 1]
    q, m, v = (said.order[:, i] for i in range(3))
    errors = errors_on_test_draws(task, Q, M, q, m, test)
    values = Finetuning(
        q=q,
        m=m,
        v=v,
        q_hat=said.conjugates.q,
        m_hat=said.conjugates.m,
        v_hat=said.conjugates.v,
        test_error=errors.finetuning,
        train_error=said.train_error,
        overlap=finetuning.overlap(q, m),
        forgetting=errors.forgetting,
        energy=said.energy,
        replicon=said.replicon,
        frozen_test_error=errors.frozen,
        branches=tuple(
            Branch(
                start=start,
                q=orders[:, i, 0],
                m=orders[:, i, 1],
                v=orders[:, i, 2],
                energy=energies[:, i],
                result=solutions.result[:, i],
            )
            for i, start in enumerate(finetuning.STARTS)
        ),
    )
    return ObservedFinetuning(values, said.unseen_replicon, said.stein_gap)


def errors_on_test_draws(task: Task, Q, M, q, m, test: Draws) -> Errors:
    """The test errors on every replicate's draws, of order parameters (R,).

    One replicate at a time, and again for a gradient: test draws are many. What has derivatives of
    its own, as the solutions have, is to stay out of loops, in which JAX's reverse mode takes them
    for first derivatives only.
    """

    def one(inputs) -> Errors:
        return evaluate(task, *inputs)

    return jax.lax.map(jax.checkpoint(one, prevent_cse=False), (Q, M, q, m, test))
