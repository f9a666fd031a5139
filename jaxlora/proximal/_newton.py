"""A batched Newton method for the proximal objectives, in jaxopt's solver interface."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..symmetric import identity_like
from ._linear import solve
from ._problems import Problem

SLOWEST = 8  # one sample in so many may go on by itself
LARGE = 512  # samples of a batch for which that pays
CHUNK = 4096  # samples solved at a time on a CPU, whose caches hold what so many need


class State(NamedTuple):
    """Iterations done and, for every sample, the sup-norm of the remaining gradient."""

    iter_num: jax.Array
    error: jax.Array


class OptStep(NamedTuple):
    """What `run` returns, as jaxopt's solvers do."""

    params: jax.Array
    state: State


class _Iterate(NamedTuple):
    """Where the samples are: x, the objective and its gradient there, and the Levenberg shift."""

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    shift: jax.Array


class Newton(eqx.Module):
    """Newton's method with a Levenberg shift per sample, on the whole batch at once.

    A sample's step is kept where it lowers the objective; where it does not, or the shifted
    Hessian is not positive definite, the sample stays and its shift grows. The objective's
    quadratic part has unit curvature, which is the scale of the shifts. Stops when every sample's
    gradient is below `tol` in sup-norm, or after `maxiter` steps.

    With `from_afar` the slowest eighth of a large batch goes on by itself. That is twice the code
    to compile, and pays where samples need very different numbers of steps.
    """

    problem: Problem
    maxiter: int = eqx.field(static=True, default=100)
    tol: float = eqx.field(static=True, default=1e-10)
    from_afar: bool = eqx.field(static=True, default=False)

    def run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        """Minimise from `init` (n, samples); returns params (n, samples) and the state."""
        samples = init.shape[-1]
        if jax.default_backend() != "cpu" or samples <= CHUNK:
            return self._run(init, scale, centre, data)
        chunks = jax.tree.map(_chunked, (init, centre, data))
        steps = jax.lax.map(lambda chunk: self._run(chunk[0], scale, *chunk[1:]), chunks)
        x = jnp.moveaxis(steps.params, 0, -2).reshape(init.shape[0], -1)[:, :samples]
        error = steps.state.error.reshape(-1)[:samples]
        return OptStep(x, State(jnp.max(steps.state.iter_num), error))

    def _run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        samples = init.shape[-1]
        few = samples // SLOWEST if self.from_afar and samples >= LARGE else 0
        gradient = scale * self.problem.gradient(init, data) + (init - centre)
        value = self.problem.objective(init, scale, centre, data)
        iterate = _Iterate(init, value, gradient, jnp.zeros_like(value))
        count = jnp.zeros((), int)
        iterate, count = self._descend(iterate, count, few, scale, centre, data)
        if few:
            busy = _error(iterate) > self.tol
            rank = jnp.cumsum(busy)
            left = jnp.searchsorted(rank, jnp.arange(1, few + 1))
            picked = _take((iterate, centre, data), left)
            last, count = self._descend(picked[0], count, 0, scale, *picked[1:])
            last = _take(last, rank - 1)
            iterate = jax.tree.map(lambda new, old: jnp.where(busy, new, old), last, iterate)
        return OptStep(iterate.x, State(count, _error(iterate)))

    def _descend(self, iterate: _Iterate, count, few: int, scale, centre, data):
        """Steps until at most `few` samples are left, and how many steps there have been."""

        def is_busy(iterate, count):
            return (jnp.sum(_error(iterate) > self.tol) > few) & (count < self.maxiter)

        def body(carry):
            iterate, _, count = carry
            iterate = self._step(iterate, scale, centre, data)
            return iterate, is_busy(iterate, count + 1), count + 1

        # The predicate is carried: under vmap it would be evaluated twice, and could differ.
        start = (iterate, is_busy(iterate, count), count)
        iterate, _, count = jax.lax.while_loop(lambda carry: carry[1], body, start)
        return iterate, count

    def _step(self, iterate: _Iterate, scale, centre, data) -> _Iterate:
        x, value, gradient, shift = iterate
        hessian = scale * self.problem.hessian(x, data)
        step, pivot = solve(hessian + identity_like(hessian) * (1 + shift)[None, None], gradient)
        candidate = x - step
        value_new = self.problem.objective(candidate, scale, centre, data)
        eps = jnp.finfo(x.dtype).eps
        accept = (pivot > 0) & (value_new <= value + 8 * eps * (1 + jnp.abs(value)))
        x = jnp.where(accept[None], candidate, x)
        return _Iterate(
            x,
            jnp.where(accept, value_new, value),
            scale * self.problem.gradient(x, data) + (x - centre),
            jnp.where(accept, jnp.where(shift < 0.1, 0.0, shift / 8), 4 * shift + 0.5),
        )


def _chunked(x: jax.Array) -> jax.Array:
    """Chunks (K, ..., CHUNK) of x (..., samples), the last filled up with copies of a sample."""
    missing = -x.shape[-1] % CHUNK
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)], mode="edge")
    return jnp.moveaxis(filled.reshape(*x.shape[:-1], -1, CHUNK), -2, 0)


def _take(tree, index):
    return jax.tree.map(lambda x: x.at[..., index].get(mode="clip"), tree)


def _error(iterate: _Iterate) -> jax.Array:
    return jnp.max(jnp.abs(iterate.gradient), axis=0)
