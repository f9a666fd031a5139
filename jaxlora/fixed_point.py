"""Fixed points x = F(x) of a few scalars: the damped iteration, and Newton's guarded by it."""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

METHODS = ("newton", "damped")
NEWTON_FROM = 0.1  # residual below which Newton steps are tried
STEADY = 0.99  # cosine of the angle of two changes from which the map is taken for linear
RENEWED_FROM = 0.1  # decrease of the residual by a Newton step above which its matrix is renewed
NEXT_TO = 0.9999  # part of a step that is taken where all of it is just too much
LONGEST_STEP = 32.0  # of damped steps near a solution, in units of the damping


class FixedPoint(eqx.Module):
    """Where an iteration ended: the undamped residual is max |F(x) − x|/(floor + |x|).

    `matrix` is I − F' there, as it is known. `last` is what was prepared, and F(x) − x, in the last
    evaluation: with `revisit` that at `value`, with all sought anew.
    """

    value: jax.Array
    aux: Any
    residual: jax.Array
    iterations: jax.Array
    matrix: jax.Array
    last: tuple[Any, jax.Array]


class _Matrix(NamedTuple):
    """I − F', and whether to renew it before it is used."""

    value: jax.Array
    stale: jax.Array


class _Step(NamedTuple):
    """A step by the matrix I − F', whether it is Newton's, and what the last evaluation gave.

    That is at the step's end, after those next to x that the matrix is found from.
    """

    matrix: jax.Array
    taken: jax.Array
    newton: jax.Array
    aux: Any
    change: jax.Array


class _Turn(NamedTuple):
    """What speaks against Newton's step, and for it.

    `refused`: whether the last one was. `steady`: whether the step before was one, or the changes
    before and after it were alike.
    """

    refused: jax.Array
    steady: jax.Array


def relative_size(change: jax.Array, x: jax.Array, floor: float) -> jax.Array:
    """max |change|/(floor + |x|); infinite where a number is not finite."""
    size = jnp.max(jnp.abs(change) / (floor + jnp.abs(x)))
    return jnp.where(jnp.isfinite(size), size, jnp.inf)


