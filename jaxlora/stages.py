"""Each stage from the task to its summary."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from .derivatives import with_derivatives
from .observation import FinetuningSet, PretrainingSet, observe_finetuning, observe_pretraining
from .options import Options
from .outputs import Prediction
from .programs import Program, frozen, is_traced
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

Summary = TypeVar("Summary", Pretrained, Finetuned)


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
    fixed_point, result = solution.solved.fixed_point, solution.result
    summary = summarise_pretraining(frozen(observed), fixed_point, result)
    return _differentiable(summary, observed.values, order=observed.order)


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
    summary = summarise_finetuning(frozen(observed), fixed_point, result, lowest, frozen(task))
    return _differentiable(summary, observed.values)


def _differentiable(summary: Summary, replicates: Any, **observed: jax.Array) -> Summary:
    """The summary with the derivatives that the replicates' values, and so their means, have.

    The program that makes a summary has none, as these few are not worth compiling.
    """
    if not is_traced(replicates):
        return summary

    def mean(value, x):
        return jnp.mean(x, axis=0) if jnp.issubdtype(x.dtype, jnp.inexact) else value

    values = jax.tree.map(mean, summary.values, replicates)
    return dataclasses.replace(summary, values=values, replicates=replicates, **observed)


def _solve(program: Program, replicated, task: Task, starts: Start, options: Options):
    """Solutions on all replicates, which carry no derivatives."""
    replicated, task = frozen((replicated, task))
    # Logs of two solves at a time could not be told apart.
    return program.in_groups(replicated, task, starts, options, in_turn=options.verbose)
