"""Training from several random initialisations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoints import SAVE_SECONDS, Checkpoint
from .objective import Objective
from .training import Report, Trained, Training, train

EXTRA_STARTS = 2  # initialisations more than asked for, where some do not converge


class StageStatus(NamedTuple):
    """How a stage's training went: of the start that was kept, and over all of them.

    `gradient` is the root-mean-square gradient per weight, `evaluations` those of the loss and its
    gradient, `unconverged` how many starts did not converge, `spread` the largest loss of those
    that did over the smallest, minus 1. `slack` is that of `Trained`. `informed`: from w* training
    ended at a lower loss than from all random starts, and that is what was kept.
    """

    converged: bool
    gradient: float
    iterations: int
    evaluations: int
    starts: int
    unconverged: int
    spread: float
    slack: float
    informed: bool


def train_best(
    objective: Objective,
    columns: int,
    starts: int,
    key: jax.Array,
    training: Training,
    watch: Callable[[Report], None],
    checkpoint: Checkpoint | None,
    informed: jax.Array | None = None,
) -> tuple[jax.Array, StageStatus]:
    """The factor (D, columns) of lowest loss over random starts, others for those that fail.

    `informed` is one more start, kept only where it makes a difference.
    """
    inputs = objective.data.inputs
    runs: list[Trained] = []
    for attempt in range(starts + EXTRA_STARTS):
        if sum(run.converged for run in runs) >= starts:
            break
        start = jax.random.normal(
            jax.random.fold_in(key, attempt), (inputs.shape[2], columns), inputs.dtype
        )
        runs.append(_train_once(objective, start, training, watch, checkpoint, f"start{attempt}"))
    best = min(runs, key=lambda run: (not run.converged, run.value))
    lower = False
    if informed is not None:
        runs.append(_train_once(objective, informed, training, watch, checkpoint, "informed"))
        # The same minimum to within what training leaves is not another.
        least = best.value * (1 - float(jnp.finfo(inputs.dtype).eps) ** 0.5)
        lower = (not runs[-1].converged, runs[-1].value) < (not best.converged, least)
        best = runs[-1] if lower else best
    values = [run.value for run in runs if run.converged]
    status = StageStatus(
        best.converged,
        best.gradient,
        best.iterations,
        best.evaluations,
        len(runs),
        sum(not run.converged for run in runs),
        max(values) / min(values) - 1 if values else float("nan"),
        best.slack,
        lower,
    )
    return best.factor, status


def _train_once(objective, start, training, watch, checkpoint, name: str) -> Trained:
    if checkpoint is None:
        return train(objective, start, training, watch=watch)
    one = checkpoint.stage(name)
    if (done := one.load("trained")) is not None:
        numbers = {k: v.item() for k, v in done.items() if k != "factor"}
        return Trained(jnp.asarray(done["factor"]), **numbers)
    trained = train(
        objective,
        start,
        training,
        watch=watch,
        saved=one.load("segment"),
        save=lambda place: one.save("segment", place, at_most_every=SAVE_SECONDS),
    )
    one.save("trained", {k: np.asarray(v) for k, v in trained._asdict().items()})
    return trained
