"""The fine-tuning at finite D with Gaussian side fields, where w alone is trained (theory 1, 2)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..active import choose
from ..finetuning import SideFields
from ..laws import correlated
from ..symmetric import identity_like, packed_size, root_weights, unpack
from ..tasks import Task

DATA, START = 3, 4  # streams of random numbers, beside those of sampling.py


class RankOneData(eqx.Module):
    """Sequences X_μ (T×D), i.i.d. N(0,1), a teacher w* with |w*|² = D, and the side fields.

    `inputs` (D, T·N') holds token a of sequence μ in column a N' + μ: so both products with it run
    along its rows. `teacher_weights` is w* (D,), `fields` are (z*, z) ~ Q (13), (T, T, N') each.
    """

    inputs: jax.Array
    teacher_weights: jax.Array
    fields: SideFields

    @property
    def dimension(self) -> int:
        """D."""
        return self.inputs.shape[0]

    def project(self, weights: jax.Array) -> jax.Array:
        """χ_μ = X_μ w/√D of every sequence, (T, N')."""
        tokens = self.fields.student.shape[0]
        return (weights @ self.inputs / self.dimension**0.5).reshape(tokens, -1)

    def backproject(self, values: jax.Array) -> jax.Array:
        """Σ_μ X_μᵀ g_μ/√D (D,) of `values` g (T, N'), the transpose of `project`."""
        return self.inputs @ values.reshape(-1) / self.dimension**0.5

    def teacher_field(self, spike: jax.Array) -> jax.Array:
        """z* + χ*χ*ᵀ − I (T, T, N') of the teacher's `spike` χ* = `project(teacher_weights)`."""
        field = self.fields.teacher
        return field + spike[:, None] * spike[None] - identity_like(field)


def draw_rank_one(task: Task, Q, M, dimension: int, seed: int) -> RankOneData:
    """N' = round(α' D) fresh sequences whose frozen layers have (Q, M), (13), and the teacher w*.

    `task` gives T, A0 = Q0 + Δ/2, α', the recalibration z → β z (26), and the ratio of active
    fine-tuning, which draws N'/ρ candidates and keeps those of least |σ(z) − σ(0)|²_F (Algorithm
    1). The same arguments give the same data.

    Raises ValueError for reused sequences (e = 1), whose fields are not Gaussian; for a (Q, M) that
    no covariance has; for α' D < 1/2; and for a bad dimension or seed.
    """
    if task.reuse:
        raise ValueError("reuse = True: must be False, reused sequences have no Gaussian fields")
    check_integer("dimension", dimension, 2)
    check_integer("seed", seed, 0)
    tokens, A0 = task.tokens, float(task.teacher_variance())
    if not M**2 <= A0 * Q < np.inf:
        raise ValueError(f"Q = {Q:g}: must be finite and at least M²/A0 = {M**2 / A0:g}")
    count = round(float(task.alpha_ft) * dimension)
    if count < 1:
        raise ValueError(f"dimension = {dimension}: must be large enough for one sequence")
    rng = np.random.default_rng([seed, DATA])
    dtype = task.delta.dtype

    ratio = float(task.active_ratio)
    size = (packed_size(tokens), round(count / ratio))
    normal = (jnp.asarray(rng.standard_normal(size), dtype) for _ in range(2))
    packed = correlated(task.teacher_variance(), M, jnp.asarray(Q, dtype), *normal)
    root = root_weights(tokens, packed[0])
    teacher, student = (unpack(root * field, tokens) for field in packed)
    student = task.beta * student
    if ratio < 1:
        chosen = choose(task.activation, ratio, student, count)
        teacher, student = teacher[..., chosen], student[..., chosen]

    w = rng.standard_normal(dimension)
    w *= np.sqrt(dimension) / np.linalg.norm(w)
    inputs = rng.standard_normal((dimension, tokens * count))
    return RankOneData(
        jnp.asarray(inputs, dtype), jnp.asarray(w, dtype), SideFields(teacher, student)
    )


def weights_at(data: RankOneData, q: float, m: float, seed: int) -> jax.Array:
    """w (D,) with |w|²/D = q and w·w*/D = m exactly, otherwise random and independent of X.

    Raises ValueError where q < m², and for a bad seed.
    """
    check_integer("seed", seed, 0)
    if not m**2 <= q < np.inf:
        raise ValueError(f"q = {q:g}: must be finite and at least m² = {m**2:g}")
    teacher = np.asarray(data.teacher_weights)
    noise = np.random.default_rng([seed, START]).standard_normal(data.dimension)
    noise -= teacher * (noise @ teacher / (teacher @ teacher))
    noise *= np.sqrt(data.dimension) / np.linalg.norm(noise)
    return jnp.asarray(m * teacher + np.sqrt(q - m**2) * noise, data.teacher_weights.dtype)


def check_integer(name: str, value, least: int) -> None:
    """Raise ValueError where `value` is not an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} = {value!r}: must be an integer of at least {least}")