def solve_fixed_point(
    function: Callable[[jax.Array, Any], jax.Array],
    prepare: Callable[[jax.Array, Any, jax.Array], Any],
    x: jax.Array,
    aux: Any,
    feasible: Callable[[jax.Array], jax.Array],
    *,
    revisit: bool = False,
    change: jax.Array | None = None,
    matrix: jax.Array | None = None,
    method: str = "newton",
    damping: float = 1.0,
    tol: float | jax.Array = 1e-10,
    floor: float = 1e-3,
    max_iterations: int | jax.Array = 200,
    verbose: bool = False,
) -> FixedPoint:
    """Solve x = F(x) for x of shape (k,) with k ≤ 3, from a feasible start.

    F(x) is `function(x, prepare(x, aux, False))`, where `aux` is what was prepared at the iterate
    before: the inner solves that F needs, which may start from it. To `revisit` is to evaluate once
    more at the end, with `prepare(x, aux, True)`, for `last` alone; as one program does both,
    nothing is compiled twice.
    `change` is F(x) − x at the start where that is known, with what was prepared there in `aux`; it
    spares the first evaluation. `matrix` is I − F' of a solution nearby, NaN for none.

    The paper's method is `damped`: x moves by `damping` (F(x) − x). `newton` does the same from
    afar. Near a solution, or once damped steps go on alike, it takes the step (I − F')⁻¹ (F(x) − x)
    where that halves F(x) − x.
    I − F' is found by differences, which compile nothing else than F. It costs k evaluations, which
    are not counted: it is kept as long as it serves, with Broyden's updates.
    Like the damped iteration it leaves unstable solutions alone, where F' has an eigenvalue of real
    part above 1. Damped steps lengthen where they do no harm, which leads past unstable solutions;
    one that doubles the residual is taken back and shortened. Stops at the undamped residual `tol`,
    or after `max_iterations` evaluations of steps. `verbose` logs every iteration to stderr.
    """
    fast = method == "newton"

    def probes(x):
        """Small feasible steps along each coordinate, in the rows."""
        steps = jnp.diag(jnp.finfo(x.dtype).eps ** (1 / 3) * (floor + jnp.abs(x)))
        ahead = jax.vmap(lambda step: feasible(x + step))(steps)
        return jnp.where(ahead[:, None], steps, -steps)

    def limited(x, step):
        """The longest of step, step/2, step/4, … that stays feasible and of the order of x.

        A step that just misses the boundary is not halved but ends next to it.
        """
        lengths = 0.5 ** jnp.arange(20, dtype=x.dtype)
        lengths = jnp.insert(lengths, 1, NEXT_TO)
        good = jax.vmap(lambda t: feasible(x + t * step))(lengths)
        good &= lengths * jnp.max(jnp.abs(step) / (0.05 + jnp.abs(x))) <= 1.0
        return jnp.where(jnp.any(good), lengths[jnp.argmax(good)], 0.0) * step

    def body(carry):
        x, change, aux, known_matrix, length, turn, residual, count, busy, *_ = carry
        # Where Newton's step leads nowhere, a damped one comes first.
        near = fast & busy & ~turn.refused & ((residual < NEWTON_FROM) | turn.steady)
        renewed = near & known_matrix.stale
        along = probes(x)

        def visit(index, last):
            """Evaluate next to x for the matrix, then at the end of the step."""
            matrix = last.matrix
            direction = jnp.linalg.solve(matrix, change)
            newton = near & jnp.all(jnp.isfinite(direction)) & _is_stable(matrix)
            taken = limited(x, jnp.where(newton, direction, length * change))
            taken = jnp.where(busy, taken, 0.0)
            here = index == jnp.arange(len(x))
            away = jnp.where(jnp.any(here), here @ along, taken)
            aux_new = prepare(x + away, aux, ~busy)
            change_new = function(x + away, aux_new) - (x + away)
            column = (change - change_new) / jnp.sum(away)
            matrix = jnp.where(here, column[:, None], matrix)
            return _Step(matrix, taken, newton, aux_new, change_new)

        blank = _Step(known_matrix.value, jnp.zeros_like(x), near, aux, change)
        first = jnp.where(renewed, 0, len(x))
        step = jax.lax.fori_loop(first, len(x) + 1, visit, blank)
        matrix, taken, newton, aux_new, change_new = step
        x_new = x + taken
        residual_new = relative_size(change_new, x_new, floor)
        accept = (residual_new < (2.0 if fast else jnp.inf) * residual) | ((count == 0) & ~known)
        accept &= busy
        if fast:
            # In units of the larger x: on the way to 0 the residual hardly falls.
            left = relative_size(change_new, jnp.maximum(jnp.abs(x), jnp.abs(x_new)), floor)
            accept = jnp.where(newton, left < 0.5 * residual, accept)
            scale = floor + jnp.abs(x)
            learnt = _broyden(matrix, taken, change - change_new, scale)
            usable = newton & jnp.isfinite(residual_new)
            matrix = jnp.where(usable, matrix + learnt, matrix)
            failed = ~newton | ~accept | (left > RENEWED_FROM * residual)
            known_matrix = _Matrix(matrix, jnp.where(near, failed, known_matrix.stale))
            refused = ~accept & (turn.refused | (newton & renewed))
            turn = _Turn(refused, accept & (newton | _is_steady(change, change_new, scale)))
            shorter = jnp.where(newton, length, 0.5 * length)
            longest = jnp.where(residual_new < NEWTON_FROM, LONGEST_STEP * damping, damping)
            # A step to the other side that is hardly nearer is one of a cycle.
            turned = jnp.sum(change_new * change / scale**2) < 0
            harmless = accept & ~(turned & (residual_new > 0.5 * residual))
            length = jnp.where(harmless, jnp.minimum(1.4 * length, longest), shorter)
        x, change, aux, residual = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old),
            (x_new, change_new, aux_new, residual_new),
            (x, change, aux, residual),
        )
        count = jnp.where(busy, count + 1, count)
        if verbose:
            log = functools.partial(jax.debug.callback, _log)
            jax.lax.cond(busy, log, lambda *_: None, count, residual, x, newton, accept)
        ahead = busy & (residual > tol) & (count < max_iterations) & (length > 1e-4)
        iterate = (x, change, aux, known_matrix, length, turn, residual, count)
        return *iterate, ahead, busy if revisit else ahead, (aux_new, change_new)

    # Where F is not known at the start, the first pass takes no step and evaluates it there.
    change = jnp.full_like(x, jnp.nan) if change is None else change
    residual = relative_size(change, x, floor)
    known = jnp.isfinite(residual)
    length = jnp.asarray(damping, x.dtype)
    busy = (residual > tol) & (max_iterations > 0)
    matrix = jnp.full((len(x), len(x)), jnp.nan, x.dtype) if matrix is None else matrix
    known_matrix = _Matrix(matrix, ~jnp.all(jnp.isfinite(matrix)))
    iterate = (x, jnp.where(known, change, 0.0), aux, known_matrix)
    turn = _Turn(jnp.array(False), jnp.array(False))
    iterate = (*iterate, length, turn, residual, jnp.zeros((), int))
    start = (*iterate, busy, jnp.array(True) if revisit else busy, (aux, change))
    end = jax.lax.while_loop(lambda carry: carry[-2], body, start)
    x, _, aux, known_matrix, _, _, residual, count, *_, last = end
    return FixedPoint(x, aux, residual, count, known_matrix.value, last)


