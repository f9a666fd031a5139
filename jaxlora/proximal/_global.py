"""The proximal maps: the global minimum over several starts, or branches of known minima."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._implicit import Known, local_minimum

CROSSING_DISTANCE = 0.5  # of the centres' spread, within which two minima count as competing


class Minimum(NamedTuple):
    """Minimisers (n, samples), and how they were found.

    `competing_share`: share of the samples about to change to another minimum that the starts
    found; where it is 0 the map is continuous over the draws. `switched_share`: share of the
    samples whose minimum another start than the first one found. `largest_gradient`: largest
    sup-norm of the remaining gradient.
    """

    x: jax.Array
    competing_share: jax.Array
    switched_share: jax.Array
    largest_gradient: jax.Array


def local_minima(solver, starts, scale, centre, data) -> jax.Array:
    """The local minima (K, n, samples) that `solver` reaches from `starts`, without derivatives."""
    frozen = jax.lax.stop_gradient((scale, centre, data))
    return jax.lax.map(
        lambda start: local_minimum(solver, start, *frozen)[0], jax.lax.stop_gradient(starts)
    )


def lowest_minimum(problem, minima, scale, centre, data) -> Minimum:
    """The lowest of the local `minima` (K, n, samples) of each sample."""
    minima, *frozen = jax.lax.stop_gradient((minima, scale, centre, data))
    values = jax.lax.map(lambda x: problem.objective(x, *frozen), minima)
    # A start that ends beside a minimum already found has found nothing.
    eps = jnp.finfo(values.dtype).eps
    margin = 1e3 * eps**0.75 * (1 + jnp.abs(values[0]))
    best = jnp.where(jnp.min(values, axis=0) < values[0] - margin, jnp.argmin(values, axis=0), 0)
    init = jnp.take_along_axis(minima, best[None, None], axis=0)[0]
    # Moving the centre by gap/distance makes two minima change places; where that is a large part
    # of what the centres span, no sample nearby jumps.
    distance = jnp.sqrt(jnp.sum((minima - init[None]) ** 2, axis=1))
    gap = values - jnp.min(values, axis=0, keepdims=True)
    apart = distance > 10 * eps**0.25 * (1 + jnp.sqrt(jnp.sum(init**2, axis=0)))[None]
    near = gap < CROSSING_DISTANCE * distance * jnp.sqrt(jnp.mean(frozen[1] ** 2))
    switched_share = jnp.mean(best != 0, dtype=values.dtype)
    competing_share = jnp.mean(jnp.any(apart & near, axis=0), dtype=values.dtype)
    known = Minimum(init, competing_share, switched_share, jnp.zeros((), values.dtype))
    return follow_minimum(Known(problem), known, scale, centre, data)


def global_minimum(solver, starts, scale, centre, data) -> Minimum:
    """The lowest of the local minima that `solver` reaches from `starts` (K, n, samples)."""
    minima = local_minima(solver, starts, scale, centre, data)
    return lowest_minimum(solver.problem, minima, scale, centre, data)


def follow_minimum(solver, known: Minimum, scale, centre, data) -> Minimum:
    """The local minima that `solver` reaches from those of `known`, a branch per sample."""
    x, gradient = local_minimum(solver, jax.lax.stop_gradient(known.x), scale, centre, data)
    return known._replace(x=x, largest_gradient=jnp.max(gradient))


def first_branches(init: jax.Array) -> Minimum:
    """Points to follow minima from before any search."""
    zero = jnp.zeros((), init.dtype)
    return Minimum(init, zero, zero, zero)


def changed_share(old: Minimum, new: Minimum) -> jax.Array:
    """Share of the samples whose minimum is another one in `new` than in `old`."""
    distance = jnp.sum((new.x - old.x) ** 2, axis=0)
    close = 10 * jnp.finfo(new.x.dtype).eps ** 0.25
    apart = distance > close**2 * (1 + jnp.sum(old.x**2, axis=0))
    return jnp.mean(apart, dtype=new.x.dtype)
