"""Replicon conditions: whether the replica-symmetric solution is stable (theory section 6)."""

import enum

import jax
import jax.numpy as jnp

from .spectrum import truncation_spread

LARGEST_SWITCHED_SHARE, LARGEST_JUMP_SHARE = 1e-3, 1e-2


class Stability(enum.IntEnum):
    """The verdict of a replicon and its error bar."""

    STABLE = 0
    UNDECIDED = 1
    UNSTABLE = 2
    UNDEFINED = 3

    @property
    def message(self) -> str:
        """The verdict in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Stability.STABLE: "The replicon is below 1: the equations describe the trained layer.",
    Stability.UNDECIDED: (
        "The replicon is 1 within two standard errors, or it is below 1 but the proximal map jumps "
        "between minima, which it does not see."
    ),
    Stability.UNSTABLE: (
        "The replicon is above 1: replica symmetry is broken, and these numbers are only an "
        "approximation to the trained layer."
    ),
    Stability.UNDEFINED: (
        "No replicon: the pre-training was given, or the solve met a number that is not finite."
    ),
}


def pretraining_replicon(alpha, response_norm, V_hat, eta, eps, kappa0) -> jax.Array:
    """The replicon of the pre-training, (75) with the correction of theory section 9.

    2α E|I + (V H)⁻¹|²_F/V² · ∬ μ_η μ_η [(ζ(x) − ζ(y))/(V̂ (x − y))]², where `response_norm` is
    E|X|²_F = E|I + (V H)⁻¹|²_F/V² (see `proximal.response`).
    """
    return 2 * alpha * response_norm * truncation_spread(eta, eps, kappa0) / V_hat**2


def finetuning_replicon(alpha_ft, response_norm, v) -> jax.Array:
    """The replicon of the fine-tuning, α' E|I + (v ∇²ψ)⁻¹|²_F = α' v² E|X|²_F (78)."""
    return alpha_ft * v**2 * response_norm


def jumps(switched_share: jax.Array, stein_gap: jax.Array, gap_error: jax.Array) -> jax.Array:
    """Whether jumps of the proximal map matter; see `SolveStatus` for the numbers.

    They do where more than a thousandth of the samples change minima, or where a hundredth of the
    response comes from jumps, by two standard errors. Numbers that are not known count as jumps.
    """
    carried = stein_gap - 2 * jnp.nan_to_num(gap_error)
    return ~((switched_share < LARGEST_SWITCHED_SHARE) & (carried <= LARGEST_JUMP_SHARE))


def verdict(replicon: jax.Array, stderr: jax.Array, jumps: jax.Array) -> jax.Array:
    """The `Stability` of a replicon; a standard error that is not known counts as zero.

    The replicon takes the proximal map for differentiable: where it `jumps`, one below 1 proves
    nothing.
    """
    margin = 2 * jnp.nan_to_num(stderr)
    decided = jnp.where(replicon - margin >= 1, Stability.UNSTABLE, Stability.UNDECIDED)
    finite = jnp.where((replicon + margin < 1) & ~jumps, Stability.STABLE, decided)
    return jnp.where(jnp.isfinite(replicon), finite, Stability.UNDEFINED)
