"""Where an iteration is started from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Start(NamedTuple):
    """Order parameters (..., 3), and I − F' of the map they solve (..., 3, 3), NaN where unknown.

    The matrix is in the coordinates of the map.
    """

    order: Any
    matrix: Any


def from_order(order: Any) -> Start:
    """A start of which nothing else is known."""
    return Start(order, np.full((*order.shape, order.shape[-1]), np.nan, order.dtype))


def choose(usable: jax.Array, one: Start, other: Start) -> Start:
    """`one` where it is `usable` (...), else the other."""
    return Start(
        jnp.where(usable[..., None], one.order, other.order),
        jnp.where(usable[..., None, None], one.matrix, other.matrix),
    )
