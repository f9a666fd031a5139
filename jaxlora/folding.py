"""One representative of all draws (χ*, ζ) that symmetries of the equations relate.

Every average is over functions that (χ*, ζ) → (−χ*, −ζ) leaves alone, and for an equivariant σ a
common permutation of the tokens of all fields too. Quasi-random points that fill a domain of
representatives, 2 T! times smaller than the space, average such functions with less error.
"""

import numpy as np
from scipy.linalg import helmert
from scipy.special import ndtr, ndtri


def fold_sign(noise: np.ndarray) -> np.ndarray:
    """ζ with Σ_a ζ_a ≥ 0, the law given that, from standard normal `noise` (..., T, n)."""
    rotation = helmert(noise.shape[-2], full=True)  # its first row is 1/√T
    along = ndtri(0.5 + 0.5 * ndtr(noise[..., :1, :]))
    return rotation.T @ np.concatenate([along, noise[..., 1:, :]], axis=-2)


def sort_tokens(spike: np.ndarray) -> np.ndarray:
    """χ*_1 ≤ … ≤ χ*_T, the law given that, from standard normal `spike` (..., T, n).

    The largest of k uniform variables is distributed as the k-th root of one, and given it the
    others are uniform below.
    """
    tokens = spike.shape[-2]
    size = np.arange(1, tokens + 1)[:, None]
    root = ndtr(spike) ** (1 / size)
    return ndtri(np.flip(np.cumprod(np.flip(root, axis=-2), axis=-2), axis=-2))
