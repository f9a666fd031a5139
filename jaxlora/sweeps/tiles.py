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

    @property
    def count(self) -> int:
        """The number of live ones."""
        return int(self.live.sum())


class Tiles(NamedTuple):
    """How programs are called: in each group of replicates for one tile of points after the other.

    A tile has about `chunk` points at most, or all where a `layout` takes several at a time, which
    would solve those that only fill a tile. `in_turn`: one group after the other, not in threads.
    Points have the axes (lanes, rows), results (replicates, lanes, rows, …). Programs are compiled
    before, or each group compiles them.
    """

    layout: Layout
    chunk: int
    in_turn: bool

    def shape(self, lanes: int, rows: int) -> tuple[int, int]:
        """(lanes, rows) of a tile of so many."""
        if self.layout != Layout():
            return lanes, rows
        most = min(ROWS, self.chunk)
        return min(LANES, self.chunk // most), most

    def size(self, points: int) -> int:
        """The points of a call, of so many, where each is looked at by itself."""
        return min(LANES, self.chunk) if self.layout == Layout() else points

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
        lanes, rows = (parts(*both) for both in zip(shape, self.shape(*shape), strict=True))

        def solve(draws, along, some):
            ahead, solutions = at(found, some.places), []
            for row in rows:
                place, live = np.ix_(some.places, row.places), some.live[:, None] & row.live
                there = at(along, (slice(None), *place))
                called = program(*arguments(draws, there, place, live, ahead))
                solved, ahead = jax.device_get(called)
                solutions.append(at(solved, (slice(None), slice(some.count), slice(row.count))))
            return jax.tree.map(lambda *x: np.concatenate(x, axis=2), *solutions)

        return self._gathered((draws, along), lanes, solve)

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

        def solve(draws, along, some):
            there = at(along, (slice(None), some.places))
            solved = jax.device_get(program(*arguments(draws, there, *some)))
            return at(solved, (slice(None), slice(some.count)))

        return self._gathered((draws, along), parts(points, self.size(points)), solve)

    def _gathered(self, replicated, every: list[Part], solve: Callable[..., Any]) -> Any:
        """What `solve` returns for the groups of what is `replicated` and the parts of each."""

        def of_group(group):
            done = [solve(*group, part) for part in every]
            return jax.tree.map(lambda *x: np.concatenate(x, axis=1), *done)

        # Draws are put on the device once, not for every call.
        groups = [(jax.tree.map(jnp.asarray, draws), along) for draws, along in split(replicated)]
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
