"""Where the state evolutions are started from: afresh, or from the solution of another task."""

import jax
import jax.numpy as jnp

from .finetuning import APART, STARTS
from .laws import conditional_variance
from .outputs import Prediction
from .programs import frozen
from .tasks import Task

PRETRAINING_START = (1.0, 0.5, 1.0)  # (Q, M, V)
LEAST_GUESS = 1e-4  # of q, for a solution to start another one


def pretraining_start(task: Task, known: Prediction | None) -> jax.Array:
    """(Q, M, V) to start from: those of `known`, where there are any that `task` can have."""
    if known is None:
        return jnp.asarray(PRETRAINING_START, task.delta.dtype)
    values = known.pretraining
    return pretraining_start_from(task, frozen(jnp.stack([values.Q, values.M, values.V])))


def pretraining_start_from(task: Task, order: jax.Array) -> jax.Array:
    """(Q, M, V) = `order` of another task, where `task` can have them."""
    fresh = jnp.asarray(PRETRAINING_START, task.delta.dtype)
    Q, M, V = order
    rest = conditional_variance(frozen(task.teacher_variance()), M, Q)
    usable = (Q > 0) & (M > 0) & (V > 0) & (rest > 0)
    return jnp.where(usable, order.astype(fresh.dtype), fresh)


def finetuning_starts(task: Task, known: Prediction | None) -> jax.Array:
    """(q, m, v) of every branch (2, 3) to start from: those of `known` but for ŵ = 0."""
    if known is None:
        return jnp.asarray(list(STARTS.values()), task.delta.dtype)
    branches = known.finetuning.branches
    orders = frozen(jnp.stack([jnp.stack([b.q, b.m, b.v]) for b in branches]))
    return finetuning_starts_from(task, orders)


def finetuning_starts_from(task: Task, orders: jax.Array) -> jax.Array:
    """The branches (q, m, v) = `orders` (2, 3) of another task, but for ŵ = 0.

    Where they have met, the second is sought afresh: it may be another one again.
    """
    fresh = jnp.asarray(list(STARTS.values()), task.delta.dtype)
    met = jnp.sum(jnp.abs(orders[0] - orders[1])[:2]) <= APART
    usable = (orders[:, :1] > LEAST_GUESS) & ~(met & jnp.array([[False], [True]]))
    return jnp.where(usable, orders.astype(fresh.dtype), fresh)
