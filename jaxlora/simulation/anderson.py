"""Anderson's extrapolation of a fixed-point iteration from its last points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MEMORY = 6  # points to extrapolate from


class History(NamedTuple):
    """What the last maps x → f(x) gave: `points` f(x) and `changes` f(x) − x, `MEMORY` of each."""

    points: Any
    changes: Any
    count: jax.Array


def no_history(like: Any) -> History:
    """The history before the first of the points, which are pytrees like `like`."""
    empty = jax.tree.map(lambda x: jnp.zeros((MEMORY, *x.shape), x.dtype), like)
    return History(empty, empty, jnp.zeros((), int))


def extrapolate(history: History, before: Any, after: Any) -> tuple[Any, History]:
    """The combination of the last points whose combined change is least, and the history.

    `before` is mapped to `after`, which joins the history.
    """
    at = jnp.mod(history.count, MEMORY)

    def put(items, item):
        return jax.tree.map(lambda items, item: items.at[at].set(item), items, item)

    points = put(history.points, after)
    changes = put(history.changes, jax.tree.map(jnp.subtract, after, before))
    others = (jnp.arange(MEMORY) <= history.count) & (jnp.arange(MEMORY) != at)
    weights = _weights(changes, at, others)

    def combined(x):
        return x[at] + jnp.tensordot(weights, x - x[at][None], axes=1, precision="highest")

    return jax.tree.map(combined, points), History(points, changes, history.count + 1)


def _weights(changes, at, others) -> jax.Array:
    """The weights (MEMORY,) of the `others`' differences from the change `at`."""
    differences = jax.tree.map(lambda x: (x - x[at][None]).reshape(MEMORY, -1), changes)

    def overlaps(x):
        return jnp.matmul(x, x.T, precision="highest")

    def slopes(x, change):
        return jnp.matmul(x, change[at].ravel(), precision="highest")

    matrix = sum(jax.tree.leaves(jax.tree.map(overlaps, differences)))
    vector = sum(jax.tree.leaves(jax.tree.map(slopes, differences, changes)))
    matrix = jnp.where(others[:, None] & others[None], matrix, 0)
    finfo = jnp.finfo(matrix.dtype)
    floor = finfo.eps**0.5 * jnp.trace(matrix) + finfo.tiny
    return -jnp.linalg.solve(
        matrix + jnp.diag(jnp.where(others, floor, 1)), jnp.where(others, vector, 0)
    )
