"""Fixed points of averages over proximal maps that have several minima (theory section 3).

With the global minimum taken in every evaluation the map jumps by O(1/n) whenever a sample changes
its minimum, and no iteration converges. So each sample's branch is followed while the fixed point
is solved, then all minima are sought anew; where some changed it is solved again from there. Where
that leads nowhere, because the followed branches leave out too much, a few plain damped steps with
all minima sought anew come in between.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .fixed_point import relative_size, solve_fixed_point
from .proximal import Minimum, changed_share
from .results import Result

ROUNDS = 64
PATIENT_ROUNDS = 8  # that aim at `tol` and may raise the residual; later ones take `jump_tol`
PLAIN_STEPS, PLAIN_LENGTH = 8, 0.2


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
    jump_tol: float,
    floor: float,
    max_iterations: int,
    **options: Any,
) -> BranchedFixedPoint:
    """Solve x = F(x), where F(x) is `function(x, minima)` for the minima of the samples at x.

    `follow(x, minima)` gives the minima at x next to known ones, `search(x)` the global ones. Ends
    when taking them anew leaves the residual below `tol`, after a few rounds below `jump_tol`. The
    other arguments are those of `solve_fixed_point`; `max_iterations` counts all rounds.
    """

    def body(carry):
        held, found, change, plain_steps, rounds = carry
        plain = plain_steps > 0
        step = jnp.where(plain, PLAIN_LENGTH, 0.0) * change
        begin = jnp.where(feasible(held.value + step), held.value + step, held.value)
        # Far from the solution branches go stale, so the first rounds are short.
        longest = jnp.where(plain | (rounds == 0), 1, 4 * 2 ** jnp.minimum(rounds, PATIENT_ROUNDS))
        solved = solve_fixed_point(
            function,
            follow,
            begin,
            found,
            feasible,
            tol=tol,
            floor=floor,
            max_iterations=jnp.minimum(longest, max_iterations - held.iterations),
            **options,
        )
        found_new = search(solved.value)
        # What weighs the forms of Stein's lemma must settle, or the rounds could alternate.
        settles = ~plain & (rounds >= PATIENT_ROUNDS // 2)
        share = jnp.where(settles, found.competing_share, found_new.competing_share)
        found_new = found_new._replace(competing_share=share)
        change_new = function(solved.value, found_new) - solved.value
        end = BranchedFixedPoint(
            solved.value,
            solved.aux,
            solved.residual,
            held.iterations + solved.iterations,
            relative_size(change_new, solved.value, floor),
            jnp.maximum(found_new.switched_share, changed_share(solved.aux, found_new)),
            found_new.largest_gradient,
        )
        ratio = end.switching_jump / held.switching_jump
        failed = ~plain & (ratio > jnp.where(rounds < PATIENT_ROUNDS, 2.0, 0.5))
        worse = failed & (ratio > 1) & ~is_done(end, jump_tol)
        held, found, change = jax.tree.map(
            lambda old, new: jnp.where(worse, old, new),
            (held, found, change),
            (end, found_new, change_new),
        )
        held = eqx.tree_at(lambda held: held.iterations, held, end.iterations)
        plain_steps = jnp.where(failed, PLAIN_STEPS, jnp.maximum(plain_steps - 1, 0))
        return held, found, change, plain_steps, rounds + 1

    def is_done(point, jump):
        return (point.residual <= tol) & (point.switching_jump <= jump)

    def busy(carry):
        held, *_, rounds = carry
        done = is_done(held, jnp.where(rounds < PATIENT_ROUNDS, tol, jump_tol))
        return ~done & (held.iterations < max_iterations) & (rounds < ROUNDS)

    zero, unknown = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    blank = BranchedFixedPoint(x, minimum, unknown, jnp.zeros((), int), unknown, zero, zero)
    start = (blank, minimum, jnp.zeros_like(x), 0, 0)
    return jax.lax.while_loop(busy, body, start)[0]
