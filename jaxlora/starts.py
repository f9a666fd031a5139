"""Where the state evolutions are started from: afresh, or from the solution of another task."""

import jax
import jax.numpy as jnp
import numpy as np

from .finetuning import APART, STARTS
from .laws import conditional_variance
from .outputs import Prediction
from .programs import Program, frozen
from .start import Start, choose, from_order
from .tasks import Task

PRETRAINING_START = (1.0, 0.5, 1.0)  # (Q, M, V)
LEAST_GUESS = 1e-4  # of q, for a solution to start another one as it is
BESIDE_ZERO = (1e-2, 7e-2)  # (q, m) to start from in place of smaller ones

Numbers = tuple[jax.Array, jax.Array, jax.Array]


def pretraining_start(task: Task, known: Prediction | None) -> Start:
    """(Q, M, V) to start from: those of `known`, where there are any that `task` can have."""
    if known is None:
        return from_order(np.asarray(PRETRAINING_START, task.delta.dtype))
    values = known.pretraining
    return _pretraining_start_at(*frozen((task, (values.Q, values.M, values.V))))


@Program
def _pretraining_start_at(task: Task, order: Numbers) -> Start:
    return pretraining_start_from(task, from_order(jnp.stack(order).astype(task.delta.dtype)))


def pretraining_start_from(task: Task, found: Start) -> Start:
    """What was `found` for another task, where `task` can have it."""
    Q, M, V = found.order
    rest = conditional_variance(frozen(task.teacher_variance()), M, Q)
    usable = (Q > 0) & (M > 0) & (V > 0) & (rest > 0)
    return choose(usable, found, pretraining_start(task, None))


def finetuning_starts(task: Task, known: Prediction | None) -> Start:
    """(q, m, v) of every branch (2, 3) to start from: those of `known`, where there are any."""
    if known is None:
        return from_order(np.asarray(list(STARTS.values()), task.delta.dtype))
    orders = [(branch.q, branch.m, branch.v) for branch in known.finetuning.branches]
    return _finetuning_starts_at(*frozen((task, orders)))


@Program
def _finetuning_starts_at(task: Task, orders: list[Numbers]) -> Start:
    order = jnp.stack([jnp.stack(order) for order in orders])
    return finetuning_starts_from(task, from_order(order.astype(task.delta.dtype)))


def finetuning_starts_from(task: Task, found: Start, seek: bool | jax.Array = True) -> Start:
    """The branches `found` for another task (2, 3), afresh where v is not above 0.

    Where they have met, the other is sought afresh, as it may be another one again, or unless
    `seek` taken to be the same. The other is the second, next to ŵ = 0 the informed first.
    """
    fresh = finetuning_starts(task, None)
    known, collapsed = found.order[:, 2] > 0, found.order[0, 0] <= LEAST_GUESS
    met = jnp.all(known) & (jnp.sum(jnp.abs(found.order[0] - found.order[1])[:2]) <= APART)
    starts = choose(known, beside_zero(found), fresh)
    same = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), starts)
    other = met & (jnp.array([True, False]) == collapsed)
    return choose(other, choose(jnp.asarray(seek), fresh, same), starts)


def beside_zero(found: Start) -> Start:
    """`found`, moved a little away from ŵ = 0 where it is there.

    The map hardly moves next to ŵ = 0, even that of another task or replicate which leads away.
    """
    _, _, v = jnp.moveaxis(found.order, -1, 0)
    beside = jnp.stack([jnp.full_like(v, x) for x in BESIDE_ZERO] + [v], axis=-1)
    return choose(found.order[..., 0] > LEAST_GUESS, found, Start(beside, found.matrix))
