"""From a caller's arguments to a solve and back: validation, precision, frozen draws, failures."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .active import pool_factor
from .options import Options
from .outputs import ConvergenceError
from .programs import frozen
from .results import Result
from .sampling import FINETUNING, POOL, PRETRAINING, TEST, Samples, draw, draw_fields
from .stability import Stability
from .tasks import Task

TEST_FACTOR = 16  # test samples for each training sample: they need no proximal map


def harmless(task: Task) -> Task:
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


def mark_invalid(task: Task, solved):
    """NaN for every number and the result `INVALID_PARAMETER` where a parameter is invalid."""
    valid = task.is_valid()
    verdicts = {"result": Result.INVALID_PARAMETER, "stability": Stability.UNDEFINED}

    def mark(path, x):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return jnp.where(valid, x, jnp.nan)
        return jnp.where(valid, x, int(verdicts[path[-1].name])) if path[-1].name in verdicts else x

    return jax.tree_util.tree_map_with_path(mark, solved)


def prepare(task, samples, replicates, seed, options) -> tuple[Task, Samples, Options]:
    """Validated arguments of a stage: the task in its precision, fresh draws, options.

    Raises ValueError for a parameter outside its range, RuntimeError where float64 is missing.
    """
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
    return task, draw_samples(task, samples, replicates, seed, options), options


def check_numerics(samples, replicates, seed) -> None:
    """Raise ValueError for a number that makes no sense."""
    for name, value, least in (("replicates", replicates, 1), ("samples", samples, replicates)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} = {value!r}: must be an integer of at least {least}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed = {seed!r}: must be a non-negative integer")


def draw_samples(task: Task, samples, replicates, seed, options: Options) -> Samples:
    """The frozen draws of a task; raises ValueError for a number that makes no sense."""
    check_numerics(samples, replicates, seed)
    each, equivariant = samples // replicates, task.activation.is_equivariant(task.tokens)

    def drawn(source, factor: int, stream: int, *arguments) -> Any:
        count = factor * each
        normal = source(task.tokens, count, replicates, seed, stream, options.sampling, *arguments)
        return jax.tree.map(lambda x: np.asarray(x, options.precision), normal)

    factor = pool_factor(frozen(task.active_ratio))
    return Samples(
        drawn(draw_fields, 1, PRETRAINING) if task.given is None else None,
        drawn(draw, 1, FINETUNING, equivariant),
        drawn(draw, TEST_FACTOR, TEST, equivariant),
        drawn(draw_fields, factor, POOL) if factor else None,
    )


def finish(solved, throw: bool):
    """Raise for a failed solve where asked to, which needs concrete values."""
    if not throw:
        return solved
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(solved.status)):
        raise ValueError("throw = True: must be False under jit and vmap; see status")
    if failure := solved.status.failure():
        raise ConvergenceError(failure, solved)
    return solved
