"""Effective noise and recalibration (theory section 8)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def effective_noise(teacher_variance, Q, M, beta: ArrayLike = 1.0) -> jax.Array:
    """Δ_eff(β) = Δ/2 + Q0 + β²Q − 2βM (25), (26), with `teacher_variance` A0 = Q0 + Δ/2.

    Arguments are numbers or arrays that broadcast, all O(1).
    """
    return teacher_variance + beta**2 * Q - 2 * beta * M


def best_beta(Q, M) -> jax.Array:
    """β = M/Q, the recalibration of least effective noise (26)."""
    return M / Q


def recalibrated_noise(teacher_variance, Q, M) -> jax.Array:
    """Δ_eff = Δ/2 + Q0 − M²/Q at β = M/Q, and of active fine-tuning as ρ → 0 (28)."""
    return teacher_variance - M**2 / Q


def reused_noise(noise, V, tokens: int) -> jax.Array:
    """Δ_eff(e=1) = Δ_eff/(1 + 4V/T²)² on reused sequences, for σ = x/T (27)."""
    return noise / (1 + 4 * V / tokens**2) ** 2


def identity_finetuned_error(noise, q, m, tokens: int) -> jax.Array:
    """E' = (T² + T)/T² (Δ_eff + 1 + q² − 2m²) for σ = x/T, from (73)."""
    return (1 + 1 / tokens) * (jnp.asarray(noise) + 1 + q**2 - 2 * m**2)
