"""The theory of a block of points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..options import Options
from ..programs import Compiling, Program, in_threads, split
from ..replicates import LabelledSolutions, TrainingSet
from ..sampling import Samples
from ..start import Start
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
    FinetunedPoints,
    PretrainedPoints,
    finetune_rows,
    first_branches,
    observe_finetuned,
    observe_pretrained,
    pretrain_rows,
    sought_rows,
)
from .tiles import Tiles, at


def solve_block(
    tasks: Task, samples: Samples, options: Options, tiles: Tiles
) -> tuple[Pretrained, Finetuned]:
    """Both stages of `tasks` (lines, columns, rows), with results of that shape.

    Rows are solved in turn, each from the one before, the columns of a row from one pre-training.
    Where branches of the fine-tuning coexist, it is solved along the rows in reverse too, and on
    every row afresh as in `predict`; each point has the solutions of least energy.
    """
    tasks = jax.device_get(tasks)
    # In a thread, as the calls are.
    in_threads(lambda tasks: _compile(tasks, samples, options, tiles), [tasks])
    shape = tasks.lam_ft.shape
    pretrained = _pretrain(jax.tree.map(lambda x: x[:, 0], tasks), samples, options, tiles)
    lines, _, rows = shape
    order = np.moveaxis(np.asarray(pretrained.order), 1, 0).reshape(-1, lines, 1, rows, 3)
    order = np.broadcast_to(order, (len(order), *shape, 3))
    finetuned = _finetune(order, tasks, samples, options, tiles)
    once = _reshape(pretrained, (lines, 1, rows))
    return jax.tree.map(lambda x: np.broadcast_to(x, shape), once), _reshape(finetuned, shape)


def _compile(tasks: Task, samples: Samples, options: Options, tiles: Tiles) -> None:
    """Compile what a tile of such tasks runs, sooner than each program when it is needed."""
    lines, columns, rows = tasks.lam_ft.shape
    draws = samples.finetuning, samples.pool, samples.test, samples.pretraining
    finetuning, pool, test, pretraining = jax.eval_shape(lambda draws: split(draws)[0], draws)
    count, dtype = test.weights.shape[0], test.weights.dtype
    how = options, tiles.layout

    def shaped(tree, shape: tuple[int, ...], axes: int):
        """Shapes of leaves with other ones in place of their first `axes`."""
        return jax.tree.map(lambda x: _shape((*shape, *x.shape[axes:]), x.dtype), tree)

    with Compiling() as compiled:
        if pretraining is not None:
            tile, points = tiles.shape(lines, rows), (tiles.size(lines * rows),)
            found = shaped(pretraining_start(tasks, None), tile[:1], 0)
            inputs = shaped(tasks, tile, 3), found, _shape(tile, bool)
            solutions, _ = compiled(pretrain_rows, pretraining, *inputs, *how)
            solved = PretrainedPoints(pretraining, test, shaped(solutions, (count, *points), 3))
            inputs = shaped(tasks, points, 3), _shape(points, bool)
            compiled(observe_pretrained, solved, *inputs, *how)
        lanes = lines * columns
        tile, points = tiles.shape(lanes, rows), (tiles.size(lanes * rows),)
        training = TrainingSet(_shape((count, *tile, 3), dtype), finetuning, pool)
        found = shaped(finetuning_starts(tasks, None), tile[:1], 0)
        inputs = shaped(tasks, tile, 3), found, _shape(tile, bool)
        which = _shape(tile[1:], bool), _shape((), bool)  # to seek, and whether afresh
        solutions, _ = compiled(finetune_rows, training, *inputs, *which, *how)
        solved = shaped(solutions, (count, *points), 3)
        energy = shaped(solutions.solutions.energy, samples.test.weights.shape[:1], 3)
        lowest = shaped(compiled(lowest_branch, energy), points, 0)
        training = training._replace(order=_shape((count, *points, 3), dtype))
        inputs = shaped(tasks, points, 3), lowest, _shape(points, bool)
        compiled(observe_finetuned, FinetunedPoints(training, test, solved), *inputs, *how)


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _pretrain(tasks: Task, samples: Samples, options: Options, tiles: Tiles) -> Pretrained:
    """The pre-trainings of `tasks` (lines, rows), flattened."""
    lines, rows = tasks.delta.shape
    flat = _flatten(tasks, 0)
    if samples.pretraining is None:
        return _each(given_pretraining, lines * rows, lambda i: (samples.test, at(flat, i)))

    def solving(draws, _, place, live, found):
        return draws, at(tasks, place), found, live, options, tiles.layout

    def observing(draws, solutions, places, live):
        pretraining, test = draws
        found = PretrainedPoints(pretraining, test, solutions)
        return found, at(flat, places), live, options, tiles.layout

    fresh = _repeated(pretraining_start(tasks, None), lines)
    draws, shape = samples.pretraining, (lines, rows)
    solutions = tiles.along_rows(pretrain_rows, draws, None, shape, fresh, solving)
    solutions, draws = _flatten(solutions, 1), (draws, samples.test)
    observed = tiles.at_points(observe_pretrained, draws, solutions, lines * rows, observing)
    found = observed, solutions.solved.fixed_point, solutions.result
    return _each(summarise_pretraining, lines * rows, lambda i: at(found, (slice(None), i)))


def _finetune(order, tasks: Task, samples: Samples, options: Options, tiles: Tiles) -> Finetuned:
    """The fine-tunings of `tasks` (lines, columns, rows), flattened."""
    lines, columns, rows = tasks.lam_ft.shape
    lanes = lines * columns
    order, tasks = order.reshape(-1, lanes, rows, 3), _flatten(tasks, 0, 2)
    seek = sought_rows(rows)

    def solve(order, tasks, found: Start, afresh=False) -> LabelledSolutions:
        def solving(draws, order, place, live, found):
            how = seek[place[1].ravel()], np.asarray(afresh), options, tiles.layout
            return TrainingSet(order, *draws), at(tasks, place), found, live, *how

        draws, shape = (samples.finetuning, samples.pool), (lanes, rows)
        return tiles.along_rows(finetune_rows, draws, order, shape, found, solving)

    fresh = _repeated(finetuning_starts(tasks, None), lanes)
    solved = solve(order, tasks, fresh)
    if rows > 1 and have_parted(solved):
        starts = at(first_branches(solved), (slice(None), -1))
        back = solve(order[:, :, ::-1], at(tasks, (slice(None), slice(None, None, -1))), starts)
        back = at(back, (slice(None), slice(None), slice(None, None, -1)))
        solved = least_energy(solve(order, tasks, fresh, afresh=True), (solved, back))
        del back
    points, flat, solved = lanes * rows, _flatten(tasks, 0), _flatten(solved, 1)
    lowest = _each(lowest_branch, points, lambda i: (solved.solutions.energy[:, i],))

    def observing(draws, along, places, live):
        (finetuning, pool, test), (order, solved) = draws, along
        found = FinetunedPoints(TrainingSet(order, finetuning, pool), test, solved)
        return found, at(flat, places), lowest[places], live, options, tiles.layout

    draws = (samples.finetuning, samples.pool, samples.test)
    along = (_flatten(order, 1), solved)
    observed = tiles.at_points(observe_finetuned, draws, along, points, observing)
    found = observed, solved.solutions.solved.fixed_point, solved.solutions.result
    return _each(
        summarise_finetuning,
        points,
        lambda i: (*at(found, (slice(None), i)), lowest[i], at(flat, i)),
    )


def _each(program: Program, count: int, arguments: Callable[[int], tuple[Any, ...]]) -> Any:
    """What `program` returns for each of so many points, stacked."""
    found = [program(*arguments(i)) for i in range(count)]
    return jax.tree.map(lambda *x: np.stack(x), *found)


def _flatten(tree, first: int, axes: int = 2):
    """Axes from `first` on, so many, as one."""

    def flatten(x):
        return np.reshape(x, (*x.shape[:first], -1, *x.shape[first + axes :]))

    return jax.tree.map(flatten, tree)


def _repeated(start: Start, count: int) -> Start:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), start)


def _reshape(summary, shape):
    """The summary of points with their axes; replicates and their orders are left out."""
    kept = eqx.tree_at(lambda s: s.replicates, summary, None)
    if isinstance(kept, Pretrained):
        kept = eqx.tree_at(lambda s: s.order, kept, None)
    return jax.tree.map(lambda x: np.asarray(x).reshape(shape), kept)
