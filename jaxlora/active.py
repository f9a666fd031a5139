"""Algorithm 1, active fine-tuning: which candidate sequences are labelled (theory section 8)."""

import math

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .activations import Activation

LARGEST_POOL = 64  # candidates per kept sample; below ρ = 1/64 candidates are used repeatedly
TRACED_POOL = 16  # the same where ρ is traced and sizes must not depend on it


def pool_factor(active_ratio: jax.Array) -> int:
    """Candidates to draw for each sample kept: a power of two ≥ 1/ρ, or 0 where all are kept."""
    if isinstance(active_ratio, Tracer):
        return TRACED_POOL
    ratio = float(active_ratio)
    if not 0 < ratio < 1:
        return 0
    return min(2 ** math.ceil(math.log2(1 / ratio)), LARGEST_POOL)


def distances(activation: Activation, student) -> jax.Array:
    """|σ(z) − σ(0)|²_F of candidates z (T, T, pool), by which Algorithm 1 selects; (pool,)."""
    zero = jnp.zeros(student.shape[:2], student.dtype)
    return activation.loss(student, activation(zero)[..., None])


def by_distance(activation: Activation, student) -> jax.Array:
    """Indices of candidates z (T, T, pool) in order of their distance."""
    return jnp.argsort(distances(activation, student))


def choose(activation: Activation, active_ratio, student, count: int) -> jax.Array:
    """Indices of `count` samples in the share ρ of candidates of least |σ(z) − σ(0)|²_F.

    `student` are the candidates' z (T, T, pool); the samples come evenly from the kept ones in
    order of that distance. The choice is a hard threshold: it has no derivative.
    """
    pool = student.shape[-1]
    order = by_distance(activation, student)
    steps = (jnp.arange(count) + 0.5) / count
    return order[jnp.minimum((steps * active_ratio * pool).astype(int), pool - 1)]
