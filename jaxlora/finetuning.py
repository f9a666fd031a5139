"""State evolution of the fine-tuning, (62)–(73) (theory section 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .averages import Averages
from .branches import BranchedMap, Solved, solve_on_branches
from .fixed_point import as_root
from .laws import root
from .options import Options
from .proximal import (
    FinetuningProblem,
    Known,
    LocalMinima,
    Minimum,
    blend,
    finetuning_starts,
    follow_minimum,
    local_minima,
    lowest_minimum,
    make_solver,
    response_sums,
)
from .sampling import Draws
from .stability import finetuning_replicon
from .start import Start
from .symmetric import identity_like
from .tails import unseen_norm
from .tasks import Task

STARTS = {"informed": (1.0, 0.95, 0.2), "uninformed": (0.1, 0.01, 0.2)}  # (q, m, v)
# |Δq| + |Δm| from which two fixed points are different ones. On frozen draws a single sample's
# choice of minimum makes two of one, 1e-3 apart; from where a branch splits, Δ² ~ distance.
APART = 1e-2


class Conjugates(NamedTuple):
    """q̂, m̂, v̂."""

    q: jax.Array
    m: jax.Array
    v: jax.Array


class SideFields(NamedTuple):
    """The frozen layer's pre-activations (z*, z) on the training samples, (T, T, n)."""

    teacher: jax.Array
    student: jax.Array


