"""The loss of many columns with its data in float32.

Matrix products are what an evaluation takes, and in float32 they take half as long. Rounding errors
average out over the samples, and leave some 1e-7 in the gradient per weight.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from .objective import Objective

LEAST_TOL = 1e-6  # root-mean-square gradient that rounding lets be found
SAFETY = 0.9  # of the tolerance, by which the exact gradient passes as well
WORTH_ROUNDING = 2e7  # numbers in X times columns, from which products take the time


class Rounded(eqx.Module):
    """An objective of factors in float64 whose `single` has its data in float32."""

    single: Objective
    ridge: jax.Array

    def value_and_gradient(self, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        """L(F) and ∂L/∂F (D, k)."""
        single = factor.astype(jnp.float32)
        value, gradient = self.single.data_term(single, single)
        value = value + self.ridge * jnp.sum(factor**2)
        return value, gradient + 2 * self.ridge * factor


def rounded(objective: Objective) -> Rounded:
    """The objective with its data in float32."""
    single = jax.tree.map(
        lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x, objective
    )
    return Rounded(single, objective.ridge)


def is_worth_rounding(inputs: jax.Array | jax.ShapeDtypeStruct, columns: int) -> bool:
    """Whether products of sequences in float64 with so many columns are what takes the time."""
    return columns > 1 and inputs.dtype == jnp.float64 and inputs.size * columns >= WORTH_ROUNDING
