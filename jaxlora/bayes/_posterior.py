"""The posterior of χ* on one fine-tuning sample, by importance sampling (theory section 7)."""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..activations import Softmax
from ..proximal import Known, Newton, Problem, local_minimum
from ..symmetric import identity_like

COMPONENTS = 3  # Gaussians that are proposed: the prior, which bounds the weights, and two modes
FLATTEST = 0.25  # least curvature at a mode, in units of the prior's


class Observation(Problem):
    """|R|²_F of R = xxᵀ − Y, up to what σ hides: −log of the likelihood of x, times 4 V_BO.

    Softmax hides multiples of 11ᵀ, which takes (1ᵀR1)²/T² away. `data` is Y (T, T, ...).
    """

    @property
    def hidden(self) -> float:
        """Weight of what is hidden, 1/T² or 0."""
        return 1 / self.tokens**2 if isinstance(self.activation, Softmax) else 0.0

    def loss(self, x, data):
        R = x[:, None] * x[None] - data
        return jnp.sum(R * R, axis=(0, 1)) - self.hidden * jnp.sum(R, axis=(0, 1)) ** 2

    def gradient(self, x, data):
        R = x[:, None] * x[None] - data
        hidden = self.hidden * jnp.sum(R, axis=(0, 1)) * jnp.sum(x, axis=0)
        return 4 * (jnp.sum(R * x[None], axis=1) - hidden[None])

    def hessian(self, x, data):
        outer = x[:, None] * x[None]
        norm = jnp.sum(x * x, axis=0)
        total = 2 * jnp.sum(x, axis=0) ** 2 + jnp.sum(outer - data, axis=(0, 1))
        inner = 2 * outer - data + norm[None, None] * identity_like(outer)
        return 4 * (inner - self.hidden * total[None, None])


class Proposal(NamedTuple):
    """Gaussians N(mean, factor factorᵀ), shapes (C, T, n) and (C, T, T, n).

    `is_mode` (C, n) says which of the means are modes, where the curvature is positive.
    """

    mean: jax.Array
    factor: jax.Array
    inverse: jax.Array
    is_mode: jax.Array


class Posterior(NamedTuple):
    """Points x (T, K, n) of the posterior with weights (K, n), and log Z_out (n,).

    x and −x explain Y equally well and share one weight; `signs` (K, n) is the mean of the sign,
    so that ⟨x⟩ = Σ weights·signs·x and ⟨xxᵀ⟩ = Σ weights·xxᵀ.
    """

    points: jax.Array
    weights: jax.Array
    signs: jax.Array
    log_evidence: jax.Array

    @property
    def mean(self) -> jax.Array:
        """⟨x⟩ (T, n)."""
        return jnp.sum(self.points * (self.weights * self.signs)[None], axis=1)

    @property
    def second_moment(self) -> jax.Array:
        """⟨xxᵀ⟩ (T, T, n)."""
        x = self.points
        return jnp.sum(x[:, None] * (x * self.weights[None])[None], axis=2)

    @property
    def effective_sample_size(self) -> jax.Array:
        """1/Σ weights² of each sample, out of K, (n,)."""
        return 1 / jnp.sum(self.weights**2, axis=0)


def propose(problem: Observation, v, V, Y, omega, starts) -> Proposal:
    """The prior N(ω, v I) and a Gaussian at each mode of the posterior next to `starts` (2, T, n).

    Good starts are the true χ*, itself a draw from the posterior and so where the mass is, and ω;
    or the modes at values nearby.
    """
    scale = v / (4 * V)
    solver = Newton(problem, maxiter=50, tol=1e-6)
    prior = identity_like(Y) * jnp.ones_like(Y)
    means, factors, inverses = [omega], [jnp.sqrt(v) * prior], [prior / jnp.sqrt(v)]
    is_mode = [jnp.zeros(omega.shape[1:], bool)]
    for start in starts:
        mode = solver.run(start, scale, omega, Y).params
        factor, inverse, regular = _gaussian(scale * problem.hessian(mode, Y) + prior)
        means.append(mode)
        is_mode.append(regular)
        factors.append(jnp.sqrt(v) * factor)
        inverses.append(inverse / jnp.sqrt(v))
    return jax.lax.stop_gradient(Proposal(*map(jnp.stack, (means, factors, inverses, is_mode))))


