"""One seed of an experiment: both stages trained and measured."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checkpoints import Checkpoint
from ..noise import effective_noise
from ..tasks import Task
from .draws import Stream, stream_key
from .layers import TrainedLayers
from .measurements import (
    MeasuredFinetuning,
    MeasuredPretraining,
    measure_finetuning,
    measure_pretraining,
    measure_test_errors,
)
from .setting import Setting
from .stages import Watch, train_pair
from .starts import StageStatus


class Outcome(NamedTuple):
    """The numbers of one seed; `eigenvalues` (D,) are those of Ŝ/√D in ascending order.

    Empty eigenvalues and a status None belong to stages that were not trained.
    """

    seed: int
    pretraining: MeasuredPretraining
    finetuning: MeasuredFinetuning
    pretraining_status: StageStatus | None
    finetuning_status: StageStatus | None
    eigenvalues: np.ndarray


def run_seed(
    task: Task,
    setting: Setting,
    seed: int,
    *,
    watch: Watch = lambda stage, report: None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train and measure both stages (1)–(3) at finite D for one seed.

    With a `checkpoint` an interrupted run goes on where it was and ends at the same numbers.
    """
    pair = train_pair(task, setting, seed, watch=watch, checkpoint=checkpoint)
    task = jax.tree.map(lambda x: x.astype(setting.dtype), task)
    errors = measure_test_errors(
        pair.layers,
        task.activation,
        pair.teacher_w,
        pair.w,
        task.delta,
        stream_key(seed, Stream.TEST),
        setting.test_samples,
        task.tokens,
    )
    if task.given is not None:
        _, Q, M = (float(x) for x in task.given)
        noise = float(effective_noise(task.teacher_variance(), Q, M, task.beta))
        error = float(errors.pretraining)
        pretraining, eigenvalues = MeasuredPretraining(Q, M, error, np.nan, noise), np.empty(0)
    else:
        assert isinstance(pair.layers, TrainedLayers)
        assert pair.W is not None
        teacher, beta, delta = pair.layers.teacher.W, float(task.beta), float(task.delta)
        pretraining = measure_pretraining(pair.pretraining, pair.W, teacher, beta, delta, errors)
        eigenvalues = _eigenvalues(pair.W)
    finetuning = measure_finetuning(pair.finetuning, pair.w, pair.teacher_w, errors)
    return Outcome(seed, pretraining, finetuning, *pair.statuses, eigenvalues)


def _eigenvalues(W) -> np.ndarray:
    """Eigenvalues of Ŝ/√D, Ŝ = Ŵ Ŵᵀ/√P, ascending."""
    D, P = W.shape
    return np.asarray(jnp.linalg.eigvalsh(W @ W.T)) / (D * P) ** 0.5