class StateEvolution(BranchedMap):
    """The fine-tuning's map (m, s, v) → (m, s, v) on frozen draws (one replicate).

    s = √(q − m²) is the part of ŵ that is noise: χ̃ = m χ* + s ζ. All m and s ≥ 0 are
    feasible, and next to ŵ = 0 the map is of degree 1 in both, so that Newton's method finds that
    branch too.
    """

    task: Task
    fields: SideFields
    draws: Draws
    options: Options
    teacher_field: jax.Array  # z* + χ*χ*ᵀ − I (T, T, n)
    target: jax.Array  # its σ

    def __init__(self, task: Task, fields: SideFields, draws: Draws, options: Options):
        self.task, self.fields, self.draws, self.options = task, fields, draws, options
        outer = draws.spike[:, None] * draws.spike[None]
        self.teacher_field = fields.teacher + outer - identity_like(fields.teacher)
        self.target = task.activation(self.teacher_field)

    @property
    def problem(self) -> FinetuningProblem:
        """What the proximal map minimises."""
        return FinetuningProblem(self.task.activation, self.task.tokens)

    @property
    def solver(self):
        """The solver of prox."""
        return make_solver(self.options.solver, self.problem, self.options.proximal_tol)

    def data(self, x) -> tuple[jax.Array, jax.Array]:
        """z − q I and the target σ(z* + χ*χ*ᵀ − I)."""
        m, s, _ = x
        student = self.fields.student
        return student - (m**2 + s**2) * identity_like(student), self.target

    def centre(self, x) -> jax.Array:
        """χ̃ = m χ* + s ζ, (T, n)."""
        m, s, _ = x
        return m * self.draws.spike + s * self.draws.noise

    def starts(self, x) -> jax.Array:
        """Points (K, T, n) from which to look for all minima."""
        return finetuning_starts(
            self.task.activation,
            x[2],
            self.centre(x),
            self.draws.spike,
            self.data(x)[0],
            self.teacher_field,
        )

    def descend(self, x, starts, everywhere, pilot=True) -> LocalMinima:
        """The local minima that `starts` lead to."""
        return local_minima(
            self.solver,
            starts,
            x[2],
            self.centre(x),
            self.data(x),
            everywhere,
            pilot,
        )

    def lowest(self, x, minima) -> Minimum:
        """prox: the lowest of the local minima, for every sample."""
        return lowest_minimum(self.problem, minima, x[2], self.centre(x), self.data(x))

    def known(self, x, minimum: Minimum) -> Minimum:
        """prox with its derivatives, where `minimum` is it."""
        solver = Known(self.problem)
        return follow_minimum(solver, minimum, x[2], self.centre(x), self.data(x))

    def __call__(self, x, minimum: Minimum) -> jax.Array:
        """The map at x, where `minimum` is prox."""
        conjugates = self.averages(x, self.known(x, minimum)).conjugates
        _, m_hat, v_hat = conjugates
        v = x[2]
        # v̂ below −2λ' gives no v. There v = (1 − v v̂)/(2λ'), the same equation, leads on.
        larger = jnp.minimum((1 - v * v_hat) / (2 * self.task.lam_ft), 4 * v)
        ahead = jnp.stack([m_hat * v, root(conjugates.q) * v, larger])
        value = order_parameters(self.task, conjugates)
        return jnp.where(2 * self.task.lam_ft + v_hat > 0, value, ahead)

    def averages(self, x, minimum: Minimum) -> Averages:
        """What the equations average, written with γ = −(χ − χ̃)/v, the loss's gradient at prox.

        So v = 0 is a regular point. k is E Tr L (I + v L)⁻¹ with L = ∇²_χ loss in Stein's form,
        E γ·ζ/s before, and (m/v) Tr C = (m/v) T − m k; the term E χ*ᵀχ̃ = m T is exact. What Stein's
        form differs by from that before, sample by sample, is a control variate of it.
        ∂_q ψ = Tr Γ, from the explicit shift −q I alone, and γ = 2 Γ χ.
        """
        m, s, v = x
        data, alpha = self.data(x), self.task.alpha_ft
        force = self.problem.gamma(minimum.x, data)
        gamma = 2 * jnp.sum(force * minimum.x[None], axis=1)
        hessian = self.problem.hessian(minimum.x, data)
        traces, norms = self.draws.responses(*response_sums(hessian, v))
        along = _dot(gamma, self.draws.noise)
        stein = self.draws.controlled_mean(traces, along - s * traces)
        noisy = s > jnp.finfo(gamma.dtype).tiny ** 0.25
        before = jnp.where(noisy, self.draws.mean(along) / jnp.where(noisy, s, 1.0), stein)
        k = blend(minimum.competing_share, stein, before, gamma.shape[-1])
        conjugates = Conjugates(
            alpha * self.draws.mean(_dot(gamma, gamma)),
            alpha * (m * k - self.draws.mean(_dot(self.draws.spike, gamma))),
            alpha * (k - 2 * self.draws.mean(jnp.trace(force))),
        )
        stein_gap = v * (self.draws.mean(traces) - before) / self.task.tokens
        return Averages(conjugates, stein_gap, self.draws.mean(norms), unseen_norm(norms))

    def replicon(self, v, averages: Averages) -> jax.Array:
        """The replicon (78), from the averages at a fixed point."""
        return finetuning_replicon(self.task.alpha_ft, averages.response_norm, v)

    def train_error(self, x, minimum: Minimum) -> jax.Array:
        """E'_train = E_R' |σ(z + χχᵀ − q I) − σ(z* + χ*χ*ᵀ − I)|² (20)."""
        return self.draws.mean(self.problem.loss(minimum.x, self.data(x)))


def to_noise(order: jax.Array) -> jax.Array:
    """(m, s, v) of (q, m, v)."""
    q, m, v = order
    return jnp.stack([m, root(q - m**2), v])


def from_noise(x: jax.Array) -> jax.Array:
    """(q, m, v) of (m, s, v), with m ≥ 0."""
    m, s, v = x
    return jnp.stack([m**2 + s**2, jnp.abs(m), v])


def order_parameters(task: Task, conjugates: Conjugates) -> jax.Array:
    """(m, s, v) from (q̂, m̂, v̂): m = m̂ v, s = √q̂ v, so q = (m̂² + q̂) v², v = 1/(2λ' + v̂)."""
    q_hat, m_hat, v_hat = conjugates
    v = 1 / (2 * task.lam_ft + v_hat)
    return jnp.stack([m_hat * v, root(q_hat) * v, v])


class Solution(NamedTuple):
    """A fixed point (m, s, v) from one start, its energy and its `Result`."""

    solved: Solved
    energy: jax.Array
    result: jax.Array


