"""Fixed points of averages over proximal maps that have several minima (theory section 3).

With the global minimum taken in every evaluation the map jumps by O(1/n) whenever a sample changes
its minimum, and no iteration converges. So each sample's branch is followed while the fixed point
is solved, then all minima are sought anew; where some changed it is solved again from there. Where
that leads nowhere, because the followed branches leave out too much, a few plain damped steps with
all minima sought anew come in between.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .fixed_point import relative_size, solve_fixed_point
from .proximal import LocalMinima, Minimum, changed_share, first_branches
from .results import Result

ROUNDS = 64
PATIENT_ROUNDS = 8  # that aim at `tol` and may raise the residual; later ones take `jump_tol`
PLAIN_STEPS, PLAIN_LENGTH = 8, 0.2
NEARBY = 0.1  # relative change of x up to which minima are sought next to those known before
ROUGH = 1e-2  # residual to which branches are followed that are about to change by more than NEARBY


class BranchedMap(eqx.Module):
    """A map F(x), for x of shape (k,), that averages over proximal maps."""

    @abc.abstractmethod
    def __call__(self, x: jax.Array, minimum: Minimum) -> jax.Array:
        """F(x), given the minima of the samples at x."""

    @abc.abstractmethod
    def starts(self, x: jax.Array) -> jax.Array:
        """Points (K, n, samples) from which to look for all minima at x."""

    @abc.abstractmethod
    def descend(
        self,
        x: jax.Array,
        starts: jax.Array,
        everywhere: bool | jax.Array,
        pilot: bool | jax.Array = True,
    ) -> LocalMinima:
        """The local minima at x that `starts` (K, n, samples) lead to (see `local_minima`).

        Neither `everywhere` nor with a `pilot` it follows the minima that the first starts are.
        """

    @abc.abstractmethod
    def lowest(self, x: jax.Array, minima: LocalMinima) -> Minimum:
        """The lowest of the local minima at x of each sample."""

    def search(self, x: jax.Array) -> Minimum:
        """The global minima at x, from all starts."""
        return self.lowest(x, self.descend(x, self.starts(x), True))


class BranchedFixedPoint(eqx.Module):
    """A fixed point on followed branches, and what taking the global minima anew would change.

    `matrix` is I − F' there. `switching_jump` is the undamped residual with all global minima taken
    anew at `value`. `switched_share` is the share of samples whose minimum changed in that
    search, or the plain start would have missed if that is more; `largest_gradient` is what that
    search left of the gradients.
    """

    value: jax.Array
    matrix: jax.Array
    residual: jax.Array
    iterations: jax.Array
    switching_jump: jax.Array
    switched_share: jax.Array
    largest_gradient: jax.Array

    def result(self, tolerance: float, jump_tolerance: float) -> jax.Array:
        """The `Result` of this solve."""
        finite = jnp.all(jnp.isfinite(self.value)) & jnp.isfinite(self.residual)
        settled = jnp.where(
            self.switching_jump <= jump_tolerance, Result.CONVERGED, Result.SWITCHING
        )
        reached = jnp.where(self.residual <= tolerance, settled, Result.NOT_CONVERGED)
        return jnp.where(finite, reached, Result.NON_FINITE)


class Solved(NamedTuple):
    """A fixed point, and the minima of the samples on the branches that were followed to it."""

    fixed_point: BranchedFixedPoint
    minimum: Minimum


class _Search(eqx.Module):
    """All local minima found last, and the points x of searches from other starts than the first.

    `origin` is where all starts were used on every sample. That is NaN as long as neither a pilot
    nor a change of minima has shown that any compete. Once one has, all starts are used to the end:
    rounds that used them in turn would jump to and fro. `cleared` is where the last pilot was: as
    long as none compete, it has shown that none nearby are about to.
    """

    found: LocalMinima
    origin: jax.Array
    cleared: jax.Array

    def minima(self, function: BranchedMap, x, known: Minimum, anew) -> LocalMinima:
        """The minima at x next to those `known`, or all of them `anew`.

        Anew from those found last where x is near the origin, else from scratch, and without a
        pilot where x is near the last one.
        """
        nearby, cleared = self._near(x)
        alone = cleared & ~self.found.everywhere
        shape = self.found.x.shape
        starts = jax.lax.switch(
            jnp.where(anew, jnp.where(nearby, 1, jnp.where(alone, 2, 3)), 0),
            (
                lambda: jnp.broadcast_to(known.x, shape),
                lambda: self.found.x,
                # XLA leaves out what makes the others.
                lambda: jnp.broadcast_to(function.starts(x)[:1], shape),
                lambda: function.starts(x),
            ),
        )
        return function.descend(x, starts, self.found.everywhere & anew, ~cleared & anew)

    def renewed(self, x: jax.Array, found: LocalMinima) -> "_Search":
        """After all minima were `found` anew at x."""
        nearby, cleared = self._near(x)
        origin = jnp.where(found.everywhere & ~nearby, x, self.origin)
        return _Search(found, origin, jnp.where(cleared, self.cleared, x))

    def _near(self, x: jax.Array) -> list[jax.Array]:
        """Whether x is near the origin, and near where the last pilot was."""
        points = (self.origin, self.cleared)
        return [jnp.all(jnp.abs(x - point) <= NEARBY * jnp.abs(point)) for point in points]

    def widened(self, competing: jax.Array) -> "_Search":
        """The same, to use all starts from now on where minima are known to compete."""
        everywhere = self.found.everywhere | competing
        return eqx.tree_at(lambda search: search.found.everywhere, self, everywhere)


def solve_on_branches(
    function: BranchedMap,
    x: jax.Array,
    feasible: Callable[[jax.Array], jax.Array],
    *,
    matrix: jax.Array | None = None,
    tol: float,
    jump_tol: float,
    floor: float,
    max_iterations: int,
    everywhere: bool = False,
    **options: Any,
) -> Solved:
    """Solve x = F(x) for F the map `function` with the global minimum of every sample.

    The solution carries no derivatives (see `as_root`). Ends when taking all minima anew leaves the
    residual below `tol`, after a few rounds below `jump_tol`. All starts are used on every sample
    if minima are to be sought `everywhere`. The other arguments are those of `solve_fixed_point`;
    `max_iterations` counts all rounds.
    """

    def body(carry):
        held, minimum, found, change, search, plain_steps, rounds = carry
        plain, far = plain_steps > 0, held.switching_jump > NEARBY
        step = jnp.where(plain, PLAIN_LENGTH, 0.0) * change
        begin = jnp.where(feasible(held.value + step), held.value + step, held.value)
        # All there is to a plain step, and to the first round, is the search.
        followed = ~plain & (rounds > 0)
        # Far from the solution branches go stale, soon where minima compete: so short rounds first.
        shortest = jnp.where(search.found.everywhere, 4, 8)
        longest = jnp.where(followed, shortest * 2 ** jnp.minimum(rounds, PATIENT_ROUNDS), 0)
        # What weighs the forms of Stein's lemma must settle, or the rounds could alternate, but not
        # before it is the solution's own.
        settles = ~plain & ~far & (rounds >= PATIENT_ROUNDS // 2)

        def prepare(x, aux, anew):
            known, _ = aux
            minima = search.minima(function, x, known, anew)
            lowest = function.lowest(x, minima)
            renew = anew & ~settles
            share = jnp.where(renew, lowest.competing_share, known.competing_share)
            return lowest._replace(competing_share=share), minima

        solved = solve_fixed_point(
            function=lambda x, aux: function(x, aux[0]),
            prepare=prepare,
            x=begin,
            aux=(found, search.found),
            feasible=feasible,
            revisit=True,
            change=change,
            matrix=held.matrix,
            tol=jnp.where(far & (held.switched_share > 0), jnp.maximum(ROUGH, tol), tol),
            floor=floor,
            max_iterations=jnp.minimum(longest, max_iterations - held.iterations),
            **options,
        )
        (found_new, minima), change_new = solved.last
        search = search.renewed(solved.value, minima)
        jump = relative_size(change_new, solved.value, floor)
        minimum_new = jax.tree.map(partial(jnp.where, followed), solved.aux[0], found_new)
        end = BranchedFixedPoint(
            solved.value,
            solved.matrix,
            jnp.where(followed, solved.residual, jump),
            held.iterations + jnp.where(followed, solved.iterations, 1),
            jump,
            jnp.maximum(found_new.switched_share, changed_share(minimum_new, found_new)),
            found_new.largest_gradient,
        )
        search = search.widened(end.switched_share > 0)
        ratio = end.switching_jump / held.switching_jump
        failed = ~plain & (ratio > jnp.where(rounds < PATIENT_ROUNDS, 2.0, 0.5))
        worse = failed & (ratio > 1) & ~is_done(end, jump_tol)
        held, minimum, found, change = jax.tree.map(
            partial(jnp.where, worse),
            (held, minimum, found, change),
            (end, minimum_new, found_new, change_new),
        )
        held = eqx.tree_at(lambda held: held.iterations, held, end.iterations)
        plain_steps = jnp.where(failed, PLAIN_STEPS, jnp.maximum(plain_steps - 1, 0))
        return held, minimum, found, change, search, plain_steps, rounds + 1

    def is_done(point, jump):
        return (point.residual <= tol) & (point.switching_jump <= jump)

    def busy(carry):
        held, *_, rounds = carry
        done = is_done(held, jnp.where(rounds < PATIENT_ROUNDS, tol, jump_tol))
        return ~done & (held.iterations < max_iterations) & (rounds < ROUNDS)

    zero, unknown = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    matrix = jnp.full((len(x), len(x)), jnp.nan, x.dtype) if matrix is None else matrix
    minima = jax.eval_shape(function.starts, x)
    # Near no x, so that the first search is from scratch.
    nothing = LocalMinima(jnp.zeros(minima.shape, minima.dtype), jnp.asarray(everywhere))
    nowhere_near = jnp.full_like(x, jnp.nan)
    search = _Search(nothing, nowhere_near, nowhere_near)
    nowhere = first_branches(nothing.x[0])
    blank = BranchedFixedPoint(x, matrix, unknown, jnp.zeros((), int), unknown, zero, zero)
    start = (blank, nowhere, nowhere, jnp.zeros_like(x), search, 0, 0)
    return Solved(*jax.lax.while_loop(busy, body, start)[:2])
