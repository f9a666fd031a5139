"""Each stage from the task to its summary."""

import jax
import jax.numpy as jnp

from .options import Options
from .programs import Program, split
from .replicates import TrainingSet, finetune_replicates, pretrain_replicates
from .sampling import Samples
from .summary import (
    Finetuned,
    Pretrained,
    given_pretraining,
    summarise_finetuning,
    summarise_pretraining,
)
from .tasks import Task


def pretrain(task: Task, samples: Samples, options: Options) -> Pretrained:
    """Solve the pre-training, or take the one given by hand."""
    if task.given is not None:
        return given_pretraining(samples.test, task)
    solved = _solve(pretrain_replicates, samples.pretraining, task, options)
    return summarise_pretraining(solved, samples.test, task)


def finetune(task: Task, pretrained: Pretrained, samples: Samples, options: Options) -> Finetuned:
    """Solve the fine-tuning of a pre-trained layer."""
    sets = TrainingSet(pretrained.order, samples.finetuning, samples.pool)
    branches = _solve(finetune_replicates, sets, task, options)
    return summarise_finetuning(branches, pretrained.order, samples.test, task)


def _solve(program: Program, replicated, task: Task, options: Options):
    # Logs of two solves at a time could not be told apart.
    return program.in_groups(replicated, task, options, in_turn=options.verbose)


def compile_stages(task: Task, samples: Samples, options: Options) -> None:
    """Compile what both stages run."""
    draws, test = samples.finetuning, samples.test
    if task.given is None:
        solved = pretrain_replicates.compile(split(samples.pretraining)[0], task, options)
        summarise_pretraining.compile(_of_all(solved, draws), test, task)
    else:
        given_pretraining.compile(test, task)
    order = jnp.zeros((len(draws.weights), 3), draws.weights.dtype)
    sets = TrainingSet(order, draws, samples.pool)
    branches = finetune_replicates.compile(split(sets)[0], task, options)
    summarise_finetuning.compile(_of_all(branches, draws), order, test, task)


def _of_all(group, draws):
    """The shapes of all replicates from those of a group."""
    count = len(draws.weights)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), group)