class Description(NamedTuple):
    """What a fixed point says, with its derivatives.

    (q, m, v), conjugates, training error, energy, replicon, what rare samples may add to it and the
    Stein gap of `Averages`.
    """

    order: jax.Array
    conjugates: Conjugates
    train_error: jax.Array
    energy: jax.Array
    replicon: jax.Array
    unseen_replicon: jax.Array
    stein_gap: jax.Array


def solve_state_evolution(
    task: Task, fields: SideFields, draws: Draws, start: Start, options: Options
) -> Solution:
    """Solve the fine-tuning on one replicate's draws, from (q, m, v) = `start.order`."""
    evolution = StateEvolution(task, fields, draws, options)

    def feasible(x):
        _, s, v = x
        # Iterates run away where v̂ stays below −2λ'; a solution has v of the order of 1/(2λ').
        return (s >= 0) & (v >= 0) & (v <= 1e3 * (1 + 1 / (2 * task.lam_ft)))

    solved = solve_on_branches(
        evolution,
        to_noise(start.order),
        feasible,
        matrix=start.matrix,
        floor=1e-3,
        jump_tol=options.jump_tol,
        everywhere=options.exhaustive,
        **options.iteration,
    )
    x = solved.fixed_point.value
    train_error = evolution.train_error(x, solved.minimum)
    q, _, _ = from_noise(x)
    result = solved.fixed_point.result(options.tol, options.jump_tol)
    return Solution(solved, energy(task, train_error, q), result)


def describe(
    task: Task, fields: SideFields, draws: Draws, solved: Solved, options: Options
) -> Description:
    """What the fixed point of one replicate says, with its derivatives by task and fields."""
    evolution = StateEvolution(task, fields, draws, options)
    x, minimum = _with_derivatives(evolution, solved)
    order = from_noise(x)
    train_error = evolution.train_error(x, minimum)
    averages = evolution.averages(x, minimum)
    q_hat, m_hat, v_hat = averages.conjugates
    # ŵ is defined up to its sign, which the iteration may have changed: m ≥ 0.
    conjugates = Conjugates(q_hat, jnp.where(x[0] < 0, -m_hat, m_hat), v_hat)
    return Description(
        order,
        conjugates,
        train_error,
        energy(task, train_error, order[0]),
        evolution.replicon(x[2], averages),
        jax.lax.stop_gradient(evolution.replicon(x[2], averages.unseen())),
        averages.stein_gap,
    )


def order_and_energy(
    task: Task, fields: SideFields, draws: Draws, solved: Solved, options: Options
) -> tuple[jax.Array, jax.Array]:
    """(q, m, v) and the energy alone of what `describe` describes."""
    evolution = StateEvolution(task, fields, draws, options)
    x, minimum = _with_derivatives(evolution, solved)
    order = from_noise(x)
    return order, energy(task, evolution.train_error(x, minimum), order[0])


def _with_derivatives(evolution: StateEvolution, solved: Solved) -> tuple[jax.Array, Minimum]:
    x = as_root(lambda x: evolution(x, solved.minimum), solved.fixed_point.value)
    return x, evolution.known(x, solved.minimum)


def energy(task: Task, train_error, q) -> jax.Array:
    """α' E'_train + λ' q, what the empirical risk minimiser minimises, per dimension."""
    # λ' q → 0 as λ' → ∞, where q ~ 1/λ'².
    idle = jnp.isinf(task.lam_ft)
    return task.alpha_ft * train_error + jnp.where(idle, 0.0, task.lam_ft) * q


def overlap(q, m) -> jax.Array:
    """o_w = m/√q, NaN where ŵ = 0."""
    # Iterations come near a fixed point at 0 without reaching it, from a direction without meaning.
    known = q > jnp.finfo(q.dtype).eps
    return jnp.where(known, m / jnp.sqrt(jnp.where(known, q, 1.0)), jnp.nan)


def _dot(a, b):
    return jnp.sum(a * b, axis=0)
