"""The theory of a block of points at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..options import Options
from ..programs import Program
from ..replicates import LabelledSolutions, TrainingSet
from ..sampling import Samples
from ..starts import finetuning_starts, pretraining_start
from ..summary import (
    Finetuned,
    Pretrained,
    given_pretraining,
    lowest_branch,
    summarise_finetuning,
    summarise_pretraining,
)
from ..tasks import Task
from .candidates import have_parted, least_energy
from .continuation import (
    FinetunedRows,
    PretrainedRows,
    finetune_rows,
    first_branches,
    observe_finetuned,
    observe_pretrained,
    pretrain_rows,
)
from .layout import Layout


def solve_block(
    tasks: Task, samples: Samples, options: Options, layout: Layout
) -> tuple[Pretrained, Finetuned]:
    """Both stages of `tasks` (lines, columns, rows), with results of that shape.

    Rows are solved in turn, each from the one before, the columns of a row from one pre-training.
    Where branches of the fine-tuning coexist, it is solved along the rows in reverse too, and on
    every row afresh as in `predict`; each point has the solutions of least energy.
    """
    shape = tasks.lam_ft.shape
    pretrained = _pretrain(jax.tree.map(lambda x: x[:, 0], tasks), samples, options, layout)
    lines, _, rows = shape
    order = np.moveaxis(np.asarray(pretrained.order), 1, 0).reshape(-1, lines, 1, rows, 3)
    order = np.broadcast_to(order, (len(order), *shape, 3))
    finetuned = _finetune(order, tasks, samples, options, layout)
    once = _reshape(pretrained, (lines, 1, rows))
    return jax.tree.map(lambda x: np.broadcast_to(x, shape), once), _reshape(finetuned, shape)


def _pretrain(tasks: Task, samples: Samples, options: Options, layout: Layout) -> Pretrained:
    """The pre-trainings of `tasks` (lines, rows), flattened."""
    flat = jax.tree.map(jnp.ravel, tasks)
    test = samples.test
    if samples.pretraining is None:
        return _given(test, flat)
    start = pretraining_start(tasks, None)
    turn = _in_turn(options, layout)
    solved = pretrain_rows.in_groups(
        samples.pretraining, tasks, start, options, layout, in_turn=turn
    )
    solutions = _flatten(solved)
    rows = PretrainedRows(samples.pretraining, test, solutions)
    observed = observe_pretrained.in_groups(rows, flat, options, layout, in_turn=turn)
    return _summarise_pretraining(observed, solutions.solved.fixed_point, solutions.result)


def _finetune(order, tasks: Task, samples: Samples, options: Options, layout: Layout) -> Finetuned:
    """The fine-tunings of `tasks` (lines, columns, rows), flattened."""
    lines, columns, rows = tasks.lam_ft.shape
    lanes = lines * columns
    tasks = jax.tree.map(lambda x: x.reshape(lanes, rows), tasks)
    training = TrainingSet(order.reshape(-1, lanes, rows, 3), samples.finetuning, samples.pool)
    turn = _in_turn(options, layout)

    def solve(order, tasks, starts, afresh=False) -> LabelledSolutions:
        along = training._replace(order=order)
        how = (np.asarray(afresh), options, layout)
        return finetune_rows.in_groups(along, tasks, starts, *how, in_turn=turn)

    fresh = finetuning_starts(tasks, None)
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (lanes, *x.shape)), fresh)
    solved = solve(training.order, tasks, fresh)
    if rows > 1 and have_parted(solved):
        starts = jax.tree.map(lambda x: x[:, -1], first_branches(solved))
        reverse = jax.tree.map(lambda x: x[:, ::-1], tasks)
        back = solve(training.order[:, :, ::-1], reverse, starts)
        back = jax.tree.map(lambda x: x[:, :, ::-1], back)
        solved = least_energy(solve(training.order, tasks, fresh, afresh=True), (solved, back))
    solved, flat = _flatten(solved), jax.tree.map(jnp.ravel, tasks)
    lowest = lowest_branch(solved.solutions.energy)
    training = training._replace(order=training.order.reshape(-1, lanes * rows, 3))
    found = FinetunedRows(training, samples.test, solved)
    observed = observe_finetuned.in_groups(found, flat, lowest, options, layout, in_turn=turn)
    fixed_point, result = solved.solutions.solved.fixed_point, solved.solutions.result
    return _summarise_finetuning(observed, fixed_point, result, lowest, flat)


def _in_turn(options: Options, layout: Layout) -> bool:
    # Several devices are in use by each group of replicates already.
    return options.verbose or layout.devices > 1


def _flatten(tree):
    """Points (lanes, rows), after the replicates, as one axis."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), tree)


def _reshape(summary, shape):
    """The summary of points with their axes; replicates and their orders are left out."""
    kept = eqx.tree_at(lambda s: s.replicates, summary, None)
    if isinstance(kept, Pretrained):
        kept = eqx.tree_at(lambda s: s.order, kept, None)
    return jax.tree.map(lambda x: np.asarray(x).reshape(shape), kept)


@Program
def _given(test, tasks: Task) -> Pretrained:
    return jax.vmap(given_pretraining.function, (None, 0))(test, tasks)


@Program
def _summarise_pretraining(observed, fixed_point, result) -> Pretrained:
    return jax.vmap(summarise_pretraining.function, 1)(observed, fixed_point, result)


@Program
def _summarise_finetuning(observed, fixed_point, result, lowest, tasks: Task) -> Finetuned:
    summarise = jax.vmap(summarise_finetuning.function, (1, 1, 1, 0, 0))
    return summarise(observed, fixed_point, result, lowest, tasks)
