"""The loss of one column near a point, by products in float32 that are exact at the point.

Reading the sequences is what an evaluation takes, and in float32 they are half as long. Only
X (F − F₀) and Xᵀ (B − B₀) are multiplied in float32, where X F₀ and Xᵀ B₀ of the point are known:
what is rounded vanishes at the point, and everything else is float64. Only the slope of the value,
which line searches see, differs from the gradient by a relative 1e-7 there.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .attention import backproject, project
from .objective import Objective, force_times

LARGE = 2**24  # numbers that no cache holds: reading them is what takes the time


def in_single(inputs: jax.Array, columns: int) -> jax.Array | None:
    """The sequences (N, T, D) in float32, where products with `columns` take the time to read them.

    A copy, unless they are in float32 already.
    """
    if columns > 1 or not is_large(inputs.size):
        return None
    return inputs.astype(jnp.float32)


def is_large(size: int) -> bool:
    """Whether sequences of so many numbers are read from memory in every product."""
    return size >= LARGE


class Nearby(eqx.Module):
    """An `objective` near a `point` F₀ (D, 1), and its sequences in float32.

    `rows` X F₀ and `moved` B₀ = K X F₀ (N, T, 1) and `back` Σ_μ X_μᵀ B₀_μ (D, 1) are the point's.
    """

    objective: Objective
    inputs: jax.Array
    point: jax.Array
    rows: jax.Array
    moved: jax.Array
    back: jax.Array

    def value_and_gradient(self, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        """L(F) and ∂L/∂F (D, 1)."""
        value, by_norm, moved = _evaluate(self.objective, self.project(factor), factor)
        return _with_norm(self.objective, factor, value, self.backproject(moved), by_norm)

    def project(self, factor: jax.Array) -> jax.Array:
        """X F (N, T, 1)."""
        return self.rows + project(self.inputs, self._rounded(factor - self.point))

    def backproject(self, rows: jax.Array) -> jax.Array:
        """Σ_μ X_μᵀ B_μ (D, 1) of rows B (N, T, 1)."""
        return self.back + backproject(self.inputs, self._rounded(rows - self.moved))

    def _rounded(self, x: jax.Array) -> jax.Array:
        return x.astype(self.inputs.dtype)


def near(
    objective: Objective, inputs: jax.Array, point: jax.Array
) -> tuple[Nearby, jax.Array, jax.Array]:
    """The objective near `point` (D, 1) for its sequences in float32; L and ∂L/∂F there, exact."""
    value, gradient, *known = _known(objective, point)
    return Nearby(objective, inputs, point, *known), value, gradient


def near_zero(objective: Objective, inputs: jax.Array) -> Nearby:
    """As `near` the point 0, where nothing needs to be multiplied."""
    count, tokens, dimension = inputs.shape
    point = jnp.zeros((dimension, 1), objective.data.inputs.dtype)
    rows = jnp.zeros((count, tokens, 1), point.dtype)
    return Nearby(objective, inputs, point, rows, rows, point)


# Its arguments are not among what it returns: that would copy the sequences.
@eqx.filter_jit
def _known(objective: Objective, point):
    inputs = objective.data.inputs
    rows = project(inputs, point)
    value, by_norm, moved = _evaluate(objective, rows, point)
    back = backproject(inputs, moved)
    return *_with_norm(objective, point, value, back, by_norm), rows, moved, back


def _evaluate(objective: Objective, rows, factor):
    value, force, by_norm = objective.forces(objective.data, rows, jnp.sum(factor**2))
    return value, by_norm, force_times(force, rows)


def _with_norm(objective: Objective, factor, value, back, by_norm):
    value = value + objective.ridge * jnp.sum(factor**2)
    return value, back + 2 * (by_norm + objective.ridge) * factor
