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
        replicated: Any,
        shape: tuple[int, int],
        found: Start,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """Solutions (lanes, rows), each from what `program` has `found` (lanes,) a row before.

        The program takes `arguments(group, lanes, row, found)`, and returns solutions and what to
        start from next.
        """
        lanes, rows = shape

        def solve(group, some):
            ahead, solutions = _at(found, some), []
            for row in range(rows):
                solved, ahead = program(*arguments(group, some, row, ahead))
                solutions.append(jax.tree.map(np.asarray, solved))
            return jax.tree.map(lambda *x: np.stack(x, axis=2), *solutions)

        def first(group, some):
            return arguments(group, some, 0, _at(found, some))

        return self._gathered(program, replicated, lanes, solve, first)

    def at_points(
        self,
        program: Program,
        replicated: Any,
        points: int,
        arguments: Callable[..., tuple[Any, ...]],
    ) -> Any:
        """What `program` returns for `arguments(group, some)` of the points."""

        def solve(group, some):
            return jax.tree.map(np.asarray, program(*arguments(group, some)))

        return self._gathered(program, replicated, points, solve, arguments)

    def _gathered(self, program, replicated, count, solve, first) -> Any:
        parts = self.layout.parts(count)

        def of_group(group):
            done = [solve(group, some) for some in parts]
            return jax.tree.map(lambda *x: np.concatenate(x, axis=1)[:, :count], *done)

        # On the device once, not for every call.
        groups = [jax.tree.map(jnp.asarray, group) for group in split(replicated)]
        # Not in every thread.
        in_threads(lambda group: program.begin(*first(group, parts[0]))[1](), groups[:1])
        found = in_threads(of_group, groups, in_turn=self.in_turn)
        return jax.tree.map(lambda *x: np.concatenate(x), *found)


def _at(tree, some):
    return jax.tree.map(lambda x: np.asarray(x)[some], tree)