def _gaussian(precision) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A triangular F with F Fᵀ = `precision`⁻¹, F⁻¹, and whether the precision is positive.

    Where it is not, or almost, F is the identity. With L D Lᵀ = `precision`, F⁻¹ = √D Lᵀ.
    """
    columns, pivots = _factorise(precision)
    regular = jnp.min(pivots, axis=0) > FLATTEST
    columns = jnp.where(regular, columns, 0.0) + identity_like(columns)
    inverse = columns * jnp.sqrt(jnp.where(regular, pivots, 1.0))[:, None]
    size = precision.shape[0]
    rows: list[jax.Array] = []
    for i in reversed(range(size)):
        unit = jnp.zeros_like(inverse[i]).at[i].set(1.0)
        known = sum((inverse[i, i + 1 + k][None] * row for k, row in enumerate(rows)), start=0.0)
        rows.insert(0, (unit - known) / inverse[i, i][None])
    return jnp.stack(rows), inverse, regular


def _factorise(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """L D Lᵀ of symmetric matrices (n, n, ...): [k, i, ...] is L_ik for i > k, else 0; and D."""
    index = jnp.arange(matrix.shape[0]).reshape((-1,) + (1,) * (matrix.ndim - 2))

    def eliminate(rest, k):
        row = rest[k]
        pivot = row[k]
        bound = jnp.finfo(pivot.dtype).tiny ** 0.5
        column = jnp.where(index > k, row, 0.0) / jnp.maximum(pivot, bound)[None]
        return rest - column[:, None] * row[None], (column, pivot)

    return jax.lax.scan(eliminate, matrix, jnp.arange(matrix.shape[0]))[1]


def posterior(problem: Observation, proposal: Proposal, nodes, v, V, Y, omega) -> Posterior:
    """The posterior N(x; ω, v I) exp(−loss/(4V)) on proposed points, (94), (96).

    `nodes` (C, T, K) are standard normal, K for each Gaussian of `proposal`.
    """
    tokens = omega.shape[0]
    # The modes move with the arguments; without that derivatives with respect to them are noisy.
    means = [omega]
    for mode, is_mode in zip(proposal.mean[1:], proposal.is_mode[1:], strict=True):
        moving, _ = local_minimum(Known(problem), mode, v / (4 * V), omega, Y)
        means.append(jnp.where(is_mode, moving, mode))
    x = jnp.concatenate(
        [
            mean[:, None] + _product(factor, node[:, :, None])
            for mean, factor, node in zip(means, proposal.factor, nodes, strict=True)
        ],
        axis=1,
    )
    # Both of x and −x are weighed, in the posterior and among the proposals, so that no mode of a
    # pair is missed. A factor (2π)^(−T/2) is left out of both.
    tilt = _dot(x, omega[:, None]) / v
    norm = _dot(x, x)
    log_prior = jnp.logaddexp(tilt, -tilt) - (norm + _dot(omega, omega)[None]) / (2 * v)
    misfit = norm**2 - 2 * _dot(x, _product(Y, x)) + jnp.sum(Y * Y, axis=(0, 1))[None]
    unseen = jnp.sum(x, axis=0) ** 2 - jnp.sum(Y, axis=(0, 1))[None]
    log_likelihood = -(misfit - problem.hidden * unseen**2) / (4 * V)
    log_posterior = log_prior - 0.5 * tokens * jnp.log(v) + log_likelihood
    log_weight = log_posterior - _log_mixture(proposal._replace(mean=jnp.stack(means)), x)
    log_total = jax.nn.logsumexp(log_weight, axis=0)
    return Posterior(
        x,
        jnp.exp(log_weight - log_total[None]),
        jnp.tanh(tilt),
        log_total - jnp.log(log_weight.shape[0]),
    )


def _log_mixture(proposal: Proposal, x) -> jax.Array:
    """log of the proposal's density at x plus that at −x (T, K, n), apart from (2π)^(−T/2)."""
    logs = []
    for mean, inverse in zip(proposal.mean, proposal.inverse, strict=True):
        log_det = jnp.sum(jnp.log(jnp.stack([row[i] for i, row in enumerate(inverse)])), axis=0)
        white = _product(inverse, x)
        centre = _product(inverse, mean[:, None])
        tilt = _dot(white, centre)
        norms = _dot(white, white) + _dot(centre, centre)
        logs.append(log_det[None] - 0.5 * norms + jnp.logaddexp(tilt, -tilt))
    return jax.nn.logsumexp(jnp.stack(logs), axis=0) - jnp.log(len(logs))


def _product(matrix, x) -> jax.Array:
    """Products (T, K, n) of matrices (T, T, n) and vectors (T, K, n).

    Written out, so that they fuse with what they enter: several times faster than a reduction.
    """
    return jnp.stack([_dot(row[:, None], x) for row in matrix])


def _dot(a, b) -> jax.Array:
    """Dot products (K, n) of vectors (T, K, n), written out likewise."""
    return functools.reduce(operator.add, map(operator.mul, a, b))
