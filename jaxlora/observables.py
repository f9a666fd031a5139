"""Test errors of the two trained layers, averages under Q and Q' that need no proximal map."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .laws import correlated
from .sampling import Draws
from .symmetric import identity_like, root_weights, unpack
from .tasks import Task


class Errors(NamedTuple):
    """E (55), E' (73), forgetting E'' (84) and the frozen layer's E' (79), for one replicate."""

    pretraining: jax.Array
    finetuning: jax.Array
    forgetting: jax.Array
    frozen: jax.Array


def side_fields(task: Task, Q, M, draws: Draws) -> tuple[jax.Array, jax.Array]:
    """(z*, z) ~ Q (13) as matrices (T, T, n)."""
    packed = correlated(task.teacher_variance(), M, Q, draws.first, draws.second)
    root = root_weights(task.tokens, packed[0])
    return unpack(root * packed[0], task.tokens), unpack(root * packed[1], task.tokens)


def evaluate(task: Task, Q, M, q, m, draws: Draws) -> Errors:
    """All test errors at (Q, M, q, m), the frozen layer recalibrated by β."""
    teacher, student = side_fields(task, Q, M, draws)
    student = task.beta * student
    spike, rank_one = correlated(jnp.ones_like(q), m, q, draws.spike, draws.noise)
    eye = identity_like(teacher)
    sigma, loss = task.activation, task.activation.loss
    before = sigma(teacher)
    after = sigma(teacher + spike[:, None] * spike[None] - eye)
    adapted = student + rank_one[:, None] * rank_one[None] - q * eye

    return Errors(
        draws.mean(loss(student, before)),
        draws.mean(loss(adapted, after)),
        draws.mean(loss(adapted, before)),
        draws.mean(loss(student, after)),
    )
