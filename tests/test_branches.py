"""Fixed points of averages whose samples change minima, against roots known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.branches import solve_on_branches
from jaxlora.proximal import Minimum
from jaxlora.results import Result

THRESHOLDS = jnp.asarray((np.arange(20_000) + 0.5) / 20_000)  # uniform on (0, 1)


def solve(slope, tol=1e-10):
    """x = 1 + 0.3 x − slope · share(threshold < x): samples beyond their threshold are switched."""

    def minima(x):
        zero = jnp.zeros(())
        return Minimum(jnp.where(THRESHOLDS < x[0], 1.0, 0.0)[None], zero, zero, zero)

    return solve_on_branches(
        lambda x, known: 1 + 0.3 * x - slope * jnp.mean(known.x),
        lambda x, known: known,
        minima,
        jnp.array([0.1]),
        minima(jnp.array([0.1])),
        lambda x: jnp.all(x >= 0),
        tol=tol,
        jump_tol=1e-2,
        floor=1e-3,
        max_iterations=500,
    )


@pytest.mark.parametrize("slope", [0.0, 0.5, 3.0, 8.0])
def test_finds_the_root_where_the_map_is_made_of_jumps(slope):
    # Above slope 1 taking all minima anew overshoots more than it corrects, on and on.
    solved = solve(slope)
    root = 1 / 0.7 if slope == 0 else 1 / (0.7 + slope)
    assert solved.result(1e-10, 1e-2) == Result.CONVERGED
    # The residual left, over the slope of x − F(x), and what one sample makes of the map.
    left = solved.switching_jump * (root + 1e-3) / (0.7 + slope)
    np.testing.assert_allclose(solved.value, [root], atol=1.5 * left + slope / 20_000 + 1e-9)


def test_what_jumps_over_the_root_is_not_called_converged():
    # One sample in two switches at once, and the root lies within the jump.
    def minima(x):
        zero = jnp.zeros(())
        return Minimum(jnp.where(x[0] > 0.5, 1.0, 0.0)[None, None], zero, zero, zero)

    solved = solve_on_branches(
        lambda x, known: 1 - known.x[0],
        lambda x, known: known,
        minima,
        jnp.array([0.1]),
        minima(jnp.array([0.1])),
        lambda x: jnp.all(x >= 0),
        tol=1e-10,
        jump_tol=1e-2,
        floor=1e-3,
        max_iterations=200,
    )
    assert solved.result(1e-10, 1e-2) in (Result.SWITCHING, Result.NOT_CONVERGED)
    assert solved.iterations <= 200
    assert solved.switching_jump > 0.1
