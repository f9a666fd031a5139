"""Approximate message passing (AMP) for the trained w, and for the Bayes-optimal one.

Both run one loop. At w (D,), with χ* and ω of every sequence in (T, N'),

    ω_μ = X_μ w/√D − c_μ                    c: Onsager's term, 0 at first
    g, k, r of the channel at ω, q = |w|²/D and v
    v'  = 1/(r + k)
    w'  = v' (k w + Σ_μ X_μᵀ g_μ/√D)
    c'  = v' g

so that q = |w|²/D, m = w·w*/D and v follow the undamped state evolution as D → ∞: in every step ω_μ
is χ̃ of theory section 5 at the (q, m, v) of that step. Damped, w, v and c move a part of the way to
w', v' and c'; c must move with w for ω to stay Gaussian. Averages α' E are sums over μ divided by
D, which makes fixed points exact at finite D.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..finetuning import STARTS
from ..fixed_point import relative_size
from ..proximal import (
    FinetuningProblem,
    Newton,
    finetuning_starts,
    first_branches,
    follow_minimum,
    global_minimum,
    response_sums,
)
from ..symmetric import identity_like
from ..tasks import Task
from .rank_one import RankOneData, check_integer, weights_at

FLOOR = 1e-3  # in relative changes, of √q and of v
SAME = 1e-3  # relative distance within which two minima are the same


class AmpSolution(NamedTuple):
    """Where AMP ended, with q_t, m_t and v_t of every iterate from the start on, (steps + 1,).

    w and −w solve the same problem; m has the sign of the one that was found.

    `change` is the larger of the last undamped |w_new − w|/√D over 1e-3 + √q and its like for v,
    infinite where the iteration met v < 0 or a number that is not finite, which ends it.
    `converged` says that `change` came below the tolerance. `switched_share` is then the share of
    sequences whose proximal map is not at its global minimum; 0 for Bayes-optimal AMP.
    """

    weights: jax.Array
    q: jax.Array
    m: jax.Array
    v: jax.Array
    change: jax.Array
    converged: jax.Array
    switched_share: jax.Array


class Signal(NamedTuple):
    """What a channel makes of ω: g (T, N'), its precision k, and the ridge r."""

    g: jax.Array
    precision: jax.Array
    ridge: jax.Array


class Channel(eqx.Module):
    """The part of a step that depends on the loss or the likelihood."""

    @abc.abstractmethod
    def __call__(self, omega, q, v, memory, count) -> tuple[Signal, Any]:
        """The signal at `omega` (T, N'), q = |w|²/D and v, and what the next call remembers.

        `memory` is what the last call returned, at first zeros like `omega`; `count` is the number
        of calls before.
        """

    @abc.abstractmethod
    def switched_share(self, omega, q, v, memory) -> jax.Array:
        """Share of the sequences that `memory` holds at another minimum than the global one."""


class ErmChannel(Channel):
    """g = −γ, the gradient of the loss at prox(ω); k = α' E Tr L(I + vL)⁻¹; r = 2λ' − 2α' E Tr Γ.

    `spike` is χ* (T, N'), `student` z, `teacher_field` z* + χ*χ*ᵀ − I and `target` its σ, all
    (T, T, N'). The prox is the global one of theory section 3, from the starts used there, in the
    first `searches` calls. Later ones follow each sequence's branch, kept in the memory χ (T, N'):
    one sequence that goes back and forth between two minima of equal height is O(1/D) in the state
    evolution, but w would never come to rest.
    """

    task: Task
    spike: jax.Array
    student: jax.Array
    teacher_field: jax.Array
    target: jax.Array
    searches: jax.Array
    dimension: int = eqx.field(static=True)
    proximal_tol: float = eqx.field(static=True)

    @property
    def _problem(self) -> FinetuningProblem:
        return FinetuningProblem(self.task.activation, self.task.tokens)

    @property
    def _solver(self) -> Newton:
        return Newton(self._problem, tol=self.proximal_tol)

    def _data(self, q):
        return self.student - q * identity_like(self.student), self.target

    def _search(self, omega, q, v) -> jax.Array:
        data = self._data(q)
        starts = finetuning_starts(
            self.task.activation, v, omega, self.spike, data[0], self.teacher_field
        )
        return global_minimum(self._solver, starts, v, omega, data).x

    def __call__(self, omega, q, v, memory, count):
        data, problem = self._data(q), self._problem
        chi = jax.lax.cond(
            count < self.searches,
            lambda _: self._search(omega, q, v),
            lambda chi: follow_minimum(self._solver, first_branches(chi), v, omega, data).x,
            memory,
        )
        precision = jnp.sum(response_sums(problem.hessian(chi, data), v)[0]) / self.dimension
        shift = jnp.sum(jnp.trace(problem.gamma(chi, data))) / self.dimension
        # γ = (ω − χ)/v, in the form that is regular at v = 0.
        signal = Signal(-problem.gradient(chi, data), precision, 2 * (self.task.lam_ft - shift))
        return signal, chi

    def switched_share(self, omega, q, v, memory):
        apart = jnp.linalg.norm(self._search(omega, q, v) - memory, axis=0)
        return jnp.mean(apart > SAME * (1 + jnp.linalg.norm(memory, axis=0)), dtype=v.dtype)


class BayesChannel(Channel):
    """g from `output`, k = Λ = α' E|g|² (Nishimori), r = 1: the prior N(0, I) of w*."""

    output: Callable[[jax.Array, jax.Array], jax.Array]
    dimension: int = eqx.field(static=True)

    def __call__(self, omega, q, v, memory, count):
        g = self.output(omega, v)
        return Signal(g, jnp.sum(g * g) / self.dimension, jnp.ones_like(v)), memory

    def switched_share(self, omega, q, v, memory):
        return jnp.zeros_like(v)


def erm_amp(
    task: Task,
    data: RankOneData,
    *,
    start: tuple[float, float, float] = STARTS["informed"],
    seed: int = 0,
    damping: float = 1.0,
    tol: float = 1e-9,
    max_iterations: int = 200,
    searches: int = 20,
    proximal_tol: float = 1e-11,
) -> AmpSolution:
    """AMP whose fixed points are stationary points of Σ_μ |σ(a_μ(w)) − y'_μ|²_F + λ' |w|² (3).

    Here a_μ = z_μ + χχᵀ − q I with χ = X_μ w/√D, q = |w|²/D. Undamped it follows section 5's map
    from (q, m, v) = `start`, at a w that `seed` draws; its divergence marks the replicon (78)
    reaching 1. `damping` is the length of steps; it keeps the fixed points and calms (q, m, v),
    which heavy tails of the response can unsettle at small D. The global minima of the proximal
    maps are sought in the first `searches` steps, then the branch of each sequence is followed.

    Raises ValueError for a bad start, seed, damping, tolerance, or number of steps or searches.
    """
    q, m, v = start
    check_integer("searches", searches, 0)
    spike = data.project(data.teacher_weights)
    field = data.teacher_field(spike)
    channel = ErmChannel(
        task,
        spike,
        data.fields.student,
        field,
        task.activation(field),
        jnp.asarray(searches),
        data.dimension,
        proximal_tol,
    )
    weights = weights_at(data, q, m, seed)
    return _run(channel, data, weights, v, damping, tol, max_iterations)


def bayes_amp(
    output: Callable[[jax.Array, jax.Array], jax.Array],
    data: RankOneData,
    *,
    start: float = 0.9,
    seed: int = 0,
    damping: float = 1.0,
    tol: float = 1e-9,
    max_iterations: int = 200,
) -> AmpSolution:
    """Bayes-optimal AMP, whose state evolution is q = q̂/(1 + q̂), q̂ = α' E|g|² (section 7).

    `output(ω, v)` gives g = (⟨x⟩ − ω)/v (T, N') at ω (T, N') and the scalar v, where ⟨x⟩ is the
    posterior mean of χ* ~ N(ω, v I) given the label of each sequence; where it is a pytree, as
    equinox modules and `jax.tree_util.Partial` are, other labels need no new compilation. `start`
    is q = m = 1 − v, at a w that `seed` draws. Other arguments as in `erm_amp`.

    Raises ValueError for a start outside [0, 1], and for the other arguments as `erm_amp`.
    """
    if not 0 <= start <= 1:
        raise ValueError(f"start = {start:g}: must be in [0, 1]")
    weights = weights_at(data, start, start, seed)
    channel = BayesChannel(output, data.dimension)
    return _run(channel, data, weights, 1 - start, damping, tol, max_iterations)


def _run(channel, data, weights, v, damping, tol, max_iterations) -> AmpSolution:
    if not 0 <= v < jnp.inf:
        raise ValueError(f"start v = {v:g}: must be non-negative and finite")
    if not 0 < damping <= 1:
        raise ValueError(f"damping = {damping:g}: must be in (0, 1]")
    if not tol >= 0:
        raise ValueError(f"tol = {tol:g}: must be non-negative")
    check_integer("max_iterations", max_iterations, 1)
    # As arrays, other values need no new compilation.
    v, damping, tol = (jnp.asarray(x, weights.dtype) for x in (v, damping, tol))
    weights, history, change, switched_share, count = _iterate(
        channel, data, weights, v, damping, tol, int(max_iterations)
    )
    q, m, v = history[: int(count) + 1].T
    return AmpSolution(weights, q, m, v, change, change <= tol, switched_share)


@eqx.filter_jit
def _iterate(channel: Channel, data: RankOneData, weights, v, damping, tol, max_iterations: int):
    dimension = data.dimension

    def order(weights, v):
        q = weights @ weights / dimension
        return jnp.stack([q, weights @ data.teacher_weights / dimension, v])

    def body(carry):
        weights, reaction, v, memory, history, _, count = carry
        q = history[count, 0]
        signal, memory = channel(data.project(weights) - reaction, q, v, memory, count)
        v_new = 1 / (signal.ridge + signal.precision)
        step = v_new * (signal.precision * weights + data.backproject(signal.g)) - weights
        moved = jnp.stack([jnp.linalg.norm(step) / dimension**0.5, v_new - v])
        change = relative_size(moved, jnp.stack([jnp.sqrt(q), v]), FLOOR)
        change = jnp.where(v_new >= 0, change, jnp.inf)
        weights = weights + damping * step
        reaction = reaction + damping * (v_new * signal.g - reaction)
        v = v + damping * (v_new - v)
        history = history.at[count + 1].set(order(weights, v))
        return weights, reaction, v, memory, history, change, count + 1

    def busy(carry):
        *_, change, count = carry
        return (count == 0) | ((change > tol) & jnp.isfinite(change) & (count < max_iterations))

    zero = jnp.zeros_like(data.project(weights))
    history = jnp.full((max_iterations + 1, 3), jnp.nan, v.dtype).at[0].set(order(weights, v))
    start = (weights, zero, v, zero, history, jnp.full_like(v, jnp.inf), 0)
    weights, reaction, v, memory, history, change, count = jax.lax.while_loop(busy, body, start)
    omega = data.project(weights) - reaction
    switched_share = channel.switched_share(omega, history[count, 0], v, memory)
    return weights, history, change, switched_share, count
