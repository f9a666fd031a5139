"""Both stages along rows of points, each solved from the one before, compiled as a whole.

A block of points is (lines, columns, rows). The columns of a row share their pre-training; lines
have nothing in common. A line's column is a lane. Results have a leading axis of replicates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import finetuning, pretraining
from ..observation import (
    FinetuningSet,
    ObservedFinetuning,
    ObservedPretraining,
    PretrainingSet,
    observe_finetuning,
    observe_pretraining,
)
from ..options import Options
from ..programs import Program
from ..replicates import (
    LabelledSolutions,
    TrainingSet,
    finetune_replicates,
    pretrain_replicates,
)
from ..results import Result
from ..sampling import Draws, FieldDraws
from ..start import Start, choose
from ..starts import finetuning_starts, finetuning_starts_from, pretraining_start_from
from ..tasks import Task
from .layout import Layout

SOUGHT_EVERY = 8  # rows, where branches have met


class PretrainedRows(NamedTuple):
    """The solutions of pre-trainings (replicates, points), their draws and test draws."""

    draws: FieldDraws
    test: Draws
    solutions: pretraining.Solution


class FinetunedRows(NamedTuple):
    """(Q, M, V) and solutions of fine-tunings (replicates, points), draws and test draws."""

    training: TrainingSet
    test: Draws
    solved: LabelledSolutions


@Program
def pretrain_rows(
    draws: FieldDraws, tasks: Task, start: Start, options: Options, layout: Layout
) -> pretraining.Solution:
    """Solve `tasks` (lines, rows); the first of a line from `start`."""

    def solve_line(tasks, draws):
        def solve(found, task):
            begin = pretraining_start_from(task, found)
            solution = pretrain_replicates.function(draws, task, begin, options)
            usable, fixed_point = (
                solution.result[0] == Result.CONVERGED,
                solution.solved.fixed_point,
            )
            return choose(
                usable, Start(fixed_point.value[0], fixed_point.matrix[0]), start
            ), solution

        return jax.lax.scan(solve, start, tasks)[1]

    return _replicates_first(layout.map(solve_line, tasks, draws), 2)


@Program
def finetune_rows(
    sets: TrainingSet,
    tasks: Task,
    starts: Start,
    afresh: jax.Array,
    options: Options,
    layout: Layout,
) -> LabelledSolutions:
    """Solve `tasks` (lanes, rows) from both branches, the first of a lane from `starts` (lanes, 2).

    The sets' (Q, M, V) are (replicates, lanes, rows, 3). A second branch that has met the first is
    sought afresh on some rows only; it is followed from there on. With `afresh` nothing is
    followed: all rows are solved from the same starts, as `predict` solves them.
    """

    def solve_lane(lane, draws, pool, afresh):
        orders, tasks, start = lane
        seek = sought_rows(orders.shape[0])

        def solve(branches, row):
            order, task, seek = row
            followed = finetuning_starts_from(task, branches, seek)
            begin = choose(afresh, finetuning_starts(task, None), followed)
            training = TrainingSet(order, draws, pool)
            solved = finetune_replicates.function(training, task, begin, options)
            return first_branches(solved), solved

        return jax.lax.scan(solve, start, (orders, tasks, seek))[1]

    order, draws, pool = sets
    lanes = (jnp.moveaxis(order, 0, 2), tasks, starts)
    return _replicates_first(layout.map(solve_lane, lanes, draws, pool, afresh), 2)


def sought_rows(rows: int) -> np.ndarray:
    """On which rows a second branch is sought afresh: at the ends, and evenly between them."""
    among = np.linspace(0, rows - 1, 2 + (rows - 1) // SOUGHT_EVERY).round().astype(int)
    return np.isin(np.arange(rows), among)


def first_branches(solved: LabelledSolutions) -> Start:
    """The first replicate's branches (..., 2), of solutions (replicates, ..., 2); zero for none."""
    found, result = solved.solutions.solved.fixed_point, solved.solutions.result[0]
    order = jnp.moveaxis(finetuning.from_noise(jnp.moveaxis(found.value[0], -1, 0)), 0, -1)
    return Start(jnp.where((result == Result.CONVERGED)[..., None], order, 0.0), found.matrix[0])


@Program
def observe_pretrained(
    rows: PretrainedRows, tasks: Task, options: Options, layout: Layout
) -> ObservedPretraining:
    """All observables of the pre-trainings `tasks` (points,)."""

    def observe(point, draws, test):
        solution, task = point
        return observe_pretraining.function(PretrainingSet(draws, test, solution), task, options)

    points = (_points_first(rows.solutions), tasks)
    return _replicates_first(layout.map(observe, points, rows.draws, rows.test), 1)


@Program
def observe_finetuned(
    rows: FinetunedRows, tasks: Task, lowest: jax.Array, options: Options, layout: Layout
) -> ObservedFinetuning:
    """All observables of the fine-tunings `tasks` (points,), of the branch `lowest` (points,)."""

    def observe(point, draws, pool, test):
        order, solved, task, lowest = point
        sets = FinetuningSet(TrainingSet(order, draws, pool), test, solved)
        return observe_finetuning.function(sets, task, lowest, options)

    order, draws, pool = rows.training
    points = (*_points_first((order, rows.solved)), tasks, lowest)
    return _replicates_first(layout.map(observe, points, draws, pool, rows.test), 1)


def _replicates_first(tree, axis: int):
    return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), tree)


def _points_first(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), tree)
