"""Each stage solved on the replicates of the draws, each from the solution of the one before."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from . import finetuning, pretraining
from .active import select
from .laws import correlated
from .options import Options
from .programs import Program
from .results import Result
from .sampling import Draws, FieldDraws
from .symmetric import root_weights, unpack
from .tasks import Task

PRETRAINING_START = (1.0, 0.5, 1.0)
MET = 1e-6  # relative distance of two solutions that are the same
LEAST_GUESS = 1e-4  # of q, for a replicate's solution to start the next one


class TrainingSet(NamedTuple):
    """What a replicate's fine-tuning needs: (Q, M, V), its draws, candidates to select from."""

    order: jax.Array
    draws: Draws
    pool: FieldDraws | None


@Program
def pretrain_replicates(
    draws: FieldDraws, task: Task, options: Options
) -> pretraining.PretrainingSolution:
    """Solve the pre-training on every replicate."""

    def solve(start, draws):
        solution = pretraining.solve_state_evolution(task, draws, start, options)
        usable = solution.result == Result.CONVERGED
        return jnp.where(usable, solution.order, start), solution

    start = jnp.asarray(PRETRAINING_START, task.delta.dtype)
    return jax.lax.scan(solve, start, draws)[1]


@Program
def finetune_replicates(
    sets: TrainingSet, task: Task, options: Options
) -> finetuning.FinetuningSolution:
    """The solutions from every start on every replicate, of leading axes (replicates, starts).

    Where two solutions of the replicate before met, they would meet again, and one is solved.
    """
    starts = jnp.asarray(list(finetuning.STARTS.values()), task.delta.dtype)

    def solve_replicate(guesses, training: TrainingSet):
        fields, gradient = training_fields(task, *training, options)

        def solve(guess):
            draws = training.draws
            solution = finetuning.solve_state_evolution(task, fields, draws, guess, options)
            remaining = jnp.maximum(solution.fixed_point.largest_gradient, gradient)
            return eqx.tree_at(lambda s: s.fixed_point.largest_gradient, solution, remaining)

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

    return jax.lax.scan(solve_replicate, starts, sets)[1]


def training_fields(task, order, draws, pool, options) -> tuple[finetuning.SideFields, jax.Array]:
    """(z*, z) on the labelled sequences: under Q, or under R for e = 1, selected by Algorithm 1.

    Also the largest gradient that is left of Prox where e = 1, else 0.
    """
    source = draws if pool is None else pool
    Q, M, V = order
    teacher, student = correlated(task.teacher_variance(), M, Q, source.first, source.second)
    gradient = jnp.zeros_like(V)
    if task.reuse:
        minimum = pretraining.StateEvolution(task, source, options).search(order)
        student = jnp.where(V > 0, minimum.x, 0.0)
        gradient = jnp.where(V > 0, minimum.largest_gradient, 0.0)
    root = root_weights(task.tokens, teacher)
    teacher = unpack(root * teacher, task.tokens)
    student = unpack(root * task.beta * student, task.tokens)
    if pool is not None:
        count = draws.weights.shape[-1]
        ratio = jax.lax.stop_gradient(task.active_ratio)
        teacher, student = select(task.activation, ratio, teacher, student, count)
    return finetuning.SideFields(teacher, student), gradient
