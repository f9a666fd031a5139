"""Where observables are not smooth, and what their derivatives mean there."""

import enum

import jax
import jax.numpy as jnp

from .finetuning import APART
from .outputs import Branch, mean_and_stderr
from .stability import Stability
from .tasks import Task


class Kink(enum.IntFlag):
    """What the derivatives of a stage leave out."""

    COLLAPSE = 1
    JUMPS = 2
    REPLICON = 4
    SELECTION = 8
    BRANCHES = 16
    DEGENERATE = 32

    @property
    def names(self) -> list[str]:
        """The names of those that are set."""
        return [str(kink.name).lower() for kink in self]

    @property
    def messages(self) -> tuple[str, ...]:
        """A sentence for each that is set."""
        return tuple(_MESSAGES[kink] for kink in self)


_MESSAGES = {
    Kink.COLLAPSE: (
        "λ ≥ λ_c: derivatives are those of Ŵ = 0, from above λ_c; near it those from below differ."
    ),
    Kink.JUMPS: (
        "Samples change between minima of their proximal map: derivatives are those on the "
        "branches that were followed, without what the changes contribute."
    ),
    Kink.REPLICON: (
        "The replicon is not below 1 for certain: derivatives are those of the replica-symmetric "
        "equations, which the trained layer leaves where the replicon crosses 1."
    ),
    Kink.SELECTION: (
        "Active fine-tuning selects by a hard threshold: derivatives are those at a fixed "
        "selection, without what its change contributes; by λ' and α' there is no change."
    ),
    Kink.BRANCHES: (
        "Two branches have the same energy within two standard errors: derivatives are those of "
        "the one reported, and do not see that the other may take its place."
    ),
    Kink.DEGENERATE: (
        "Q = M²/(Q0 + Δ/2): the frozen layer follows the teacher without noise of its own, whose "
        "derivatives are left out; by Q, M, Q0 and Δ those of the errors are wrong."
    ),
}


def _flag(kink: Kink, where) -> jax.Array:
    return jnp.where(where, int(kink), 0)


def pretraining_kinks(collapsed, jumps, stability) -> jax.Array:
    """The `Kink` of a pre-training, `collapsed` on a replicate at least."""
    return (
        _flag(Kink.COLLAPSE, collapsed)
        | _flag(Kink.JUMPS, jumps)
        | _flag(Kink.REPLICON, stability != Stability.STABLE)
    )


def given_kinks(rest) -> jax.Array:
    """The `Kink` of a given pre-training with Q − M²/(Q0 + Δ/2) = `rest`."""
    return _flag(Kink.DEGENERATE, rest <= 0)


def finetuning_kinks(task: Task, coexisting, jumps, stability) -> jax.Array:
    """The `Kink` of a fine-tuning, `coexisting` where another branch has the same energy."""
    return (
        _flag(Kink.JUMPS, jumps)
        | _flag(Kink.REPLICON, stability != Stability.STABLE)
        | _flag(Kink.SELECTION, task.active_ratio < 1)
        | _flag(Kink.BRANCHES, coexisting)
    )


def coexist(branches: tuple[Branch, ...]) -> jax.Array:
    """Whether fixed points that differ have energies that do not, within two standard errors.

    The branches' numbers have a leading axis of replicates.
    """
    one, other = branches
    distance = jnp.abs(jnp.mean(one.q - other.q)) + jnp.abs(jnp.mean(one.m - other.m))
    gap, stderr = mean_and_stderr(one.energy - other.energy)
    return (distance > APART) & ~(jnp.abs(gap) > 2 * jnp.nan_to_num(stderr))
