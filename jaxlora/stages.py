"""Each stage from the task to its summary."""

import jax
import jax.numpy as jnp

from .derivatives import with_derivatives
from .observation import FinetuningSet, PretrainingSet, observe_finetuning, observe_pretraining
from .options import Options
from .outputs import Prediction
from .programs import Compiling, Program, frozen, split
from .replicates import TrainingSet, finetune_replicates, pretrain_replicates
from .sampling import Samples
from .start import Start
from .starts import finetuning_starts, pretraining_start
from .summary import (
    Finetuned,
    Pretrained,
    given_pretraining,
    lowest_branch,
    summarise_finetuning,
    summarise_pretraining,
)
from .tasks import Task


def pretrain(
    task: Task, samples: Samples, options: Options, known: Prediction | None = None
) -> Pretrained:
    """Solve the pre-training, from the one `known` for a task nearby, or take what is given."""
    if samples.pretraining is None:
        return given_pretraining(samples.test, task)
    start = pretraining_start(task, known)
    solution = _solve(pretrain_replicates, samples.pretraining, task, start, options)
    sets = PretrainingSet(samples.pretraining, samples.test, solution)
    observed = with_derivatives(observe_pretraining, sets, (task,), options)
    return summarise_pretraining(observed, solution.solved.fixed_point, solution.result)


def finetune(
    task: Task,
    pretrained: Pretrained,
    samples: Samples,
    options: Options,
    known: Prediction | None = None,
) -> Finetuned:
    """Solve the fine-tuning of a pre-trained layer, from the one `known` for a task nearby."""
    training = TrainingSet(pretrained.order, samples.finetuning, samples.pool)
    starts = finetuning_starts(task, known)
    solved = _solve(finetune_replicates, training, task, starts, options)
    solutions = solved.solutions
    lowest = lowest_branch(solutions.energy)
    sets = FinetuningSet(training, samples.test, solved)
    observed = with_derivatives(observe_finetuning, sets, (task, lowest), options)
    fixed_point, result = solutions.solved.fixed_point, solutions.result
    return summarise_finetuning(observed, fixed_point, result, lowest, task)


def _solve(program: Program, replicated, task: Task, starts: Start, options: Options):
    """Solutions on all replicates, which carry no derivatives."""
    replicated, task = frozen((replicated, task))
    # Logs of two solves at a time could not be told apart.
    return program.in_groups(replicated, task, starts, options, in_turn=options.verbose)


def compile_stages(task: Task, samples: Samples, options: Options) -> None:
    """Compile what both stages run."""
    draws, test = samples.finetuning, samples.test
    with Compiling() as compiled:
        if samples.pretraining is not None:
            group, start = split(samples.pretraining)[0], pretraining_start(task, None)
            solution = compiled(pretrain_replicates, group, task, start, options)
            sets = PretrainingSet(group, split(test)[0], solution)
            observed = compiled(observe_pretraining, sets, task, options)
            observed, solution = _of_all((observed, solution), draws)
            fixed_point = solution.solved.fixed_point
            compiled(summarise_pretraining, observed, fixed_point, solution.result)
        else:
            compiled(given_pretraining, test, task)
        order = jnp.zeros((len(draws.weights), 3), draws.weights.dtype)
        training, test = split((TrainingSet(order, draws, samples.pool), test))[0]
        starts = finetuning_starts(task, None)
        solved = compiled(finetune_replicates, training, task, starts, options)
        sets = FinetuningSet(training, test, solved)
        lowest = compiled(lowest_branch, _of_all(solved, draws).solutions.energy)
        observed = compiled(observe_finetuning, sets, task, lowest, options)
        observed, solutions = _of_all((observed, solved.solutions), draws)
        fixed_point, result = solutions.solved.fixed_point, solutions.result
        compiled(summarise_finetuning, observed, fixed_point, result, lowest, task)


def _of_all(group, draws):
    """The shapes of all replicates from those of a group."""
    count = len(draws.weights)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), group)
