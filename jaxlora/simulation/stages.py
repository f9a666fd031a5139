"""The two stages of an experiment: data, objective and training (theory section 1)."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..checkpoints import Checkpoint
from ..tasks import Task
from .attention import Attention
from .draws import Stream, stream_key
from .layers import GaussianLayers, Layers, TrainedLayers
from .objective import Objective
from .sets import (
    Labelled,
    draw_finetuning,
    draw_pretraining,
    finetuning_set,
    pretraining_set,
    reuse_pretraining,
)
from .setting import Setting, Sizes, sizes_of
from .starts import StageStatus, train_best
from .training import Report

Watch = Callable[[str, Report], None]


class PretrainedLayer(NamedTuple):
    """What all fine-tunings of a pre-training share.

    `W` is Ŵ; None: that of a given pre-training. `objective` is the loss (2) and `status` how its
    training went; None: a stage without training. `labelled` are the sequences to reuse, if any.
    """

    W: jax.Array | None
    labelled: Labelled | None
    objective: Objective | None
    status: StageStatus | None


class TrainedPair(NamedTuple):
    """Both trained stages of a seed, with what they were trained on.

    `layers` has √β Ŵ; `W` (D, P) is Ŵ itself, `w` (D,) and `teacher_w` (D,) are ŵ and w*.
    `statuses` are those of pre-training and fine-tuning. None: a stage without training.
    """

    layers: Layers
    W: jax.Array | None
    w: jax.Array
    teacher_w: jax.Array
    pretraining: Objective | None
    finetuning: Objective
    statuses: tuple[StageStatus | None, StageStatus | None]


class Stages:
    """What the two stages of one seed are made of, in the precision of the setting."""

    def __init__(self, task: Task, setting: Setting, seed: int):
        self.task: Task = jax.tree.map(lambda x: x.astype(setting.dtype), task)
        self.setting, self.seed = setting, seed
        self.sizes: Sizes = sizes_of(task, setting)
        keys = jax.random.split(self.key(Stream.TEACHER))
        D, dtype = setting.dimension, setting.dtype
        self.teacher_w = jax.random.normal(keys[0], (D,), dtype)
        if setting.normalise_teacher:
            self.teacher_w *= D**0.5 / jnp.linalg.norm(self.teacher_w)
        self.teacher_W = jax.random.normal(keys[1], (D, self.sizes.teacher_rank), dtype)

    def key(self, stream: Stream) -> jax.Array:
        """The key of one of the seed's streams of random numbers."""
        return stream_key(self.seed, stream)

    def pretraining_sequences(self) -> Labelled:
        """The labelled pre-training sequences."""
        sizes, dtype = self.sizes, self.setting.dtype
        key = self.key(Stream.PRETRAINING)
        return draw_pretraining(
            key, self.teacher_W, self.task.delta, sizes.samples, sizes.tokens, dtype
        )

    def pretraining(self, labelled: Labelled) -> Objective:
        """The loss (2)."""
        sizes, empirical = self.sizes, self.setting.empirical
        data = pretraining_set(labelled, self.task.activation, empirical)
        scale = jnp.asarray(1 / (sizes.dimension * sizes.rank**0.5), self.setting.dtype)
        return Objective(data, self.task.activation, self.task.lam, scale, empirical)

    def layers(self, W: jax.Array | None) -> Layers:
        """The teacher's layer and that of Ŵ, recalibrated; None: a given pre-training."""
        task = self.task
        if W is None:
            assert task.given is not None
            return GaussianLayers(*task.given, task.beta)
        zero = jnp.zeros_like(self.teacher_w)
        student = Attention(jnp.sqrt(task.beta) * W, zero, task.activation)
        teacher = Attention(self.teacher_W, self.teacher_w, task.activation)
        return TrainedLayers(teacher, student)

    def finetuning(self, layers: Layers, labelled: Labelled | None) -> Objective:
        """The loss (3), on fresh sequences or, for e = 1, on the first of `labelled`."""
        task, sizes, empirical = self.task, self.sizes, self.setting.empirical
        if labelled is not None and task.reuse:
            chosen, frozen = reuse_pretraining(labelled, layers, task.activation, sizes)
        else:
            key = self.key(Stream.FINETUNING)
            chosen, frozen = draw_finetuning(
                key, layers, task.activation, task.delta, sizes, self.setting.dtype
            )
        data = finetuning_set(chosen, frozen, self.teacher_w, task.activation, empirical)
        ridge = jnp.where(jnp.isfinite(task.lam_ft), task.lam_ft, 0)
        scale = jnp.asarray(1 / sizes.dimension, self.setting.dtype)
        return Objective(data, task.activation, ridge, scale, empirical)


def train_pair(
    task: Task,
    setting: Setting,
    seed: int,
    *,
    watch: Watch = lambda stage, report: None,
    checkpoint: Checkpoint | None = None,
) -> TrainedPair:
    """Draw the data of a seed and train both stages on it.

    `watch` is told of the progress. With a `checkpoint` an interrupted training goes on where it
    was and ends at the same numbers. Raises ValueError for a size that rounds to 0.
    """
    pretrained = pretrain(task, setting, seed, watch, checkpoint)
    stage = checkpoint and checkpoint.stage("finetuning")
    return finetune(
        pretrained, task, setting, seed, lambda report: watch("finetuning", report), stage
    )


def pretrain(
    task: Task, setting: Setting, seed: int, watch: Watch, checkpoint: Checkpoint | None
) -> PretrainedLayer:
    """Draw the data of a seed's pre-training and train W on it; as in `train_pair`."""
    if task.given is not None:
        return PretrainedLayer(None, None, None, None)
    stages = Stages(task, setting, seed)
    W = jnp.zeros((setting.dimension, stages.sizes.rank), setting.dtype)
    if not jnp.isfinite(task.lam):
        labelled = stages.pretraining_sequences() if task.reuse else None
        return PretrainedLayer(W, labelled, None, None)
    labelled = stages.pretraining_sequences()
    objective = stages.pretraining(labelled)
    W, status = train_best(
        objective,
        stages.sizes.rank,
        setting.pretraining_starts,
        stages.key(Stream.PRETRAINING_START),
        setting.training,
        lambda report: watch("pretraining", report),
        checkpoint and checkpoint.stage("pretraining"),
    )
    return PretrainedLayer(W, labelled if task.reuse else None, objective, status)


def finetune(
    pretrained: PretrainedLayer,
    task: Task,
    setting: Setting,
    seed: int,
    watch: Callable[[Report], None],
    checkpoint: Checkpoint | None,
) -> TrainedPair:
    """Draw the data of a seed's fine-tuning and train w on it, beside the layer of `pretrain`."""
    stages = Stages(task, setting, seed)
    layers = stages.layers(pretrained.W)
    objective = stages.finetuning(layers, pretrained.labelled)
    w, status = jnp.zeros((setting.dimension, 1), setting.dtype), None
    if bool(jnp.isfinite(task.lam_ft)):
        w, status = train_best(
            objective,
            1,
            setting.starts,
            stages.key(Stream.FINETUNING_START),
            setting.training,
            watch,
            checkpoint,
            informed=stages.teacher_w[:, None] if setting.informed else None,
        )
    w = w[:, 0]
    if isinstance(layers, TrainedLayers):
        layers = eqx.tree_at(lambda layers: layers.student.w, layers, w)
    return TrainedPair(
        layers,
        pretrained.W,
        w,
        stages.teacher_w,
        pretrained.objective,
        objective,
        (pretrained.status, status),
    )
