"""How points are mapped over."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxlora.sweeps import Layout


def test_points_are_those_of_a_loop_whether_or_not_they_divide_evenly():
    points = jnp.arange(10.0).reshape(5, 2)
    expected = [(float(x[0]), float(x @ x) + 1) for x in points]
    for batch in (1, 2, 5, 8):
        found = Layout(batch).map(lambda x, y: (x[0], x @ x + y), points, 1.0)
        np.testing.assert_allclose(np.stack(found, axis=1), expected)


def test_points_that_divide_evenly_are_not_copied():
    def gathers(batch):
        program = jax.jit(lambda x: Layout(batch).map(jnp.sin, x))
        return "gather" in str(jax.make_jaxpr(program)(jnp.arange(6.0)))

    assert [gathers(batch) for batch in (1, 3, 4)] == [False, False, True]
