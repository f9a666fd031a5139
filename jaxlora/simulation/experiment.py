"""One seed of an experiment: both stages trained and measured."""

import functools
from collections.abc import Iterator, Sequence
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
    mean_loss,
    measure_finetuning,
    measure_pretraining,
    measure_test_errors,
)
from .setting import Setting
from .stages import PretrainedLayer, TrainedPair, Watch, finetune, pretrain
from .starts import StageStatus


class Outcome(NamedTuple):
    """The numbers of one seed; `eigenvalues` (D,) are those of Ŝ/√D in ascending order.

    A stage that was not trained has the status None. The eigenvalues are empty for a given
    pre-training, and 0 for λ = ∞.
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
    Arguments are taken to be checked, as `simulate` does.
    """
    (outcome,) = run_finetunings([task], setting, seed, watch=watch, checkpoint=checkpoint)
    return outcome


def run_finetunings(
    tasks: Sequence[Task],
    setting: Setting,
    seed: int,
    *,
    watch: Watch = lambda stage, report: None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Outcome]:
    """As `run_seed` for each of `tasks`, which share their pre-training, with the same numbers.

    W is trained once, and the data of one fine-tuning are held at a time.
    """
    pretrained = pretrain(tasks[0], setting, seed, watch, checkpoint)
    measured = _MeasuredLayer(pretrained)
    for i, task in enumerate(tasks):
        words = "finetuning" if len(tasks) == 1 else f"finetuning {i + 1} of {len(tasks)}"
        stage = checkpoint and checkpoint.stage(f"finetuning{i}")
        told = functools.partial(watch, words)
        # Not in a variable: it would live on beside the next.
        yield _outcome(
            finetune(pretrained, task, setting, seed, told, stage), measured, task, setting, seed
        )


class _MeasuredLayer:
    """The numbers of a pre-trained layer that do not depend on the fine-tuning but for β."""

    def __init__(self, pretrained: PretrainedLayer):
        self.W, self.objective = pretrained.W, pretrained.objective
        self.eigenvalues = np.empty(0) if self.W is None else _eigenvalues(self.W)
        self.train_errors: dict[float, float] = {}

    def train_error(self, beta: float) -> float:
        """E_train of the recalibrated layer."""
        if self.objective is None:
            return np.nan
        # functools.cache on a method would hold the layer's data until a collection of cycles.
        if beta not in self.train_errors:
            self.train_errors[beta] = mean_loss(self.objective, beta**0.5 * self.W)
        return self.train_errors[beta]


def _outcome(
    pair: TrainedPair, layer: _MeasuredLayer, task: Task, setting: Setting, seed: int
) -> Outcome:
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
        pretraining = MeasuredPretraining(Q, M, float(errors.pretraining), np.nan, noise)
    else:
        assert isinstance(pair.layers, TrainedLayers)
        teacher, beta, delta = pair.layers.teacher.W, float(task.beta), float(task.delta)
        train_error = layer.train_error(beta)
        pretraining = measure_pretraining(pair.W, teacher, beta, delta, train_error, errors)
    finetuning = measure_finetuning(pair.finetuning, pair.w, pair.teacher_w, errors)
    return Outcome(seed, pretraining, finetuning, *pair.statuses, layer.eigenvalues)


def _eigenvalues(W) -> np.ndarray:
    """Eigenvalues of Ŝ/√D, Ŝ = Ŵ Ŵᵀ/√P, ascending."""
    D, P = W.shape
    return np.asarray(jnp.linalg.eigvalsh(W @ W.T)) / (D * P) ** 0.5
