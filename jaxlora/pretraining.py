"""State evolution of the pre-training, (46)–(55) (theory section 4)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .averages import Averages
from .branches import BranchedMap, Solved, solve_on_branches
from .fixed_point import as_root
from .laws import conditional_variance, correlated, root
from .options import Options
from .proximal import (
    Known,
    LocalMinima,
    Minimum,
    PretrainingProblem,
    blend,
    follow_minimum,
    local_minima,
    lowest_minimum,
    make_solver,
    pretraining_starts,
    response_sums,
)
from .results import Result
from .sampling import FieldDraws
from .spectrum import right_edge, truncated_moments
from .stability import pretraining_replicon
from .start import Start
from .tails import unseen_norm
from .tasks import Task


class Conjugates(NamedTuple):
    """Q̂, M̂, V̂."""

    Q: jax.Array
    M: jax.Array
    V: jax.Array


class StateEvolution(BranchedMap):
    """The pre-training's map (Q, M, V) → (Q, M, V) on frozen draws (one replicate)."""

    task: Task
    draws: FieldDraws
    options: Options
    target: jax.Array  # σ(z*) (T, T, n)

    def __init__(self, task: Task, draws: FieldDraws, options: Options):
        self.task, self.draws, self.options = task, draws, options
        teacher = jnp.sqrt(task.teacher_variance()) * draws.first
        self.target = task.activation(self.problem.field(teacher))

    @property
    def problem(self) -> PretrainingProblem:
        """What the proximal map minimises."""
        return PretrainingProblem(self.task.activation, self.task.tokens)

    @property
    def solver(self):
        """The solver of Prox."""
        return make_solver(self.options.solver, self.problem, self.options.proximal_tol)

    def fields(self, x) -> tuple[jax.Array, jax.Array]:
        """z* and z̃ under Q (13), both packed and divided by √s, (L, n)."""
        Q, M, _ = x
        A0 = self.task.teacher_variance()
        return correlated(A0, M, Q, self.draws.first, self.draws.second)

    def starts(self, x) -> jax.Array:
        """Points (K, L, n) from which to look for all minima."""
        return pretraining_starts(self.problem, x[2], *self.fields(x))

    def descend(self, x, starts, everywhere, pilot=True) -> LocalMinima:
        """The local minima that `starts` lead to."""
        return local_minima(
            self.solver,
            starts,
            x[2],
            self.fields(x)[1],
            self.target,
            everywhere,
            pilot,
        )

    def lowest(self, x, minima) -> Minimum:
        """Prox: the lowest of the local minima, for every sample."""
        return lowest_minimum(self.problem, minima, x[2], self.fields(x)[1], self.target)

    def known(self, x, minimum: Minimum) -> Minimum:
        """Prox with its derivatives, where `minimum` is it."""
        solver = Known(self.problem)
        return follow_minimum(solver, minimum, x[2], self.fields(x)[1], self.target)

    def __call__(self, x, minimum: Minimum) -> jax.Array:
        """The map at x, where `minimum` is Prox."""
        value = self.ahead(x, minimum)
        # An iterate that overshot to the collapsed state restarts from smaller values.
        return jnp.where(value[0] > 0, value, 0.25 * x)

    def ahead(self, x, minimum: Minimum) -> jax.Array:
        """(Q, M, V) of the equations at x, wherever that leads."""
        averages = self.averages(x, self.known(x, minimum))
        return order_parameters(self.task, averages.conjugates)

    def at_collapse(self) -> Conjugates:
        """The conjugates at Q = M = V = 0, where Prox is 0."""
        A0, alpha = self.task.teacher_variance(), self.task.alpha
        zero = 0 * self.draws.first  # no constant, whose σ XLA would take its time to fold
        _, gamma, hessian = self.problem.derivatives(zero, self.target)
        traces, _ = self.draws.responses(*response_sums(hessian, jnp.zeros((), zero.dtype)))
        along = self.draws.mean(_dot(gamma, self.draws.first))
        square = self.draws.mean(_dot(gamma, gamma))
        V_hat = 2 * alpha * self.draws.mean(traces)
        return Conjugates(2 * alpha * square, -2 * alpha * along / jnp.sqrt(A0), V_hat)

    def averages(self, x, minimum: Minimum) -> Averages:
        """What the equations average, written with γ = −(h − z̃)/(V√s), the loss's gradient at Prox.

        So V = 0 is a regular point. V̂ is 2α E Tr L (I + V L)⁻¹ in Stein's form, 2α E γ·ζ/√B before.
        """
        Q, M, V = x
        A0, alpha = self.task.teacher_variance(), self.task.alpha
        gamma = self.problem.gradient(minimum.x, self.target)
        hessian = self.problem.hessian(minimum.x, self.target)
        traces, norms = self.draws.responses(*response_sums(hessian, V))
        stein = self.draws.mean(traces)
        B = conditional_variance(A0, M, Q)
        before = self.draws.mean(_dot(gamma, self.draws.second)) / root(B)
        share = minimum.competing_share
        V_hat = 2 * alpha * blend(share, stein, before, gamma.shape[-1])
        Q_hat = 2 * alpha * self.draws.mean(_dot(gamma, gamma))
        along = self.draws.mean(_dot(gamma, self.draws.first))
        M_hat = -2 * alpha * along / jnp.sqrt(A0) + M / A0 * V_hat
        stein_gap = V * (stein - before) / gamma.shape[0]
        conjugates = Conjugates(Q_hat, M_hat, V_hat)
        return Averages(conjugates, stein_gap, self.draws.mean(norms), unseen_norm(norms))

    def replicon(self, averages: Averages) -> jax.Array:
        """The replicon (theory section 6), from the averages at a fixed point."""
        conjugates = averages.conjugates
        return pretraining_replicon(
            self.task.alpha,
            averages.response_norm,
            conjugates.V,
            *truncation(self.task, conjugates),
            self.task.kappa0,
        )

    def train_error(self, minimum: jax.Array) -> jax.Array:
        """E_train = E_R |σ(β z) − σ(z*)|² (20), for the proximal points `minimum` (L, n)."""
        return self.draws.mean(self.problem.loss(self.task.beta * minimum, self.target))


