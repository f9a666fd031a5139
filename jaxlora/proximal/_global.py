"""The proximal maps: the global minimum over several starts, or branches of known minima."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..programs import platform
from ._implicit import Known, local_minimum

CROSSING_DISTANCE = 0.5  # of the centres' spread, within which two minima count as competing
PILOT, PARTS = 512, 8  # a search decides on so many samples, or one part, about the other parts


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


class LocalMinima(NamedTuple):
    """Local minima x (K, n, samples) that K starts led to, the first start's first.

    `everywhere`: whether all samples were started from all points, or the first of them at most,
    none of which had competing minima; then the others' minima are K copies of the first start's.
    """

    x: jax.Array
    everywhere: jax.Array


def local_minima(
    solver,
    starts,
    scale,
    centre,
    data,
    everywhere: bool | jax.Array = True,
    pilot: bool | jax.Array = True,
) -> LocalMinima:
    """The local minima that `solver` reaches from `starts` (K, n, samples), without derivatives.

    Unless the search is to be `everywhere`, the first start does for all samples but a pilot, the
    first `PILOT` of them at least, where the pilot has no competing minima, or without a `pilot`.
    """
    starts, scale, centre, data = jax.lax.stop_gradient((starts, scale, centre, data))
    parts = 1 if everywhere is True else _parts(centre.shape[-1])

    def split(x):
        return jnp.moveaxis(x.reshape(*x.shape[:-1], parts, -1), -2, 0)

    def descend(everywhere, part):
        pilot, starts, centre, data = part

        def from_start(k, minima):
            return minima.at[k].set(local_minimum(solver, starts[k], scale, centre, data)[0])

        count = jnp.where(everywhere | pilot, len(starts), 1)
        minima = jax.lax.fori_loop(0, count, from_start, starts)
        minima = jnp.where(everywhere | pilot, minima, minima[:1])
        everywhere |= jax.lax.cond(
            pilot & jnp.logical_not(everywhere),
            lambda: _compete(solver.problem, minima, scale, centre, data),
            lambda: jnp.array(False),
        )
        return everywhere, minima

    pilots = (jnp.arange(parts) == 0) & pilot
    inputs = (pilots, *jax.tree.map(split, (starts, centre, data)))
    everywhere = jnp.asarray(everywhere) | ((parts == 1) & jnp.asarray(pilot))
    everywhere, minima = jax.lax.scan(descend, everywhere, inputs)
    return LocalMinima(jnp.moveaxis(minima, 0, -2).reshape(starts.shape), everywhere)


def _parts(samples: int) -> int:
    """Into how many equal parts of at least `PILOT` samples a search is divided.

    One off a CPU, where parts in turn take as long as all of them at once.
    """
    if platform() != "cpu":
        return 1
    most = max(1, min(PARTS, samples // PILOT))
    return next(parts for parts in range(most, 0, -1) if samples % parts == 0)


def lowest_minimum(problem, minima: LocalMinima, scale, centre, data) -> Minimum:
    """The lowest of the local `minima` of each sample."""
    minima, *frozen = jax.lax.stop_gradient((minima, scale, centre, data))
    zero = jnp.zeros((), minima.x.dtype)

    def lowest():
        best, competing = _compare(problem, minima.x, *frozen)
        x = jnp.take_along_axis(minima.x, best[None, None], axis=0)[0]
        competing_share = jnp.mean(competing, dtype=zero.dtype)
        return Minimum(x, competing_share, jnp.mean(best != 0, dtype=zero.dtype), zero)

    # Where the pilot had no others, the first is the lowest.
    only = Minimum(minima.x[0], zero, zero, zero)
    known = jax.lax.cond(minima.everywhere, lowest, lambda: only)
    return follow_minimum(Known(problem), known, scale, centre, data)


def _compete(problem, minima, scale, centre, data) -> jax.Array:
    """Whether of any sample the first minimum is not the lowest, or about not to be."""
    best, competing = _compare(problem, minima, scale, centre, data)
    return jnp.any(competing | (best != 0))


def _compare(problem, minima, scale, centre, data) -> tuple[jax.Array, jax.Array]:
    """Which of the minima (K, n, samples) is lowest, and where another is about to be."""
    values = jax.lax.map(lambda x: problem.objective(x, scale, centre, data), minima)
    # A start that ends beside a minimum already found has found nothing.
    eps = jnp.finfo(values.dtype).eps
    margin = 1e3 * eps**0.75 * (1 + jnp.abs(values[0]))
    best = jnp.where(jnp.min(values, axis=0) < values[0] - margin, jnp.argmin(values, axis=0), 0)
    lowest = jnp.take_along_axis(minima, best[None, None], axis=0)
    # Moving the centre by gap/distance makes two minima change places; where that is a large part
    # of what the centres span, no sample nearby jumps.
    distance = jnp.sqrt(jnp.sum((minima - lowest) ** 2, axis=1))
    gap = values - jnp.min(values, axis=0, keepdims=True)
    apart = distance > 10 * eps**0.25 * (1 + jnp.sqrt(jnp.sum(lowest[0] ** 2, axis=0)))[None]
    near = gap < CROSSING_DISTANCE * distance * jnp.sqrt(jnp.mean(centre**2))
    return best, jnp.any(apart & near, axis=0)


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
