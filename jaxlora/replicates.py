"""Each stage solved on the replicates of the draws, each from the solution of the one before.

Nothing here carries derivatives; `observation` attaches them to the solutions.
"""

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from . import finetuning, pretraining
from .labelled import Labelled, choose_sequences, labelled_fields
from .options import Options
from .programs import Program
from .results import Result
from .sampling import Draws, FieldDraws
from .start import Start, choose
from .starts import beside_zero, pretraining_start
from .tasks import Task

MET = 1e-6  # relative distance of two solutions that are the same


class TrainingSet(NamedTuple):
    """What a replicate's fine-tuning needs: (Q, M, V), its draws, candidates to select from."""

    order: jax.Array
    draws: Draws
    pool: FieldDraws | None


class LabelledSolutions(NamedTuple):
    """A replicate's labelled sequences, and its solutions from every start."""

    labelled: Labelled
    solutions: finetuning.Solution


@Program
def pretrain_replicates(
    draws: FieldDraws, task: Task, start: Start, options: Options
) -> pretraining.Solution:
    """Solve the pre-training on every replicate, on the first from `start`.

    Where that fails it is solved afresh, and how that ended is reported. On frozen draws a start
    nearby can lead to where the minimum of a sample vanishes, from which no step leads on.
    """
    fresh = pretraining_start(task, None)

    @jax.jit  # so that its shapes and its program are traced once
    def solve(draws, begin):
        return pretraining.solve_state_evolution(task, draws, begin, options)

    def solve_replicate(start, draws):
        def attempt(carry):
            begin, _, _ = carry
            solution = solve(draws, begin)
            failed = solution.result > Result.COLLAPSED
            return fresh, solution, failed & jnp.any(begin.order != fresh.order)

        nothing = blank(jax.eval_shape(solve, draws, start))
        first = (start, nothing, jnp.array(True))
        _, solution, _ = jax.lax.while_loop(lambda carry: carry[-1], attempt, first)
        usable, found = solution.result == Result.CONVERGED, solution.solved.fixed_point
        return choose(usable, Start(found.value, found.matrix), start), solution

    return jax.lax.scan(solve_replicate, start, draws)[1]


@Program
def finetune_replicates(
    sets: TrainingSet, task: Task, starts: Start, options: Options
) -> LabelledSolutions:
    """The solutions from every start on every replicate, of leading axes (replicates, starts).

    `starts`, of a leading axis, are those of the first replicate. Where two solutions of the
    replicate before met, they would meet again, and one is solved.
    """

    def solve_replicate(guesses, training: TrainingSet):
        order, draws, pool = training
        labelled = choose_sequences(task, order, draws, pool, options)
        fields = labelled_fields(task, order, draws, pool, labelled, options)

        @jax.jit  # so that its shapes and its program are traced once
        def solve(guess):
            solution = finetuning.solve_state_evolution(task, fields, draws, guess, options)
            if labelled.reused is None:
                return solution
            remaining = jnp.where(order[2] > 0, labelled.reused.largest_gradient, 0.0)
            return eqx.tree_at(
                _largest_gradient, solution, replace_fn=partial(jnp.maximum, remaining)
            )

        def solve_branch(last, inputs):
            start, guess = inputs
            last_guess, last_solution = last
            met = jnp.all(jnp.abs(guess.order - last_guess.order) <= MET * jnp.abs(guess.order))
            solution = jax.lax.cond(met, lambda: last_solution, lambda: solve(guess))
            found = solution.solved.fixed_point
            order = finetuning.from_noise(found.value)
            usable = solution.result == Result.CONVERGED
            ahead = choose(usable, beside_zero(Start(order, found.matrix)), start)
            return (guess, solution), (ahead, solution)

        first = jax.tree.map(lambda x: x[0], starts)
        none = (blank(first), blank(jax.eval_shape(solve, first)))
        _, (guesses, solutions) = jax.lax.scan(solve_branch, none, (starts, guesses))
        return guesses, LabelledSolutions(labelled, solutions)

    return jax.lax.scan(solve_replicate, starts, sets)[1]


def blank(shapes: Any) -> Any:
    """Zeros of these shapes."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _largest_gradient(solution: finetuning.Solution) -> jax.Array:
    return solution.solved.fixed_point.largest_gradient
