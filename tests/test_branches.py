"""Fixed points of averages whose samples change minima, against roots known in closed form."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.branches import BranchedMap, solve_on_branches
from jaxlora.proximal import LocalMinima, Minimum
from jaxlora.results import Result

THRESHOLDS = jnp.asarray((np.arange(20_000) + 0.5) / 20_000)  # uniform on (0, 1)


class Switching(BranchedMap):
    """x = function(x, share(threshold < x)): samples beyond their threshold are in state 1."""

    function: Callable = eqx.field(static=True)
    thresholds: jax.Array

    def __call__(self, x, minimum):
        return self.function(x, jnp.mean(minimum.x))

    def starts(self, x):
        return jnp.zeros((2, 1, self.thresholds.size))

    def descend(self, x, starts, everywhere, pilot=True):
        both = jnp.stack([jnp.zeros_like(starts[0]), jnp.ones_like(starts[0])])
        anew = everywhere | pilot
        return LocalMinima(jnp.where(anew, both, starts), jnp.asarray(anew))

    def lowest(self, x, minima):
        zero = jnp.zeros(())
        lowest = jnp.where(self.thresholds < x[0], minima.x[1], minima.x[0])
        lowest = jnp.where(minima.everywhere, lowest, minima.x[0])
        return Minimum(lowest, zero, zero, zero)


def solve_map(function, start=0.1, tol=1e-10, max_iterations=500, **options):
    return solve_on_branches(
        function,
        jnp.array([start]),
        lambda x: jnp.all(x >= 0),
        tol=tol,
        jump_tol=1e-2,
        floor=1e-3,
        max_iterations=max_iterations,
        **options,
    )[0]


def solve(slope, tol=1e-10):
    """x = 1 + 0.3 x − slope · share."""
    return solve_map(Switching(lambda x, share: 1 + 0.3 * x - slope * share, THRESHOLDS), tol=tol)


@pytest.mark.parametrize("slope", [0.0, 0.5, 3.0, 8.0])
def test_finds_the_root_where_the_map_is_made_of_jumps(slope):
    # Above slope 1 taking all minima anew overshoots more than it corrects, on and on.
    solved = solve(slope)
    root = 1 / 0.7 if slope == 0 else 1 / (0.7 + slope)
    assert solved.result(1e-10, 1e-2) == Result.CONVERGED
    # The residual left, over the slope of x − F(x), and what one sample makes of the map.
    left = solved.switching_jump * (root + 1e-3) / (0.7 + slope)
    np.testing.assert_allclose(solved.value, [root], atol=1.5 * left + slope / 20_000 + 1e-9)


class Misleading(Switching):
    """Searched from the first start alone, samples end on the other side of their threshold."""

    def descend(self, x, starts, everywhere, pilot=True):
        alone = jnp.where(self.thresholds < x[0], 0.0, 1.0)[None]
        found = super().descend(x, starts, everywhere, pilot).x
        misled = jnp.logical_not(everywhere) & pilot
        return LocalMinima(jnp.where(misled, alone[None], found), jnp.asarray(everywhere))


def test_minima_that_change_are_sought_from_everywhere():
    solved = solve_map(Misleading(lambda x, share: 1 + 0.3 * x - 3 * share, THRESHOLDS))
    assert solved.result(1e-10, 1e-2) == Result.CONVERGED
    np.testing.assert_allclose(solved.value, [1 / 3.7], atol=1e-3)


@pytest.mark.parametrize("everywhere", [False, True])
def test_every_search_is_everywhere_if_asked(everywhere):
    searches = []

    class Noting(Switching):
        def descend(self, x, starts, everywhere, pilot=True):
            jax.debug.callback(lambda *how: searches.append(how), everywhere, pilot)
            return super().descend(x, starts, everywhere, pilot)

    function = Noting(lambda x, share: 1 + 0.3 * x - 0.5 * share, THRESHOLDS)
    solve_map(function, everywhere=everywhere)
    jax.effects_barrier()
    assert searches[0] == (everywhere, True)


def test_what_jumps_over_the_root_is_not_called_converged():
    # All samples switch at once, and the root lies within the jump.
    function = Switching(lambda x, share: 1 - share + 0 * x, jnp.array([0.5]))
    solved = solve_map(function, max_iterations=200)
    assert solved.result(1e-10, 1e-2) in (Result.SWITCHING, Result.NOT_CONVERGED)
    assert solved.iterations <= 200
    assert solved.switching_jump > 0.1


def test_all_minima_are_sought_from_scratch_only_after_a_long_move():
    scratch, searches = [], []

    class Counting(Switching):
        def starts(self, x):
            jax.debug.callback(lambda x: scratch.append(float(x[0])), x)
            return super().starts(x)

        def descend(self, x, starts, everywhere, pilot=True):
            anew = everywhere | pilot
            jax.debug.callback(lambda x, anew: anew and searches.append(float(x[0])), x, anew)
            return super().descend(x, starts, everywhere, pilot)

    solve_map(Counting(lambda x, share: 1 + 0.3 * x - 0.5 * share, THRESHOLDS))
    jax.effects_barrier()
    origin, expected = np.nan, []
    for x in searches:
        if not abs(x - origin) <= 0.1 * origin:
            origin = x
            expected.append(x)
    assert scratch == expected
    assert 1 < len(scratch) < len(searches)
