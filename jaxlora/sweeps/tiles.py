"""Programs of a fixed number of points, called for any number, so that all sweeps share them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..programs import Program, in_threads, split
from ..replicates import blank
from ..start import Start
from .layout import Layout

LANES, ROWS = 8, 8  # of a call, at most


class Part(NamedTuple):
    """Places of a call (size,), of which the last ones are not `live` but repeated."""

    places: np.ndarray
    live: np.ndarray


class Tiles(NamedTuple):
    """How programs are called: in each group of replicates for one tile of points after the other.

    A tile has about `chunk` points at most, and as many as the `layout` takes at a time at least.
    `in_turn`: one group after the other, not in threads. Points have the axes (lanes, rows),
    results (replicates, lanes, rows, …).
    """

    layout: Layout
    chunk: int
    in_turn: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(lanes, rows) of a tile."""
        rows = min(ROWS, self.chunk)
        return self.layout.whole(min(LANES, self.chunk // rows)), rows

    @property
    def points(self) -> int:
        """The number of points of a call where each is looked at by itself."""
        return self.layout.whole(min(LANES, self.chunk))

    def along_rows(
        self,
        program: Program,
        draws: Any,
        along: Any,
        shape: tuple[int, int],
        found: Start,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """Solutions of `shape`, each from what `program` has `found` (lanes,) a row before.

        It takes `arguments(draws, along, place, live, found)` for a tile, which is `live` in part,
        at a place of lanes and rows, of what is `along` the points (replicates, lanes, rows), and
        returns solutions and the next `found`.
        """
        lanes, rows = shape
        tile = self.shape
        across = parts(rows, tile[1])

        def call(draws, along, some: Part, row: Part, found):
            place = np.ix_(some.places, row.places)
            live = some.live[:, None] & row.live
            return arguments(draws, at(along, (slice(None), *place)), place, live, found)

        def solve(draws, along, some):
            ahead, solutions = at(found, some.places), []
            for row in across:
                solved, ahead = jax.device_get(program(*call(draws, along, some, row, ahead)))
                solutions.append(solved)
            return jax.tree.map(lambda *x: np.concatenate(x, axis=2)[:, :, :rows], *solutions)

        def first(draws, along, some):
            return call(draws, along, some, across[0], at(found, some.places))

        return self._gathered(program, (draws, along), parts(lanes, tile[0]), solve, first)

    def at_points(
        self,
        program: Program,
        draws: Any,
        along: Any,
        points: int,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """What `program` returns for `arguments(draws, along, places, live)` of some of the points.

        `along` is what is there for each point (replicates, points).
        """

        def call(draws, along, some: Part):
            return arguments(draws, at(along, (slice(None), some.places)), *some)

        def solve(draws, along, some):
            return jax.device_get(program(*call(draws, along, some)))

        return self._gathered(program, (draws, along), parts(points, self.points), solve, call)

    def _gathered(self, program, replicated, some: list[Part], solve, first) -> Any:
        count = sum(int(part.live.sum()) for part in some)

        def of_group(group):
            done = [solve(*group, part) for part in some]
            return jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :count], *done)

        # Draws are put on the device once, not for every call.
        groups = [(jax.tree.map(jnp.asarray, draws), along) for draws, along in split(replicated)]
        # Not in every thread.
        in_threads(lambda group: program.begin(*first(*group, some[0]))[1](), groups[:1])
        found = in_threads(of_group, groups, in_turn=self.in_turn)
        return jax.tree.map(lambda *x: np.concatenate(x), *found)


def parts(count: int, size: int) -> list[Part]:
    """So many places in parts of one size; the last one is repeated where they do not fill it."""
    every = [np.arange(first, first + size) for first in range(0, count, size)]
    return [Part(np.minimum(places, count - 1), places < count) for places in every]


def where_live(live: jax.Array, solve: Callable[[], Any]) -> Any:
    """What `solve` returns where a point is live, zeros where not."""
    solve = jax.jit(solve)  # so that it is traced once
    shapes = jax.eval_shape(solve)
    return jax.lax.cond(live, solve, lambda: blank(shapes))


def at(tree: Any, place: Any) -> Any:
    """The leaves of `tree` at a place, on the host."""
    return jax.tree.map(lambda x: np.asarray(x)[place], tree)
