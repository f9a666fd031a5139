"""A batched Newton method for the proximal objectives, in jaxopt's solver interface."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..programs import platform
from ..symmetric import identity_like
from ._linear import solve
from ._problems import Problem

CHUNK = 128  # samples solved at a time on a CPU: the fewer, the fewer wait for the slowest
LEAST_SIZE = 1e-4  # of the minimisers, to which `tol` is relative below 1


class State(NamedTuple):
    """Iterations done and, for every sample, the sup-norm of the remaining gradient."""

    iter_num: jax.Array
    error: jax.Array


class OptStep(NamedTuple):
    """What `run` returns, as jaxopt's solvers do."""

    params: jax.Array
    state: State


class _Iterate(NamedTuple):
    """Where the samples are: x, the objective and its derivatives, and the Levenberg shift."""

    x: jax.Array
    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    shift: jax.Array


class Newton(eqx.Module):
    """Newton's method with a Levenberg shift per sample, on the whole batch at once.

    A sample's step is kept where it lowers the objective; where it does not, or the shifted
    Hessian is not positive definite, the sample stays and its shift grows. The objective's
    quadratic part has unit curvature, which is the scale of the shifts. Stops when every sample's
    gradient is below `tol` in sup-norm, or after `maxiter` steps. Where all minimisers are small,
    as next to ŵ = 0, so are the gradients that are left.
    """

    problem: Problem
    maxiter: int = eqx.field(static=True, default=100)
    tol: float = eqx.field(static=True, default=1e-10)

    def run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        """Minimise from `init` (n, samples); returns params (n, samples) and the state."""
        samples = init.shape[-1]
        if platform() != "cpu" or samples <= CHUNK:
            return self._run(init, scale, centre, data)
        chunks = jax.tree.map(_chunked, (init, centre, data))
        steps = jax.lax.map(lambda chunk: self._run(chunk[0], scale, *chunk[1:]), chunks)
        x = jnp.moveaxis(steps.params, 0, -2).reshape(init.shape[0], -1)[:, :samples]
        error = steps.state.error.reshape(-1)[:samples]
        return OptStep(x, State(jnp.max(steps.state.iter_num), error))

    def _run(self, init: jax.Array, scale: jax.Array, centre: jax.Array, data: Any) -> OptStep:
        def is_busy(iterate, count):
            size = jnp.clip(jnp.max(jnp.abs(iterate.x)), LEAST_SIZE, 1.0)
            return jnp.any(_error(iterate) > self.tol * size) & (count < self.maxiter)

        def body(carry):
            iterate, _, count = carry
            iterate = self._step(iterate, scale, centre, data)
            return iterate, is_busy(iterate, count + 1), count + 1

        # The predicate is carried: under vmap it would be evaluated twice, and could differ.
        first, zero = self._evaluate(init, scale, centre, data), jnp.zeros((), int)
        start = (first, is_busy(first, zero), zero)
        iterate, _, count = jax.lax.while_loop(lambda carry: carry[1], body, start)
        return OptStep(iterate.x, State(count, _error(iterate)))

    def _step(self, iterate: _Iterate, scale, centre, data) -> _Iterate:
        shift = iterate.shift
        hessian = iterate.hessian + identity_like(iterate.hessian) * shift[None, None]
        step, pivot = solve(hessian, iterate.gradient)
        ahead = self._evaluate(iterate.x - step, scale, centre, data)
        margin = 8 * jnp.finfo(step.dtype).eps * (1 + jnp.abs(iterate.value))
        accept = (pivot > 0) & (ahead.value <= iterate.value + margin)
        kept = jax.tree.map(lambda new, old: jnp.where(accept, new, old), ahead, iterate)
        smaller = jnp.where(shift < 0.1, 0.0, shift / 8)
        return kept._replace(shift=jnp.where(accept, smaller, 4 * shift + 0.5))

    def _evaluate(self, x, scale, centre, data) -> _Iterate:
        loss, gradient, hessian = self.problem.derivatives(x, data)
        value = scale * loss + 0.5 * jnp.sum((x - centre) ** 2, axis=0)
        gradient = scale * gradient + (x - centre)
        hessian = scale * hessian + identity_like(hessian)
        return _Iterate(x, value, gradient, hessian, jnp.zeros_like(value))


def _chunked(x: jax.Array) -> jax.Array:
    """Chunks (K, ..., CHUNK) of x (..., samples), the last filled up with copies of a sample."""
    missing = -x.shape[-1] % CHUNK
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)], mode="edge")
    return jnp.moveaxis(filled.reshape(*x.shape[:-1], -1, CHUNK), -2, 0)


def _error(iterate: _Iterate) -> jax.Array:
    return jnp.max(jnp.abs(iterate.gradient), axis=0)
