"""Where the proximal maps are started from to find the global optimum."""

import jax
import jax.numpy as jnp

from ..activations import Activation, Identity
from ..eigen import eigh
from ._problems import Problem


def pretraining_starts(problem: Problem, scale, teacher, centre) -> jax.Array:
    """Starts (K, L, ...) for Prox: z̃ first, then z* (where the loss vanishes) and 0.

    `teacher` and `centre` are z* and z̃, both packed and divided by √s. For the identity, whose
    objective is convex, the one start is the solution (z*/T² + z̃/(4V)) / (1/T² + 1/(4V)).
    """
    if isinstance(problem.activation, Identity):
        pull = 4 * scale / problem.tokens**2
        return ((pull * teacher + centre) / (pull + 1))[None]
    return jnp.stack([centre, teacher, jnp.zeros_like(centre)])


def finetuning_starts(activation: Activation, scale, centre, spike, offset, field) -> jax.Array:
    """Starts (K, T, ...) for prox: χ̃ first, then points of the other basins.

    `spike` is χ* (T, ...), `offset` is z − q I and `field` the target's pre-activation, both
    (T, T, ...). The others are ±χ*, the best rank-one fit of the target field in both signs, 0, and
    χ̃ with one token reversed. For the identity they are χ̃, −χ̃ and the global solution.
    """
    difference = field - offset
    values, vectors = eigh(difference)
    if isinstance(activation, Identity):
        return jnp.stack([centre, -centre, _secular_root(scale, centre, values, vectors)])
    tokens = centre.shape[0]
    top = vectors[:, -1] * jnp.sqrt(jnp.maximum(values[-1:], 0.0))
    signs = 1 - 2 * jnp.eye(tokens, dtype=centre.dtype)
    reversed_token = signs.reshape((tokens, tokens) + (1,) * (centre.ndim - 1)) * centre[None]
    others = jnp.stack([centre, jnp.zeros_like(centre), spike, -spike, top, -top])
    return jnp.concatenate([others, reversed_token])


def _secular_root(scale, centre, values, vectors) -> jax.Array:
    """Global minimiser of scale·|χχᵀ − R|²_F/T² + |χ − χ̃|²/2, R given by its eigenpairs.

    Stationarity is (2|χ|² I + B) χ = b with B = T²/(2·scale) I − 2R and b = T² χ̃/(2·scale); the
    root with 2|χ|² I + B ⪰ 0 is the global one. Here both are multiplied by 2·scale/T², so that
    scale = 0 is a regular point: (1 + c (|χ|² − r)) χ = χ̃ for each eigenvalue r, c = 4·scale/T².
    """
    tokens = centre.shape[0]
    tiny = jnp.finfo(centre.dtype).tiny
    c = jnp.maximum(4 * scale / tokens**2, tiny)
    along = jnp.sum(vectors * centre[:, None], axis=0)
    norm = jnp.sqrt(jnp.sum(along**2, axis=0))

    def stretched(s):
        """χ in the eigenbasis for |χ|² = s."""
        return along / jnp.maximum(1 + c * (s[None] - values), tiny)

    # Above `low` all factors are positive and |χ|² − s falls from ≥ 0 to below 0 at `high`: the
    # factors are at least c (s − low), and at least `slack` where c r_max < 1.
    low = jnp.maximum(values[-1] - 1 / c, 0.0)
    slack = 1 - c * values[-1]
    gentle = jnp.where(slack > 0, (norm / jnp.where(slack > 0, slack, 1.0)) ** 2, jnp.inf)
    high = low + jnp.minimum((norm / c) ** (2 / 3), gentle)

    def narrow(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        above = jnp.sum(stretched(middle) ** 2, axis=0) > middle
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, 60, narrow, (low, high))
    return jnp.sum(vectors * stretched(0.5 * (low + high))[None], axis=1)
