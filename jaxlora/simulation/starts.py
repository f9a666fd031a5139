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
    that did over the smallest, minus 1. `slack` is that of `Trained`.
    """

    converged: bool
    gradient: float
    iterations: int
    evaluations: int
    starts: int
    unconverged: int
    spread: float
    slack: float


def train_best(
    objective: Objective,
    columns: int,
    starts: int,
    key: jax.Array,
    training: Training,
    watch: Callable[[Report], None],
    checkpoint: Checkpoint | None,
) -> tuple[jax.Array, StageStatus]:
    """The factor (D, columns) of lowest loss over random starts, others for those that fail."""
    inputs = objective.data.inputs
    runs: list[Trained] = []
    for attempt in range(starts + EXTRA_STARTS):
        if sum(run.converged for run in runs) >= starts:
            break
        start = jax.random.normal(
            jax.random.fold_in(key, attempt), (inputs.shape[2], columns), inputs.dtype
        )
        runs.append(_train_once(objective, start, training, watch, checkpoint, attempt))
    best = min(runs, key=lambda run: (not run.converged, run.value))
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
    )
    return best.factor, status


def _train_once(objective, start, training, watch, checkpoint, attempt: int) -> Trained:
    if checkpoint is None:
        return train(objective, start, training, watch=watch)
    one = checkpoint.stage(f"start{attempt}")
    if (done := one.load("trained")) is not None:
        numbers = {k: v.item() for k, v in done.items() if k != "factor"}
        return Trained(jnp.asarray(done["factor"]), **numbers)
    trained = train(
        objective,
        start,
        training,
        watch=watch,
        saved=one.load("place"),
        save=lambda place: one.save("place", place, at_most_every=SAVE_SECONDS),
    )
    one.save("trained", {k: np.asarray(v) for k, v in trained._asdict().items()})
    return trained
