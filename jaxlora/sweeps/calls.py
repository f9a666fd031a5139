"""Programs of a few points, called for many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..programs import Program, in_threads, split
from ..start import Start
from .layout import Layout


class Calls(NamedTuple):
    """How programs are called: for each group of replicates, and for points as `layout` has them.

    `in_turn`: one group after the other, not in threads. Results have axes (replicates, points …).
    """

    layout: Layout
    in_turn: bool

    def along_rows(
        self,
        program: Program,
        draws: Any,
        along: Any,
        shape: tuple[int, int],
        found: Start,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """Solutions (lanes, rows), each from what `program` has `found` (lanes,) a row before.

        It takes `arguments(draws, along, place, found)` for the lanes and the row of a place, of
        what is `along` the points (replicates, lanes, rows), and returns solutions and the next
        `found`.
        """
        lanes, rows = shape

        def call(draws, along, some, row, found):
            place = (some, row)
            return arguments(draws, _at(along, (slice(None), *place)), place, found)

        def solve(draws, along, some):
            ahead, solutions = _at(found, some), []
            for row in range(rows):
                solved, ahead = jax.device_get(program(*call(draws, along, some, row, ahead)))
                solutions.append(solved)
            return jax.tree.map(lambda *x: np.stack(x, axis=2), *solutions)

        def first(draws, along, some):
            return call(draws, along, some, 0, _at(found, some))

        return self._gathered(program, (draws, along), lanes, solve, first)

    def at_points(
        self,
        program: Program,
        draws: Any,
        along: Any,
        points: int,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """What `program` returns for `arguments(draws, along, some)` of some of the points.

        `along` is what is there for each point (replicates, points).
        """

        def call(draws, along, some):
            return arguments(draws, _at(along, (slice(None), some)), some)

        def solve(draws, along, some):
            return jax.device_get(program(*call(draws, along, some)))

        return self._gathered(program, (draws, along), points, solve, call)

    def _gathered(self, program, replicated, count, solve, first) -> Any:
        parts = self.layout.parts(count)

        def of_group(group):
            done = [solve(*group, some) for some in parts]
            return jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :count], *done)

        # Draws are put on the device once, not for every call.
        groups = [(jax.tree.map(jnp.asarray, draws), along) for draws, along in split(replicated)]
        # Not in every thread.
        in_threads(lambda group: program.begin(*first(*group, parts[0]))[1](), groups[:1])
        found = in_threads(of_group, groups, in_turn=self.in_turn)
        return jax.tree.map(lambda *x: np.concatenate(x), *found)


def _at(tree, place):
    return jax.tree.map(lambda x: np.asarray(x)[place], tree)
