"""Both stages along rows of points, each solved from the one before.

A block of points is (lines, columns, rows). The columns of a row share their pre-training; lines
have nothing in common. A line's column is a lane. Programs take the points of one call at a time,
as the layout has it, so that all sweeps of a task share them. Results have a leading axis of
replicates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import finetuning
from ..observation import (
    FinetuningSet,
    ObservedFinetuning,
    ObservedPretraining,
    PretrainingSet,
    observe_finetuning,
    observe_pretraining,
)
from ..options import Options
from ..pretraining import Solution
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
from ..starts import (
    finetuning_starts,
    finetuning_starts_from,
    pretraining_start,
    pretraining_start_from,
)
from ..tasks import Task
from .layout import Layout

SOUGHT_EVERY = 8  # rows, where branches have met


class PretrainedPoints(NamedTuple):
    """The solutions of pre-trainings (replicates, points), their draws and test draws."""

    draws: FieldDraws
    test: Draws
    solutions: Solution


class FinetunedPoints(NamedTuple):
    """(Q, M, V) and solutions of fine-tunings (replicates, points), draws and test draws."""

    training: TrainingSet
    test: Draws
    solved: LabelledSolutions


@Program
def pretrain_points(
    draws: FieldDraws, tasks: Task, found: Start, options: Options, layout: Layout
) -> tuple[Solution, Start]:
    """Solve `tasks` (points,) from what was `found` for others, and what to start from next."""

    def solve(point, draws):
        task, found = point
        begin = pretraining_start_from(task, found)
        solution = pretrain_replicates.function(draws, task, begin, options)
        usable, fixed_point = solution.result[0] == Result.CONVERGED, solution.solved.fixed_point
        ahead = Start(fixed_point.value[0], fixed_point.matrix[0])
        return solution, choose(usable, ahead, pretraining_start(task, None))

    solutions, ahead = layout.map(solve, (tasks, found), draws)
    return _replicates_first(solutions), ahead


@Program
def finetune_points(
    sets: TrainingSet,
    tasks: Task,
    found: Start,
    seek: jax.Array,
    afresh: jax.Array,
    options: Options,
    layout: Layout,
) -> tuple[LabelledSolutions, Start]:
    """Solve `tasks` (points,) from both branches `found` for others (points, 2), and the next.

    The sets' (Q, M, V) are (replicates, points, 3). Unless it is to `seek` it, a second branch that
    has met the first is followed from there. With `afresh` nothing is followed: points are solved
    from the same starts, as `predict` solves them.
    """

    def solve(point, draws, pool, seek, afresh):
        order, task, found = point
        followed = finetuning_starts_from(task, found, seek)
        begin = choose(afresh, finetuning_starts(task, None), followed)
        training = TrainingSet(order, draws, pool)
        solved = finetune_replicates.function(training, task, begin, options)
        return solved, first_branches(solved)

    order, draws, pool = sets
    points = (jnp.moveaxis(order, 0, 1), tasks, found)
    solved, ahead = layout.map(solve, points, draws, pool, seek, afresh)
    return _replicates_first(solved), ahead


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
    points: PretrainedPoints, tasks: Task, options: Options, layout: Layout
) -> ObservedPretraining:
    """All observables of the pre-trainings `tasks` (points,)."""

    def observe(point, draws, test):
        solution, task = point
        return observe_pretraining.function(PretrainingSet(draws, test, solution), task, options)

    along = (_points_first(points.solutions), tasks)
    return _replicates_first(layout.map(observe, along, points.draws, points.test))


@Program
def observe_finetuned(
    points: FinetunedPoints, tasks: Task, lowest: jax.Array, options: Options, layout: Layout
) -> ObservedFinetuning:
    """All observables of the fine-tunings `tasks` (points,), of the branch `lowest` (points,)."""

    def observe(point, draws, pool, test):
        order, solved, task, lowest = point
        sets = FinetuningSet(TrainingSet(order, draws, pool), test, solved)
        return observe_finetuning.function(sets, task, lowest, options)

    order, draws, pool = points.training
    along = (*_points_first((order, points.solved)), tasks, lowest)
    return _replicates_first(layout.map(observe, along, draws, pool, points.test))


def _replicates_first(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)


def _points_first(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), tree)
