"""predict(): both stages and every observable in one call, and each stage alone."""

import time
from typing import Any

import equinox as eqx
import jax

from .execution import finish, harmless, mark_invalid, prepare
from .options import REPLICATES, SAMPLES, Options
from .outputs import Prediction, Replicates, StandardErrors, Status
from .programs import frozen, inside_jit, is_traced, rehearse
from .sampling import Samples
from .stages import finetune, pretrain
from .summary import Finetuned, Pretrained
from .tasks import Task


def predict(
    task: Task,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    throw: bool = True,
    options: Options | None = None,
    known: Prediction | None = None,
) -> Prediction:
    """Predict a pre-training and its LoRA fine-tuning: theory sections 3–5 and 8, Results 1–5.

    The state evolutions are solved on `replicates` (8) independent sets of frozen draws, `samples`
    (2¹⁶) in all; values, all scalars, are means over them. Works under jit, and under vmap over
    any real parameter of `task`, with `throw=False`: a failed point keeps its last iterate, and
    `status` says so.

    Differentiable by every real parameter but `active_ratio`, in both modes and to any order, by
    the implicit function theorem: a gradient's memory does not grow with the iterations.
    `status.*.kinks` says where the observables are not smooth, and what derivatives leave out
    there (`Kink`). Standard errors and status have none.

    `known` is a prediction for a task nearby, from whose fixed points these are sought.

    Raises ValueError for a parameter outside its range, ConvergenceError where a solve fails and
    `throw` is set, RuntimeError where JAX runs without float64 and float32 was not asked for.
    """
    arguments = prepare(task, samples, replicates, seed, options)
    concrete = frozen(arguments[0])
    if not (is_traced(concrete) or inside_jit()):
        _compile_once(concrete, *arguments[1:])
    return finish(_predict(*arguments, known), throw)


def predict_timed(
    task: Task,
    *,
    samples: int = SAMPLES,
    replicates: int = REPLICATES,
    seed: int = 0,
    options: Options | None = None,
) -> tuple[Prediction, Any]:
    """`predict` with `throw=False`, and the seconds it took to compile and to run."""
    arguments = prepare(task, samples, replicates, seed, options)
    start = time.perf_counter()
    rehearse(_predict, *arguments)
    middle = time.perf_counter()
    prediction = jax.block_until_ready(_predict(*arguments))
    return prediction, {"compile": middle - start, "run": time.perf_counter() - middle}


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
    return finish(_pretrain(*prepare(task, samples, replicates, seed, options)), throw)


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

    `pretrained` is what `solve_pretraining` returned for as many replicates; it may be left out
    where `task.given` sets the pre-training by hand.
    """
    if pretrained is None and task.given is None:
        raise ValueError("pretrained is missing: must be solved first, or task.given set")
    if pretrained is not None and pretrained.order.shape[-2] != replicates:
        solved = pretrained.order.shape[-2]
        raise ValueError(f"replicates = {replicates}: must be those of the pre-training, {solved}")
    task, drawn, options = prepare(task, samples, replicates, seed, options)
    if pretrained is None:
        pretrained = _pretrain(task, drawn, options)
    return finish(_finetune(task, pretrained, drawn, options), throw)


_compiled: set[Any] = set()  # what predict() has compiled for, to spare warm calls the look


def _compile_once(task: Task, samples: Samples, options: Options) -> None:
    """Compile all programs for arguments of these shapes, the first time."""
    leaves, structure = jax.tree.flatten((task, samples))
    key = (structure, tuple((x.shape, x.dtype) for x in leaves), jax.tree.structure(options))
    if key not in _compiled:
        rehearse(_predict, task, samples, options)
    _compiled.add(key)


def _predict(
    task: Task, samples: Samples, options: Options, known: Prediction | None = None
) -> Prediction:
    pretrained = _pretrain(task, samples, options, known)
    return joined(pretrained, _finetune(task, pretrained, samples, options, known))


def joined(pretrained: Pretrained, finetuned: Finetuned) -> Prediction:
    """The prediction that two stages make."""
    return Prediction(
        pretrained.values,
        finetuned.values,
        StandardErrors(pretrained.stderr, finetuned.stderr),
        Status(pretrained.status, finetuned.status),
        Replicates(pretrained.replicates, finetuned.replicates),
    )


def _pretrain(task: Task, *how: Any) -> Pretrained:
    traced = is_traced(frozen(task))
    return (_pretrain_traced if traced else pretrain)(task, *how)


def _finetune(task: Task, pretrained: Pretrained, *how: Any) -> Finetuned:
    traced = is_traced(frozen((task, pretrained)))
    return (_finetune_traced if traced else finetune)(task, pretrained, *how)


# Compiled as a whole, for vmap outside of jit. Only traced parameters can be invalid here. What is
# differentiated outside of jit and vmap has concrete values and goes by the stages' own programs.
@eqx.filter_jit
def _pretrain_traced(task: Task, *how: Any) -> Pretrained:
    return mark_invalid(task, pretrain(harmless(task), *how))


@eqx.filter_jit
def _finetune_traced(task: Task, pretrained: Pretrained, *how: Any) -> Finetuned:
    return mark_invalid(task, finetune(harmless(task), pretrained, *how))
