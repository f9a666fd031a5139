"""Fixed points of averages over proximal maps that have several minima (theory section 3).

With the global minimum taken in every evaluation the map jumps by O(1/n) whenever a sample changes
its minimum, and no iteration converges. So each sample's branch is followed while the fixed point
is solved, then all minima are sought anew; where some changed it is solved again from there.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .fixed_point import relative_size, solve_fixed_point
from .proximal import Minimum, changed_share
from .results import Result

ROUNDS = 8


class BranchedFixedPoint(eqx.Module):
    """A fixed point on followed branches, and what taking the global minima anew would change.

    `minimum` holds the branches; `switching_jump` is the undamped residual with all global minima
    taken anew at `value`. `switched_share` is the share of samples whose minimum changed in that
    search, or the plain start would have missed if that is more; `largest_gradient` is what that
    search left of the gradients.
    """

    value: jax.Array
    minimum: Minimum
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


def solve_on_branches(
    function: Callable[[jax.Array, Minimum], jax.Array],
    follow: Callable[[jax.Array, Minimum], Minimum],
    search: Callable[[jax.Array], Minimum],
    x: jax.Array,
    minimum: Minimum,
    feasible: Callable[[jax.Array], jax.Array],
    *,
    tol: float,
    floor: float,
    max_iterations: int,
    **options: Any,
) -> BranchedFixedPoint:
    """Solve x = F(x), where F(x) is `function(x, minima)` for the minima of the samples at x.

    `follow(x, minima)` gives the minima at x next to known ones, `search(x)` the global ones. Ends
    when taking them anew leaves the residual below
    `tol`, or after a few rounds on the last branches. The other arguments are those of
    `solve_fixed_point`; `max_iterations` counts all rounds.
    """

    def body(carry):
        x, start, count, *_, rounds = carry
        # Far from the solution branches go stale, so the first rounds are short.
        limit = jnp.minimum(8 * 2**rounds, max_iterations - count)
        solved = solve_fixed_point(
            function,
            follow,
            x,
            start,
            feasible,
            tol=tol,
            floor=floor,
            max_iterations=limit,
            **options,
        )
        found = search(solved.value)
        # What weighs the forms of Stein's lemma must settle, or the rounds could alternate.
        settled = jnp.where(rounds < 4, found.competing_share, start.competing_share)
        found = found._replace(competing_share=settled)
        value = function(solved.value, found)
        jump = relative_size(value - solved.value, solved.value, floor)
        end = BranchedFixedPoint(
            solved.value,
            solved.aux,
            solved.residual,
            count + solved.iterations,
            jump,
            jnp.maximum(found.switched_share, changed_share(solved.aux, found)),
            found.largest_gradient,
        )
        done = (jump <= tol) & (solved.residual <= tol)
        busy = ~done & (end.iterations < max_iterations) & (rounds + 1 < ROUNDS)
        return solved.value, found, end.iterations, end, busy, rounds + 1

    zero = jnp.zeros((), x.dtype)
    count = jnp.zeros((), int)
    blank = BranchedFixedPoint(x, minimum, zero, count, zero, zero, zero)
    start = (x, minimum, count, blank, jnp.array(True), 0)
    return jax.lax.while_loop(lambda carry: carry[4], body, start)[3]
