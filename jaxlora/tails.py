"""The tail of the proximal map's responses where minima merge, averaged as what it is.

A sample's two minima merge in a cusp, where the proximal objective is x⁴/4 + a x²/2 + b x up to
coordinates and the response is X ~ −1/h with h = 3x² + a. The global minimum has P(h < t) ~
t^(5/2), so that −Tr X has a Pareto tail of index 5/2 and |X|² one of 5/4: a mean, but no variance.
"""

import jax
import jax.numpy as jnp

TRACE_INDEX, NORM_INDEX = 5 / 2, 5 / 4
# Of a replicate's samples: the share averaged as a tail, between which numbers, and by how many
# times as many it is told whether there is one.
SHARE, FEWEST, MOST, WITNESSES = 1 / 256, 4, 8, 4
# Beyond the largest x of n samples a tail of |X|² has index/(index − 1) x/n = 5 x/n of the mean.
# With 2 x/n for a standard error the 95 % interval of eight replicates, 2.4 of it, reaches as far.
UNSEEN = 2


def replace_tails(traces: jax.Array, norms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tr X = `traces` and |X|² = `norms` (n,), tails of a cusp replaced by what they average to.

    Where the largest norms follow a Pareto tail of the cusp's index, those of the tail become its
    mean index/(index − 1) times where it begins. Elsewhere, where it has not begun or there is
    none, they stay as they are, or are scaled down to that mean; between the two, by Hill's
    estimate of the index, they change smoothly.
    """
    count = min(MOST, int(SHARE * norms.shape[0]))
    if count < FEWEST:
        return traces, norms
    witnesses = WITNESSES * count
    largest = _largest(norms, witnesses)
    largest = jnp.where(largest[-1] > 0, largest, 1.0)
    hill = 1 / jnp.maximum(jnp.mean(jnp.log(largest[:-1] / largest[-1])), 1e-3)
    # In full up to one standard error above the index, not at all from three on.
    pareto = jnp.clip((3 - witnesses**0.5 * (hill / NORM_INDEX - 1)) / 2, 0, 1)

    def replace(values, index):
        largest = _largest(values, count)
        positive = largest[-1] > 0
        begin = jnp.where(positive, largest[-1], 1.0)
        most = index / (index - 1) * begin
        within = jnp.minimum(1, most / jnp.where(positive, jnp.mean(largest[:-1]), most)) * values
        tail = pareto * most + (1 - pareto) * within
        return jnp.where(positive & (values > begin), tail, values)

    return -replace(-traces, TRACE_INDEX), replace(norms, NORM_INDEX)


def unseen_norm(norms: jax.Array) -> jax.Array:
    """A standard error of the mean of |X|² = `norms` (n,) that their scatter need not show.

    Where a tail begins among samples so rare that hardly one was drawn, the scatter of those drawn
    says nothing about it. The largest norm is measured from the few after it, so that bounded ones,
    which lie close together, give none.
    """
    count = norms.shape[0]
    largest = _largest(norms, min(MOST, count - 1))
    return UNSEEN * (largest[0] - largest[-1]) / count


def _largest(values: jax.Array, count: int) -> jax.Array:
    """The `count` largest values and the next one, in descending order."""
    # XLA's fast search on CPUs is one in float32.
    return values[jax.lax.top_k(values.astype(jnp.float32), count + 1)[1]]
