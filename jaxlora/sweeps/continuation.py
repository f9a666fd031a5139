"""Both stages along the rows of a tile of points, each solved from the one before.

A block of points is (lines, columns, rows). The columns of a row share their pre-training; lines
have nothing in common. A line's column is a lane. Results have a leading axis of replicates.
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
from .tiles import where_live

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
def pretrain_rows(
    draws: FieldDraws,
    tasks: Task,
    found: Start,
    live: jax.Array,
    options: Options,
    layout: Layout,
) -> tuple[Solution, Start]:
    """Solve `tasks` (lines, rows), the first of a line from what was `found` (lines,) before.

    Returns what to start from next too. What is not `live` (lines, rows) is left out.
    """

    def solve_line(line, draws):
        tasks, found, live = line

        def solve(found, row):
            task, live = row

            def solved():
                begin = pretraining_start_from(task, found)
                solution = pretrain_replicates.function(draws, task, begin, options)
                usable, point = solution.result[0] == Result.CONVERGED, solution.solved.fixed_point
                ahead = Start(point.value[0], point.matrix[0])
                return choose(usable, ahead, pretraining_start(task, None)), solution

            return where_live(live, solved)

        ahead, solutions = jax.lax.scan(solve, found, (tasks, live))
        return solutions, ahead

    solutions, ahead = layout.map(solve_line, (tasks, found, live), draws)
    return _replicates_first(solutions, 2), ahead


@Program
def finetune_rows(
    sets: TrainingSet,
    tasks: Task,
    found: Start,
    live: jax.Array,
    seek: jax.Array,
    afresh: jax.Array,
    options: Options,
    layout: Layout,
) -> tuple[LabelledSolutions, Start]:
    """Solve `tasks` (lanes, rows) from both branches, the first of a lane from those `found`.

    These are (lanes, 2); returns the next ones too. The sets' (Q, M, V) are (replicates, lanes,
    rows, 3). A second branch that has met the first is sought afresh on rows to `seek` it on only;
    it is followed from there on. With `afresh` nothing is followed: all are solved from the same
    starts, as `predict` solves them. What is not `live` (lanes, rows) is left out.
    """

    def solve_lane(lane, draws, pool, seek, afresh):
        orders, tasks, found, live = lane

        def solve(branches, row):
            order, task, live, seek = row

            def solved():
                followed = finetuning_starts_from(task, branches, seek)
                begin = choose(afresh, finetuning_starts(task, None), followed)
                training = TrainingSet(order, draws, pool)
                solutions = finetune_replicates.function(training, task, begin, options)
                return first_branches(solutions), solutions

            return where_live(live, solved)

        ahead, solutions = jax.lax.scan(solve, found, (orders, tasks, live, seek))
        return solutions, ahead

    order, draws, pool = sets
    lanes = (jnp.moveaxis(order, 0, 2), tasks, found, live)
    solved, ahead = layout.map(solve_lane, lanes, draws, pool, seek, afresh)
    return _replicates_first(solved, 2), ahead


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
    points: PretrainedPoints, tasks: Task, live: jax.Array, options: Options, layout: Layout
) -> ObservedPretraining:
    """All observables of the pre-trainings `tasks` (points,) that are `live`."""

    def observe(point, draws, test):
        solution, task, live = point
        sets = PretrainingSet(draws, test, solution)
        return where_live(live, lambda: observe_pretraining.function(sets, task, options))

    along = (_points_first(points.solutions), tasks, live)
    return _replicates_first(layout.map(observe, along, points.draws, points.test), 1)


@Program
def observe_finetuned(
    points: FinetunedPoints,
    tasks: Task,
    lowest: jax.Array,
    live: jax.Array,
    options: Options,
    layout: Layout,
) -> ObservedFinetuning:
    """All observables of the live fine-tunings `tasks` (points,), of the branch `lowest`."""

    def observe(point, draws, pool, test):
        order, solved, task, lowest, live = point
        sets = FinetuningSet(TrainingSet(order, draws, pool), test, solved)
        return where_live(live, lambda: observe_finetuning.function(sets, task, lowest, options))

    order, draws, pool = points.training
    along = (*_points_first((order, points.solved)), tasks, lowest, live)
    return _replicates_first(layout.map(observe, along, draws, pool, points.test), 1)


def _replicates_first(tree, axis: int):
    return jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), tree)


def _points_first(tree):
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), tree)
