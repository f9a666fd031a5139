"""Threshold λ'_c of the fine-tuning's zero branch m = q = 0 (theory section 5, 'Zero branch').

At w = 0 the Hessian of the loss is 2λ'I + (2/D) Σ (XᵀΓX − Tr Γ I), where Γ is the symmetrised
∂|σ(h) − σ(z* + χ*χ*ᵀ − I)|²_F/∂h at h = z. It is written with y = 1/(2v), K = Γ(yI + Γ)⁻¹ and
y > b = max(−λ_min(Γ)) over the samples:

    λ'(y) = y + α' E Tr[ΓK]                 dλ'/dy = 1 − α' E|K|²_F
    p(y)  = y (1 − α' E Tr[K(I − χ*χ*ᵀ)])   dp/dy  = 1 − α' E Tr[K²(I − χ*χ*ᵀ)]

The bulk of eigenvalues ends at dλ'/dy = 0, the outlier is where p = 0. E|K|² falls with y, and
dp/dy ≥ dλ'/dy, so that beyond the edge p increases: there is at most one outlier, and there is one
just where p < 0 at the edge. Its eigenvector has the squared overlap dλ'/dp with w*.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .activations import Identity
from .eigen import eigh
from .finetuning import SideFields, StateEvolution
from .options import Options
from .proximal import solve
from .sampling import Draws
from .symmetric import identity_like
from .tasks import Task

HALVINGS = 64


class ZeroBranch(NamedTuple):
    """Values of λ' at which the Hessian at w = 0 loses positivity (theory section 5), scalars.

    - `outlier`: λ'(v) where α' E Tr[K(I − χ*χ*ᵀ)] = 1, of an eigenvector that overlaps with w*;
      NaN where there is none beyond the edge.
    - `edge`: λ'(v) where α' E|K|²_F = 1, of the bulk of the other eigenvectors.
    - `critical`: λ'_c, the outlier's where there is one, which is then the larger, else the edge's.
      The zero branch is locally stable for λ' > λ'_c.
    """

    outlier: jax.Array
    edge: jax.Array
    critical: jax.Array


def zero_branch(task: Task, fields: SideFields, draws: Draws) -> ZeroBranch:
    """λ'_c of one replicate, whose samples have the frozen layer's `fields` (z*, z), (T, T, n).

    For e = 1 these are the reused sequences' fields under R. `task.lam_ft` plays no role. First
    derivatives by the task's parameters and the fields are right, higher ones are not. Γ has to be
    bounded below, as it is for a bounded σ of bounded slope; raises ValueError for the identity.

    At small α' the edge rests on the few samples of least Γ and rises slowly with their number,
    by more than replicates scatter (softmax, T = 3, α' = 0.5: 4 % from n = 2^10 to 2^14; 1 % at
    α' = 1).
    """
    if isinstance(task.activation, Identity):
        raise ValueError(
            "activation = identity: has no zero branch, Γ is unbounded below and ŵ ≠ 0 at every λ'"
        )
    evolution = StateEvolution(task, fields, draws, Options())
    nothing = jnp.zeros(3, task.alpha_ft.dtype)
    gamma = evolution.problem.gamma(jnp.zeros_like(draws.spike), evolution.data(nothing))
    modes = jax.lax.stop_gradient(diagonalise(gamma, draws, task.alpha_ft))
    at_edge, at_outlier, exists = modes.roots()

    # Formulas of K itself from here on: derivatives of eigenvectors are singular where two
    # eigenvalues meet.
    def ridge_and_K(y):
        K = solve(gamma + y * identity_like(gamma), gamma)[0]
        return y + task.alpha_ft * draws.mean(jnp.sum(gamma * K, axis=(0, 1))), K

    # λ' is stationary at the edge: how that moves is of second order.
    edge, _ = ridge_and_K(at_edge)
    # The outlier moves as one step of Newton's takes it.
    outlier, K = ridge_and_K(at_outlier)
    K_spike = jnp.sum(K * draws.spike[None], axis=1)
    unaligned = jnp.trace(K) - jnp.sum(draws.spike * K_spike, axis=0)
    p = at_outlier * (1 - task.alpha_ft * draws.mean(unaligned))
    square = jnp.sum(K * K, axis=(0, 1))
    ridge_slope = 1 - task.alpha_ft * draws.mean(square)
    p_slope = ridge_slope + task.alpha_ft * draws.mean(jnp.sum(K_spike**2, axis=0))
    outlier = outlier - jax.lax.stop_gradient(ridge_slope / p_slope) * p

    return ZeroBranch(jnp.where(exists, outlier, jnp.nan), edge, jnp.where(exists, outlier, edge))


class HessianModes(eqx.Module):
    """Γ diagonalised on every sample: what the spectrum of the Hessian at w = 0 is made of.

    `values` (T, n) are the eigenvalues γ_i plus b, `overlaps` (T, n) the (e_i·χ*)². The functions
    take the distance t = y − b > 0, so that the eigenvalues y + γ_i keep their digits as t → 0.
    """

    values: jax.Array
    overlaps: jax.Array
    bound: jax.Array
    draws: Draws
    alpha: jax.Array

    def K(self, t) -> jax.Array:
        """The eigenvalues γ/(y + γ) of K, (T, n)."""
        return (self.values - self.bound) / (t + self.values)

    def ridge(self, t) -> jax.Array:
        """λ'(y) = y + α' E Tr[ΓK]."""
        return self.bound + t + self.mean((self.values - self.bound) * self.K(t))

    def replicon(self, t) -> jax.Array:
        """α' E|K|²_F, at most 1 on the zero branch."""
        return self.mean(self.K(t) ** 2)

    def misalignment(self, t) -> jax.Array:
        """α' E Tr[K(I − χ*χ*ᵀ)], 1 at the outlier."""
        return self.mean(self.K(t) * (1 - self.overlaps))

    def mean(self, values) -> jax.Array:
        """α' times the average over samples of the sum over modes of `values` (T, n)."""
        return self.alpha * self.draws.mean(jnp.sum(values, axis=0))

    def roots(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """y at the edge and at the outlier, and whether there is one; else both are the edge's.

        The edge lies below the first of these bounds and the outlier below the second, because
        |y + γ| ≥ t; the factors leave room for averaging weights that are not all positive.
        """
        size = jnp.abs(self.values - self.bound)
        highest = 2 * jnp.sqrt(self.mean(size**2)) + jnp.finfo(size.dtype).tiny
        # With uniform weights the edge is above b√(α'/n), far from here.
        lowest = highest * jnp.finfo(size.dtype).eps
        edge = _bisect(lambda t: self.replicon(t) > 1, lowest, highest)
        exists = self.misalignment(edge) > 1
        highest = jnp.maximum(edge, 2 * self.mean(size * jnp.abs(1 - self.overlaps)))
        outlier = _bisect(lambda t: self.misalignment(t) > 1, edge, highest)
        return self.bound + edge, self.bound + jnp.where(exists, outlier, edge), exists


def diagonalise(gamma: jax.Array, draws: Draws, alpha: jax.Array) -> HessianModes:
    """The modes of Γ (T, T, n) at α' = `alpha`."""
    values, vectors = eigh(gamma)
    overlaps = jnp.sum(vectors * draws.spike[:, None], axis=0) ** 2
    bound = jnp.maximum(-jnp.min(values), 0)
    return HessianModes(values + bound, overlaps, bound, draws, alpha)


def _bisect(is_below: Callable[[jax.Array], jax.Array], low, high) -> jax.Array:
    """The root between `low` and `high`, both positive, on a logarithmic scale."""

    def halve(_, bracket):
        low, high = bracket
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        below = is_below(middle)
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return jnp.sqrt(low) * jnp.sqrt(high)
