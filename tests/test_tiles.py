"""How programs of a fixed number of points are called for any number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.programs import Program
from jaxlora.start import Start
from jaxlora.sweeps import Layout
from jaxlora.sweeps.tiles import Tiles, parts, where_live


@Program
def sums_along(draws, values, found, live, layout):
    """Each value with all before it, and times the draws, where it is live."""

    def solve_lane(lane, draws):
        def solve(before, row):
            value, live = row
            after = before.order + value
            solved = where_live(live, lambda: after * draws)
            return Start(after, before.matrix), solved

        values, found, live = lane
        ahead, solved = jax.lax.scan(solve, found, (values, live))
        return solved, ahead

    solved, ahead = layout.map(solve_lane, (values, found, live), draws)
    return jnp.moveaxis(solved, 2, 0), ahead


@pytest.mark.parametrize(("lanes", "rows"), [(1, 1), (3, 17), (9, 2), (8, 8)])
@pytest.mark.parametrize(("layout", "chunk"), [(Layout(), 128), (Layout(), 3), (Layout(4), 20)])
def test_rows_of_any_number_are_those_of_a_loop(lanes, rows, layout, chunk):
    values = np.random.default_rng(0).normal(size=(lanes, rows))
    draws = np.arange(1.0, 5.0)
    begin = np.linspace(0, 1, lanes)

    def arguments(draws, along, place, live, found):
        assert along.shape == (len(draws), *live.shape)
        return draws, values[place], found, live, layout

    tiles, found = Tiles(layout, chunk, in_turn=False), Start(begin, np.zeros(lanes))
    along = np.broadcast_to(values, (len(draws), lanes, rows))
    solved = tiles.along_rows(sums_along, draws, along, (lanes, rows), found, arguments)
    expected = draws[:, None, None] * (begin[:, None] + np.cumsum(values, axis=1))
    np.testing.assert_allclose(solved, expected, rtol=1e-13)


def test_sweeps_of_different_size_share_their_programs():
    shapes = set()

    @Program
    def double(draws, values, live):
        return jnp.where(live, values, 0.0)[None] * draws[:, None]

    for points in (1, 5, 30):
        values = np.arange(1.0, points + 1)

        def arguments(draws, along, places, live, values=values):
            shapes.add(live.shape)
            return draws, values[places], live

        draws = np.array([2.0, 3.0])
        solved = Tiles(Layout(), 128, in_turn=True).at_points(
            double, draws, None, points, arguments
        )
        np.testing.assert_array_equal(solved, np.outer(draws, values))
    assert len(shapes) == 1


@pytest.mark.parametrize(
    ("layout", "chunk", "shape"),
    [
        (Layout(), 1, (1, 1)),
        (Layout(), 7, (1, 7)),
        (Layout(), 20, (2, 8)),
        (Layout(), 1000, (8, 8)),
        (Layout(6, 2), 20, (3, 5)),
    ],
)
def test_a_tile_has_no_more_points_than_a_chunk_or_all_where_several_are_solved_at_once(
    layout, chunk, shape
):
    assert Tiles(layout, chunk, in_turn=False).shape(3, 5) == shape


def test_places_beyond_the_last_are_repeated_and_not_live():
    found = [(part.places.tolist(), part.live.tolist()) for part in parts(5, 3)]
    assert found == [([0, 1, 2], [True, True, True]), ([3, 4, 4], [True, True, False])]


def test_what_is_not_live_is_not_solved():
    def solve():
        jax.debug.callback(lambda: counted.append(1))
        return jnp.ones(2)

    counted = []
    found = [jax.jit(lambda live: where_live(live, solve))(live) for live in (True, False)]
    jax.effects_barrier()
    np.testing.assert_array_equal(found, [[1, 1], [0, 0]])
    assert len(counted) == 1
