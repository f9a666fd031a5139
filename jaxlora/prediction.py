"""predict(): both stages and every observable in one call, and each stage alone."""

from typing import Any

import equinox as eqx

from .execution import execute, finish, harmless, mark_invalid
from .options import REPLICATES, SAMPLES, Options
from .outputs import Prediction, StandardErrors, Status
from .replicates import Finetuned, Pretrained, finetune, pretrain
from .sampling import Samples
from .tasks import Task


def predict(
    task: Task,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    throw: bool = True,
    options: Options | None = None,
) -> Prediction:
    """Predict a pre-training and its LoRA fine-tuning: theory sections 3–5 and 8, Results 1–5.

    The state evolutions are solved on `replicates` independent sets of frozen draws, `samples` in
    all; values are means over them. Works under jit, and under vmap over any real parameter of
    `task`, with `throw=False`: a failed point keeps its last iterate, and `status` says so.

    Raises ValueError for a parameter outside its range, ConvergenceError where a solve fails and
    `throw` is set, RuntimeError where JAX runs without float64 and float32 was not asked for.
    """
    prediction, _ = execute(_predict, task, samples, replicates, seed, options)
    return finish(prediction, throw)


def predict_timed(
    task: Task,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    options: Options | None = None,
) -> tuple[Prediction, Any]:
    """`predict` with `throw=False`, and the seconds it took to compile and to run."""
    return execute(_predict, task, samples, replicates, seed, options, timed=True)


def solve_pretraining(
    task: Task,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    throw: bool = True,
    options: Options | None = None,
) -> Pretrained:
    """Solve the pre-training alone (theory section 4, Result 4); arguments as in `predict`."""
    pretrained, _ = execute(_pretrain, task, samples, replicates, seed, options)
    return finish(pretrained, throw)


def solve_finetuning(
    task: Task,
    pretrained: Pretrained | None = None,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    throw: bool = True,
    options: Options | None = None,
) -> Finetuned:
    """Solve the fine-tuning alone (theory section 5, Result 5); arguments as in `predict`.

    `pretrained` is what `solve_pretraining` returned for the same samples, replicates and seed; it
    may be left out where `task.given` sets the pre-training by hand.
    """
    if pretrained is None and task.given is None:
        raise ValueError("pretrained is missing: must be solved first, or task.given set")
    if pretrained is not None and pretrained.order.shape[-2] != replicates:
        solved = pretrained.order.shape[-2]
        raise ValueError(f"replicates = {replicates}: must be those of the pre-training, {solved}")
    finetuned, _ = execute(_finetune, task, samples, replicates, seed, options, pretrained)
    return finish(finetuned, throw)


@eqx.filter_jit
def _predict(task: Task, samples: Samples, options: Options) -> Prediction:
    pretrained = _pretrain(task, samples, options)
    finetuned = _finetune(task, samples, options, pretrained)
    return Prediction(
        pretrained.values,
        finetuned.values,
        StandardErrors(pretrained.stderr, finetuned.stderr),
        Status(pretrained.status, finetuned.status),
    )


@eqx.filter_jit
def _pretrain(task: Task, samples: Samples, options: Options) -> Pretrained:
    return mark_invalid(task, pretrain(harmless(task), samples, options))


@eqx.filter_jit
def _finetune(task, samples, options, pretrained: Pretrained | None) -> Finetuned:
    safe = harmless(task)
    if pretrained is None:
        pretrained = pretrain(safe, samples, options)
    return mark_invalid(task, finetune(safe, pretrained, samples, options))
