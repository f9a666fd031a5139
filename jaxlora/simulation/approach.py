"""The way from a start to near a minimum of the loss of one column, by message passing.

It is AMP (`amp`) on the objective itself. Fixed points are the loss's stationary points, and an
iteration reads the sequences as often as an evaluation of the loss does, but brings w closer by the
square root of the replicon, which conjugate gradients do not reach. With χ and ω (T, N), the
gradient g of each sample's loss and its Hessian L at χ, and the ridge r = 2 (λ' + ∂L/∂|w|²),

    ω = X w/√D + v g,    χ: the local minimum of its loss + |χ − ω|²/2v that is followed,
    w ← w − (r w + Xᵀ g/√D)/(r + k),    v = 1/(r + k),    k = Σ_μ Tr L (I + v L)⁻¹/D.

Near the fixed point the responses (I + v L)⁻¹ are kept, one Newton step follows χ, and
extrapolation takes care of the few samples for which v is not the variance of ω − χ.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..proximal import FinetuningProblem, Newton, Problem, inverse, times
from ..symmetric import identity_like
from .anderson import extrapolate, no_history
from .nearby import Nearby, near, near_zero
from .objective import Objective, force_times
from .sample_problem import SampleProblem

FAR = 1e-1  # gradient per weight down to which Gram matrices are taken to be I
CLOSE = 1e-2  # gradient per weight from which on the responses are kept
PATIENCE = 26  # iterations after which `FAR` is close enough
MOST_MESSAGES = 50  # iterations to come close
ROUNDS, ROUND = 3, 25  # times that the responses are found anew, and iterations with them
PROXIMAL_TOL, PROXIMAL_STEPS = 1e-3, 20
LEAST_PIVOT = 0.05  # of I + v L: samples below it are moved by their gradient alone


class _Place(NamedTuple):
    """The factor w (D, 1), χ and the gradients g (T, N), and v.

    `size` is the root-mean-square gradient at the factor before, `count` how often X was read.
    """

    factor: jax.Array
    spike: jax.Array
    slope: jax.Array
    variance: jax.Array
    size: jax.Array
    count: jax.Array


def approach(
    objective: Objective,
    inputs: jax.Array,
    start: jax.Array,
    tol: float,
    most: int,
    watch: Callable[[int, float], None],
) -> tuple[jax.Array, int]:
    """A factor (D, 1) whose gradient per weight is about `tol`, and how often X was read for it.

    `inputs` are the sequences in float32. A start that is close already is returned as it is.
    Where messages do not settle, as beyond a replicon of 1, or not in `most` iterations, it is the
    factor of least gradient on the way. `watch` is given the iterations and gradients.
    """
    local = near_zero(objective, inputs)
    place = _begin(local, start)

    def report(place: _Place) -> None:
        watch(int(place.count) - 1, float(place.size))

    report(place)
    if place.size <= CLOSE:
        return start, 1
    best, least = start, place.size
    while place.size > _enough(place.count) and place.count < min(most, MOST_MESSAGES):
        before, place = place.factor, _pass_messages(local, place, bool(place.size > FAR))
        report(place)
        if place.size < least:
            best, least = before, place.size
    if not place.size <= FAR:
        return best, int(place.count)
    count = place.count
    for _ in range(ROUNDS):
        if place.size <= tol or count >= most:
            break
        local, *_ = near(objective, inputs, place.factor)
        settled = _settle(local, place._replace(count=count + 1), jnp.asarray(tol, start.dtype))
        report(settled)
        count = settled.count
        if not settled.size <= FAR:  # NaN is not
            break
        place = settled
    return place.factor, int(count)


def _enough(count) -> float:
    """The gradient that is close. One sample that goes back and forth may keep it from `CLOSE`."""
    return CLOSE if count < PATIENCE else FAR


@eqx.filter_jit
def _begin(local: Nearby, factor) -> _Place:
    """The place at a factor, before any message."""
    spike = _spike(local, factor)
    gradient = local.value_and_gradient(factor)[1]
    one = jnp.ones((), spike.dtype)
    return _Place(factor, spike, jnp.zeros_like(spike), one, _size(gradient), jnp.ones((), int))


@eqx.filter_jit
def _pass_messages(local: Nearby, place: _Place, far: bool) -> _Place:
    """One iteration of AMP."""
    problem, data = _samples(local.objective, place.factor)
    omega = _spike(local, place.factor) + place.variance * place.slope
    # So far from the end the samples' own problems need no more than float32.
    spike, variance, omega, data = jax.tree.map(
        lambda x: x.astype(jnp.float32), (place.spike, place.variance, omega, data)
    )
    if far:
        solver = _solver(FinetuningProblem(problem.activation, problem.tokens))
        spike = solver.run(spike, variance, omega, data[:2]).params
    else:
        spike = _solver(problem).run(spike, variance, omega, data).params
    _, traces = _responses(problem, spike, variance, data)
    spike, traces = (x.astype(place.spike.dtype) for x in (spike, traces))
    return _moved(local, place, spike, traces)


def _solver(problem: Problem) -> Newton:
    return Newton(problem, maxiter=PROXIMAL_STEPS, tol=PROXIMAL_TOL)


@eqx.filter_jit
def _settle(local: Nearby, place: _Place, tol) -> _Place:
    """At most `ROUND` extrapolated iterations with the responses of the place."""
    problem, data = _samples(local.objective, place.factor)
    response, traces = _responses(problem, place.spike, place.variance, data)

    def step(carry):
        place, history = carry
        shift = times(response, _spike(local, place.factor) - place.spike)
        ahead = _moved(local, place, place.spike + shift, traces)
        before, after = ((at.factor, at.spike) for at in (place, ahead))
        (factor, spike), history = extrapolate(history, before, after)
        return ahead._replace(factor=factor, spike=spike), history

    def busy(carry):
        place, history = carry
        return (history.count == 0) | ((history.count < ROUND) & (place.size > tol))

    start = (place, no_history((place.factor, place.spike)))
    return jax.lax.while_loop(busy, step, start)[0]


def _moved(local: Nearby, place: _Place, spike, traces) -> _Place:
    """The next place for the gradients at χ = `spike` and Tr L (I + v L)⁻¹ (N,)."""
    objective = local.objective
    scale = jnp.sqrt(objective.scale)
    rows = (spike / scale).T[:, :, None]
    _, force, by_norm = objective.forces(objective.data, rows, jnp.sum(place.factor**2))
    moved = force_times(force, rows)
    ridge = 2 * (objective.ridge + by_norm)
    gradient = ridge * place.factor + local.backproject(moved)
    total = ridge + objective.scale * jnp.sum(traces)
    variance = jnp.where(total > 0, 1 / total, place.variance)
    factor, slope = place.factor - variance * gradient, moved[:, :, 0].T / scale
    return _Place(factor, spike, slope, variance, _size(gradient), place.count + 1)


def _responses(problem: Problem, spike, variance, data) -> tuple[jax.Array, jax.Array]:
    """(I + v L)⁻¹ (T, T, N) and Tr L (I + v L)⁻¹ (N,) of every sample."""
    hessian = problem.hessian(spike, data)
    eye = identity_like(hessian)
    response, pivot = inverse(variance * hessian + eye)
    firm = pivot > LEAST_PIVOT
    traces = jnp.where(firm, jnp.sum(response * hessian, axis=(0, 1)), 0)
    return jnp.where(firm, response, eye), traces


def _samples(objective: Objective, factor) -> tuple[SampleProblem, tuple[jax.Array, ...]]:
    """The samples' problem at |w|² of the factor, and its data."""
    data = objective.data
    field = data.frozen - identity_like(data.frozen) * (objective.scale * jnp.sum(factor**2))
    problem = SampleProblem(objective.activation, data.gram.shape[0])
    return problem, (field, data.target, data.gram)


def _spike(local: Nearby, factor) -> jax.Array:
    """X w/√D (T, N)."""
    return jnp.sqrt(local.objective.scale) * local.project(factor)[:, :, 0].T


def _size(gradient) -> jax.Array:
    return jnp.linalg.norm(gradient) / gradient.size**0.5