def as_root(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`x`, where x = F(x) is known to hold, with the derivatives of that root to any order.

    They are those of the implicit function theorem, dx = (I − F')⁻¹ dF, by whatever `function`
    closes over, whichever iteration found `x`. No whole number may be traced among that.
    """
    converted, closed_over = jax.closure_convert(function, x)

    @jax.custom_jvp
    def root(x, *closed_over):
        return x

    @root.defjvp
    def _(primals, tangents):
        # The rule calls the root itself, so that differentiating the rule is right as well.
        x, closed_over = root(*primals), primals[1:]

        def along(direction):
            return jax.jvp(lambda x: converted(x, *closed_over), (x,), (direction,))[1]

        _, change = jax.jvp(lambda *values: converted(x, *values), closed_over, tangents[1:])
        eye = jnp.eye(x.shape[0], dtype=x.dtype)
        return x, jnp.linalg.solve(eye - jax.vmap(along, out_axes=-1)(eye), change)

    return root(jax.lax.stop_gradient(x), *closed_over)


def _broyden(matrix, step, decrease, scale) -> jax.Array:
    """The least change, in units of `scale`, after which `matrix` maps `step` to `decrease`."""
    size = jnp.sum((step / scale) ** 2)
    moved = size > 0
    row = step / scale**2 / jnp.where(moved, size, 1.0)
    return jnp.where(moved, jnp.outer(decrease - matrix @ step, row), 0.0)


def _is_steady(old: jax.Array, new: jax.Array, scale: jax.Array) -> jax.Array:
    """Whether F(x) − x hardly turns or shrinks, as where slow linear convergence has set in."""
    old, new = old / scale, new / scale
    along, before = jnp.sum(old * new), jnp.sum(old**2)
    return (along > 0.5 * before) & (along**2 > STEADY**2 * before * jnp.sum(new**2))


def _is_stable(matrix: jax.Array) -> jax.Array:
    """Whether all eigenvalues of I − F' have positive real parts (Routh and Hurwitz, size ≤ 3)."""
    size = matrix.shape[0]
    trace, determinant = jnp.trace(matrix), jnp.linalg.det(matrix)
    stable = (trace > 0) & (determinant > 0)
    if size < 3:
        return stable
    minors = 0.5 * (trace**2 - jnp.trace(matrix @ matrix))
    return stable & (trace * minors > determinant)


def _log(count, residual, x, newton, accept) -> None:
    kind = ("Newton" if newton else "damped") + ("" if accept else ", taken back")
    numbers = "  ".join(f"{value:.10g}" for value in x)
    print(f"{int(count):4d}  residual {residual:.2e}  x = {numbers}  ({kind})", file=sys.stderr)
