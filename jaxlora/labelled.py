"""The sequences that the fine-tuning labels: fresh or reused, all or selected (theory 5 and 8)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from . import pretraining
from .active import choose
from .finetuning import SideFields
from .laws import correlated
from .options import Options
from .proximal import Minimum
from .sampling import Draws, FieldDraws
from .symmetric import root_weights, unpack
from .tasks import Task


class Labelled(NamedTuple):
    """Which candidates a replicate labels, (n,), or None for all, and Prox on them where e = 1."""

    chosen: jax.Array | None
    reused: Minimum | None


def choose_sequences(
    task: Task, order, draws: Draws, pool: FieldDraws | None, options: Options
) -> Labelled:
    """Algorithm 1's choice among the candidates of one replicate, and Prox on reused ones.

    The choice is a hard threshold: it has no derivative.
    """
    reused = _search(task, order, draws if pool is None else pool, options)
    if pool is None:
        return Labelled(None, reused)
    student = _student(task, order, pool, reused, options)
    chosen = choose(task.activation, task.active_ratio, student, draws.weights.shape[-1])
    if reused is not None:
        reused = reused._replace(x=reused.x[:, chosen])
    return Labelled(chosen, reused)


def labelled_fields(
    task: Task, order, draws: Draws, pool: FieldDraws | None, labelled: Labelled, options: Options
) -> SideFields:
    """(z*, z) on the labelled sequences: under Q, or under R for e = 1."""
    source = draws
    if pool is not None:
        first, second = (x[:, labelled.chosen] for x in (pool.first, pool.second))
        source = FieldDraws(first, second, draws.weights)
    teacher, student = _packed_fields(task, order, source, labelled.reused, options)
    return SideFields(_matrices(task, teacher), _matrices(task, task.beta * student))


def candidate_fields(task: Task, order, candidates: FieldDraws, options: Options) -> jax.Array:
    """z (T, T, n), the frozen layer's pre-activations on sequences that may be labelled."""
    reused = _search(task, order, candidates, options)
    return _student(task, order, candidates, reused, options)


def _search(task: Task, order, source: FieldDraws, options: Options) -> Minimum | None:
    """Prox on the draws `source` for e = 1."""
    if not task.reuse:
        return None
    return pretraining.StateEvolution(task, source, options).search(order)


def _student(task: Task, order, source: FieldDraws, reused: Minimum | None, options: Options):
    _, student = _packed_fields(task, order, source, reused, options)
    return _matrices(task, task.beta * student)


def _packed_fields(task: Task, order, source: FieldDraws, reused: Minimum | None, options: Options):
    """(z*, z)/√s on the draws `source`, with Prox `reused` on them for e = 1."""
    Q, M, V = order
    teacher, student = correlated(task.teacher_variance(), M, Q, source.first, source.second)
    if reused is not None:
        minimum = pretraining.StateEvolution(task, source, options).known(order, reused)
        student = jnp.where(V > 0, minimum.x, 0.0)
    return teacher, student


def _matrices(task: Task, packed) -> jax.Array:
    """The fields (T, T, n) that `packed`, divided by √s, stand for."""
    return unpack(root_weights(task.tokens, packed) * packed, task.tokens)
