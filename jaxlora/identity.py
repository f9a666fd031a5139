"""What tells an activation from others of the same name: its values at fixed matrices.

Code would not do: what a function computes depends on globals, defaults and objects too.
"""

import hashlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .activations import ACTIVATIONS, Activation

PROBE_SEED = 2606
SCALES = np.geomspace(0.1, 10, 8)  # of the matrices: near 0 many functions are alike
DIGITS = 8  # few enough for float64 to give the same ones everywhere


def is_built_in(activation: Activation) -> bool:
    """Whether the activation is the one of its name that comes with the package."""
    return bool(eqx.tree_equal(activation, ACTIVATIONS.get(activation.name)))


def values_at_probes(activation: Activation, tokens: int) -> np.ndarray:
    """The values of an activation at fixed symmetric matrices, (T, T, len(SCALES))."""
    normal = np.random.default_rng(PROBE_SEED).standard_normal((tokens, tokens, len(SCALES)))
    return np.asarray(activation(jnp.asarray(SCALES * (normal + normal.swapaxes(0, 1)))))


def identity_of(activation: Activation, *tokens: int) -> str:
    """The name of an activation, with a digest of the values for so many tokens if it is custom.

    It is the same in every process and precision.
    """
    if is_built_in(activation):
        return activation.name
    with jax.enable_x64(True):
        parts = [_rounded(values_at_probes(activation, number)) for number in tokens]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return f"{activation.name} {digest[:12]}"


def _rounded(values: np.ndarray) -> tuple[list, list]:
    """Each matrix in units of a power of ten, rounded, and the units."""
    values = values.astype(float)
    largest = np.max(np.abs(values), axis=(0, 1), where=np.isfinite(values), initial=0.0)
    unit = 10 ** np.floor(np.log10(np.where(largest > 0, largest, 1.0)))
    rounded = np.round(values / unit, DIGITS) + 0.0  # which makes −0 a 0
    return unit.tolist(), rounded.tolist()
