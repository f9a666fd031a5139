"""predict(): both stages and every observable in one call, and each stage alone."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .active import pool_factor
from .options import Options
from .outputs import ConvergenceError, Prediction, StandardErrors, Status
from .replicates import Finetuned, Pretrained, Samples, finetune, pretrain
from .results import Result
from .sampling import POOL, TEST, TRAIN, draw
from .tasks import Task

TEST_FACTOR = 8  # test samples for each training sample: they need no proximal map


def predict(
    task: Task,
    *,
    samples: int = 2**15,
    replicates: int = 8,
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
    prediction, _ = _run(_predict, task, samples, replicates, seed, options)
    return _finish(prediction, throw)


def predict_timed(
    task: Task,
    *,
    samples: int = 2**15,
    replicates: int = 8,
    seed: int = 0,
    options: Options | None = None,
) -> tuple[Prediction, Any]:
    """`predict` with `throw=False`, and the seconds it took to compile and to run."""
    return _run(_predict, task, samples, replicates, seed, options, timed=True)


def solve_pretraining(
    task: Task,
    *,
    samples: int = 2**15,
    replicates: int = 8,
    seed: int = 0,
    throw: bool = True,
    options: Options | None = None,
) -> Pretrained:
    """Solve the pre-training alone (theory section 4, Result 4); arguments as in `predict`."""
    pretrained, _ = _run(_pretrain, task, samples, replicates, seed, options)
    return _finish(pretrained, throw)


def solve_finetuning(
    task: Task,
    pretrained: Pretrained | None = None,
    *,
    samples: int = 2**15,
    replicates: int = 8,
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
    finetuned, _ = _run(_finetune, task, samples, replicates, seed, options, pretrained)
    return _finish(finetuned, throw)


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
    return _mark_invalid(task, pretrain(_harmless(task), samples, options))


@eqx.filter_jit
def _finetune(task, samples, options, pretrained: Pretrained | None) -> Finetuned:
    safe = _harmless(task)
    if pretrained is None:
        pretrained = pretrain(safe, samples, options)
    return _mark_invalid(task, finetune(safe, pretrained, samples, options))


def _harmless(task: Task) -> Task:
    """The task itself, or where a traced parameter is invalid one that solves without trouble."""
    valid = task.is_valid()
    harmless = dict.fromkeys(("kappa0", "kappa", "alpha", "delta", "alpha_ft"), 1.0)
    harmless |= {"lam": jnp.inf, "lam_ft": jnp.inf, "beta": 1.0, "active_ratio": 1.0}

    def choose(path, x):
        key = path[0]
        # Q0 = Q = 1 and M = 0 are a valid given pre-training.
        default = harmless[key.name] if len(path) == 1 else (1.0, 1.0, 0.0)[path[1].idx]
        return jnp.where(valid, x, jnp.asarray(default, x.dtype))

    return jax.tree_util.tree_map_with_path(choose, task)


def _mark_invalid(task: Task, solved):
    """NaN for every number and the result `INVALID_PARAMETER` where a parameter is invalid."""
    valid = task.is_valid()

    def mark(x):
        floating = jnp.issubdtype(x.dtype, jnp.inexact)
        return jnp.where(valid, x, jnp.nan if floating else int(Result.INVALID_PARAMETER))

    return jax.tree.map(mark, solved)


def _run(function, task, samples, replicates, seed, options, *extra, timed=False):
    """Call a jitted stage on validated arguments and fresh draws, with the seconds it took."""
    task.check()
    options = options or Options()
    dtype = jnp.dtype(options.precision)
    if dtype == jnp.float64 and jnp.zeros(()).dtype != dtype:
        raise RuntimeError(
            "jaxlora needs float64: call jax.config.update('jax_enable_x64', True) before making "
            "a Task, or ask for less with options=jaxlora.Options.single()"
        )
    if any(leaf.dtype != dtype for leaf in jax.tree.leaves(task)):
        if dtype == jnp.float64:
            raise RuntimeError("this Task was made without float64: make it after enabling x64")
        task = jax.tree.map(lambda x: x.astype(dtype), task)
    if any(leaf.ndim for leaf in jax.tree.leaves(task)):
        raise ValueError("the parameters of a task must be scalars: vmap predict over arrays")
    arguments = (task, _draws(task, samples, replicates, seed, options), options, *extra)
    if not timed:
        return function(*arguments), None
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    middle = time.perf_counter()
    output = jax.block_until_ready(compiled(*arguments))
    return output, {"compile": middle - start, "run": time.perf_counter() - middle}


def _draws(task: Task, samples, replicates, seed, options: Options) -> Samples:
    for name, value, least in (("replicates", replicates, 1), ("samples", samples, replicates)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} = {value!r}: must be an integer of at least {least}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed = {seed!r}: must be a non-negative integer")
    each = samples // replicates

    def drawn(factor: int, stream: int) -> Any:
        normal = draw(task.tokens, factor * each, replicates, seed, stream, options.sampling)
        return jax.tree.map(lambda x: jnp.asarray(x, options.precision), normal)

    factor = pool_factor(task.active_ratio)
    pool = drawn(factor, POOL) if factor else None
    return Samples(drawn(1, TRAIN), drawn(TEST_FACTOR, TEST), pool)


def _finish(solved, throw: bool):
    """Raise for a failed solve where asked to, which needs concrete values."""
    if not throw:
        return solved
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(solved.status)):
        raise ValueError("throw = True: must be False under jit, vmap and grad; see status")
    if failure := solved.status.failure():
        raise ConvergenceError(failure, solved)
    return solved
