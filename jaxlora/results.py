"""How a solve ended, as numbers that pass through jit and words that people read."""

import enum

import jax
import jax.numpy as jnp


class Result(enum.IntEnum):
    """Outcome of a solve, ordered by severity: the worst of several is the largest."""

    CONVERGED = 0
    COLLAPSED = 1
    GIVEN = 2
    SWITCHING = 3
    NOT_CONVERGED = 4
    NON_FINITE = 5
    INVALID_PARAMETER = 6

    @property
    def successful(self) -> bool:
        """Whether the numbers can be used."""
        return self <= Result.GIVEN

    @property
    def message(self) -> str:
        """The outcome in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Result.CONVERGED: "The fixed point was found to the tolerance.",
    Result.COLLAPSED: "λ ≥ λ_c: the pre-trained weights vanish, Ŵ = 0 exactly.",
    Result.GIVEN: "Q0, Q and M were given; no pre-training was solved.",
    Result.SWITCHING: (
        "Too many samples switch between minima of their proximal map for the fixed point to be "
        "trusted; see switching_jump and switched_share."
    ),
    Result.NOT_CONVERGED: (
        "The iteration stopped at its last iterate above the tolerance; try more samples, more "
        "iterations, or method='damped' with a smaller damping."
    ),
    Result.NON_FINITE: "The iteration met a number that is not finite.",
    Result.INVALID_PARAMETER: "A parameter lies outside its allowed range.",
}


def worst(results: jax.Array) -> jax.Array:
    """The most severe of several results, or COLLAPSED only where all are."""
    mixed = jnp.any(results == Result.COLLAPSED) & jnp.any(results == Result.CONVERGED)
    largest = jnp.max(results)
    return jnp.where(mixed & (largest == Result.COLLAPSED), Result.CONVERGED, largest)