def truncation(task: Task, conjugates: Conjugates) -> tuple[jax.Array, jax.Array]:
    """η = √Q̂/M̂ of the spectrum μ_η and ε = 2√κ λ/M̂, where it is cut."""
    eta = jnp.sqrt(conjugates.Q) / conjugates.M
    eps = 2 * jnp.sqrt(task.kappa) * task.lam / conjugates.M
    return eta, eps


def order_parameters(task: Task, conjugates: Conjugates) -> jax.Array:
    """(Q, M, V) from (Q̂, M̂, V̂) through the spectrum μ_η."""
    _, M_hat, V_hat = conjugates
    eta, eps = truncation(task, conjugates)
    J, J1, J2 = truncated_moments(eta, eps, task.kappa0)
    Q = (M_hat / V_hat) ** 2 * J
    M = M_hat / (2 * V_hat) * (2 * J - eta * J1 - eps * J2)
    V = J1 / (2 * V_hat * eta)
    return jnp.stack([Q, M, V])


class Solution(NamedTuple):
    """A replicate's fixed point, found at λ_c/2 instead where λ ≥ λ_c, and its `Result`."""

    solved: Solved
    result: jax.Array


class Description(NamedTuple):
    """What a replicate's fixed point says, with its derivatives.

    (Q, M, V), conjugates, training error, λ_c, replicon, what rare samples may add to it and the
    Stein gap of `Averages`; for λ ≥ λ_c those of Q = M = V = 0.
    """

    order: jax.Array
    conjugates: Conjugates
    train_error: jax.Array
    critical_lam: jax.Array
    replicon: jax.Array
    unseen_replicon: jax.Array
    stein_gap: jax.Array


def solve_state_evolution(
    task: Task, draws: FieldDraws, start: Start, options: Options
) -> Solution:
    """Solve the pre-training on one replicate's draws, from (Q, M, V) = `start.order`."""
    evolution = StateEvolution(task, draws, options)
    critical_lam = collapse_threshold(task, evolution.at_collapse())
    collapsed = task.lam >= critical_lam
    evolution = _below_collapse(evolution, collapsed, critical_lam)
    A0 = task.teacher_variance()

    def feasible(x):
        Q, M, V = x
        return (Q > 0) & (M > 0) & (V > 0) & (conditional_variance(A0, M, Q) > 0)

    solved = solve_on_branches(
        evolution,
        start.order,
        feasible,
        matrix=start.matrix,
        floor=1e-12,  # 0 is repelling, so all sizes are meant
        jump_tol=options.jump_tol,
        everywhere=options.exhaustive,
        **options.iteration,
    )
    result = solved.fixed_point.result(options.tol, options.jump_tol)
    return Solution(solved, jnp.where(collapsed, int(Result.COLLAPSED), result))


def describe(task: Task, draws: FieldDraws, solution: Solution, options: Options) -> Description:
    """What the `solution` of one replicate says, with its derivatives by the task."""
    (fixed_point, minimum), result = solution
    collapsed = result == Result.COLLAPSED
    evolution = StateEvolution(task, draws, options)
    at_collapse = evolution.at_collapse()
    critical_lam = collapse_threshold(task, at_collapse)
    evolution = _below_collapse(evolution, collapsed, critical_lam)
    x = as_root(lambda x: evolution.ahead(x, minimum), fixed_point.value)
    minimum = evolution.known(x, minimum)
    averages = evolution.averages(x, minimum)

    def choose(collapsed_value, value):
        return jnp.where(collapsed, collapsed_value, value)

    return Description(
        choose(0.0, x),
        Conjugates(*map(choose, at_collapse, averages.conjugates)),
        evolution.train_error(choose(0.0, minimum.x)),
        critical_lam,
        choose(0.0, evolution.replicon(averages)),
        jax.lax.stop_gradient(choose(0.0, evolution.replicon(averages.unseen()))),
        choose(0.0, averages.stein_gap),
    )


def _below_collapse(evolution: StateEvolution, collapsed, critical_lam) -> StateEvolution:
    """The same, at λ_c/2 where λ is too large for a fixed point."""
    lam = jnp.where(collapsed, critical_lam / 2, evolution.task.lam)
    return eqx.tree_at(lambda e: e.task.lam, evolution, lam)


def collapse_threshold(task: Task, at_collapse: Conjugates) -> jax.Array:
    """λ_c = M̂ x₊(√Q̂/M̂)/(2√κ) from the conjugates at Q = M = V = 0; 0 where M̂ ≤ 0."""
    M_hat = jnp.maximum(at_collapse.M, jnp.finfo(at_collapse.M.dtype).tiny ** 0.25)
    edge = right_edge(jnp.sqrt(at_collapse.Q) / M_hat, task.kappa0)
    return M_hat * edge / (2 * jnp.sqrt(task.kappa))


def _dot(a, b):
    return jnp.sum(a * b, axis=0)
