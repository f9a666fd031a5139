"""Bayes-optimal overlap of the pre-training, (87)–(89) (theory section 7)."""

import jax
import jax.numpy as jnp
import numpy as np

from ..activations import Identity, Softmax
from ..spectrum import quadrature
from ..symmetric import packed_size
from ..tasks import Task

NOISELESS = 1e-8  # relative to its largest value, below which η² counts as 0


def observed_fields(task: Task) -> int:
    """K = T² + T, of which softmax hides two: twice the independent numbers that σ lets through.

    Raises ValueError for other activations, which may hide more.
    """
    entries = 2 * packed_size(task.tokens)
    if isinstance(task.activation, Softmax):
        return entries - 2
    if isinstance(task.activation, Identity):
        return entries
    raise ValueError(
        f"activation = {task.activation.name!r}: the Bayes-optimal benchmark is known for softmax "
        "and identity"
    )


def pretraining_overlap(task: Task) -> jax.Array:
    """Q_BO in [0, Q0], right to 1e-8, with derivatives (87)–(89).

    With η² = 1/Q̂ both equations read Q_BO = Q0 + Δ/2 − αK η² and αK = d(η) + Δ/(2η²). Here
    d(η) = 1 − (4π²/3) η² ∫ρ³, which falls with η, is the mean squared error of S* observed in
    noise of variance η², over η². So the root in η² is unique.
    """
    ratio = task.alpha * observed_fields(task)
    largest = task.teacher_variance() / ratio

    def excess(eta2):
        return ratio - _error_ratio(eta2, task.kappa0) - task.delta / (2 * eta2)

    def bisect(function, guess):
        def halve(_, bracket):
            low, high = bracket
            middle = jnp.sqrt(low * high)
            negative = function(middle) < 0
            return jnp.where(negative, middle, low), jnp.where(negative, high, middle)

        return jnp.sqrt(jnp.prod(jnp.stack(jax.lax.fori_loop(0, 60, halve, (guess, largest)))))

    # Where Δ = 0 and samples are plenty nothing is left to learn, and η = 0.
    least = jax.lax.stop_gradient(NOISELESS * largest)
    known = excess(least) >= 0
    eta2 = jax.lax.custom_root(
        excess, least, bisect, lambda tangent, b: b / tangent(jnp.ones_like(b))
    )
    return jnp.where(known, task.teacher_norm(), task.teacher_variance() - ratio * eta2)


def _error_ratio(eta2, kappa0) -> jax.Array:
    """d(η) = 1 − (4π²/3) η² ∫ρ(t)³ dt with ρ the density of μ0 ⊞ semicircle of radius 2η."""
    rule = quadrature(jnp.sqrt(eta2), kappa0)
    cube = jnp.sum(rule.weights * (rule.G.imag / np.pi) ** 2)
    return 1 - 4 * np.pi**2 / 3 * eta2 * cube
