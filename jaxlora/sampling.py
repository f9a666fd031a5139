"""Frozen Gaussian draws: scrambled Sobol points or plain Monte Carlo, in independent replicates."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from .folding import fold_sign, sort_tokens
from .symmetric import packed_size, weights
from .tails import replace_tails

METHODS = ("sobol", "monte_carlo")
FAINT = 1e-2  # of a control variate, relative to what it controls, to have little say
# Streams: proximal maps, cheaper test averages, candidates, nodes of integrals over a posterior.
PRETRAINING, FINETUNING, TEST, POOL, NODES = range(5)


class FieldDraws(eqx.Module):
    """Standard normal draws of the laws Q and R and the weights their averages take, samples last.

    `first` and `second` have shape (..., L, n); `weights` (..., n) sum to one. The leading axis
    counts replicates where present.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray

    def mean(self, values: jax.Array) -> jax.Array:
        """E over one replicate's draws of `values` (n,)."""
        return jnp.sum(self.weights * values)

    def responses(self, traces: jax.Array, norms: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tr X and |X|²_F (n,) of responses X, with heavy tails to be averaged (see `tails`)."""
        return replace_tails(traces, norms)

    def controlled_mean(self, values: jax.Array, control: jax.Array) -> jax.Array:
        """E of `values` (n,), with `control` (n,), whose mean is zero, as a control variate.

        One that vanishes beside them fades, as its regression has no limit.
        """
        centred = control - jnp.mean(control)
        square = jnp.mean(centred**2) + FAINT**2 * jnp.mean(values**2)
        slope = jnp.mean(centred * values) / jnp.where(square > 0, square, 1.0)
        return self.mean(values - slope * control)


class Draws(FieldDraws):
    """The draws of Q' and R' as well: `spike` and `noise`, of shape (..., T, n).

    They stand for all that symmetries of the equations relate them to (see `folding`).
    """

    spike: np.ndarray
    noise: np.ndarray


class Samples(eqx.Module):
    """The frozen draws of a solve; `pool` are the candidates of active fine-tuning.

    Those of the two stages are independent, since each stage has its own most important variables,
    and the first of Sobol points are the most uniform.
    """

    pretraining: FieldDraws | None
    finetuning: Draws
    test: Draws
    pool: FieldDraws | None


@functools.lru_cache(maxsize=4)
def draw_fields(
    tokens: int, samples: int, replicates: int, seed: int, stream: int, method: str = "sobol"
) -> FieldDraws:
    """The draws of all replicates for a stage without spike; arguments as in `draw`."""
    size = packed_size(tokens)
    normal = standard_normal(2 * size, samples, replicates, seed, stream, method)
    first, second = np.split(normal, 2, axis=1)
    features = [_features(_families(tokens, *pair)) for pair in zip(first, second, strict=True)]
    return FieldDraws(first, second, np.stack([_averaging_weights(f) for f in features]))


@functools.lru_cache(maxsize=4)
def draw(
    tokens: int,
    samples: int,
    replicates: int,
    seed: int,
    stream: int,
    method: str = "sobol",
    equivariant: bool = False,
) -> Draws:
    """The draws of all replicates, the same for the same arguments.

    Replicates are independent scrambles (or independent draws), so that their scatter measures the
    sampling error. Sobol points are at their best where `samples`, the number in one replicate, is
    a power of two. For an `equivariant` activation the tokens are sorted. Raises ValueError for an
    unknown method.
    """
    size = packed_size(tokens)
    sizes = (tokens, tokens, size, size)
    normal = standard_normal(sum(sizes), samples, replicates, seed, stream, method)
    spike, noise, first, second = np.split(normal, np.cumsum(sizes)[:-1], axis=1)
    spike, noise = sort_tokens(spike) if equivariant else spike, fold_sign(noise)
    averaging = []
    for *fields, chi, zeta in zip(first, second, spike, noise, strict=True):
        features = _features(_families(tokens, *fields), (chi, zeta))
        averaging.append(_averaging_weights(features))
    return Draws(first, second, np.stack(averaging), spike, noise)


def draw_nodes(
    components: int, dimension: int, nodes: int, replicates: int, seed: int
) -> np.ndarray:
    """Standard normal nodes (replicates, components, dimension, nodes) in pairs ±, for integrals.

    The pairs average odd functions to zero.
    """
    half = standard_normal(components * dimension, nodes // 2, replicates, seed, NODES)
    half = half.reshape(replicates, components, dimension, -1)
    return np.concatenate([half, -half], axis=-1)


def standard_normal(
    dimension: int, samples: int, replicates: int, seed: int, stream: int, method: str = "sobol"
) -> np.ndarray:
    """Standard normal draws (replicates, dimension, samples), independent between replicates."""
    if method not in METHODS:
        raise ValueError(f"sampling = {method!r}: must be one of {', '.join(METHODS)}")
    draw_one = _sobol if method == "sobol" else _monte_carlo
    normal = np.empty((replicates, dimension, samples))
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, stream, replicate])
        normal[replicate] = draw_one(dimension, samples, rng)
    return normal


def _sobol(dimension: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    sobol = qmc.Sobol(dimension, scramble=True, rng=rng)
    with warnings.catch_warnings():
        # Other sizes than powers of two are the caller's choice; error bars show their price.
        warnings.filterwarnings("ignore", "The balance properties of Sobol", UserWarning)
        uniform = sobol.random(samples)
    half_cell = 0.5 * 2.0**-30  # scipy's points are multiples of 2^-30, 0 among them
    return ndtri(uniform.T * (1 - 2 * half_cell) + half_cell)


def _monte_carlo(dimension: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((dimension, samples))


Pair = tuple[np.ndarray, np.ndarray]


def _families(tokens: int, first: np.ndarray, second: np.ndarray) -> list[Pair]:
    """The pairs of draws that permutations of the tokens relate, each of shape (members, n)."""
    diagonal = weights(tokens) == 2
    parts = (diagonal, ~diagonal) if tokens > 1 else (diagonal,)
    return [(first[part], second[part]) for part in parts]


def _features(families: list[Pair], *spikes: Pair) -> np.ndarray:
    """Functions of the draws with mean zero, shape (features, n): sums, squares, products.

    Those of the `spikes` (χ*, ζ) are even, as all that is averaged is.
    """
    features = [x.sum(0) for pair in families for x in pair]
    for a, b in [*families, *spikes]:
        features += [(a * b).sum(0), (a**2 - 1).sum(0), (b**2 - 1).sum(0)]
    return np.array(features)


def _averaging_weights(features: np.ndarray) -> np.ndarray:
    """Weights whose averages are regression estimates with the features as control variates.

    They average the features to their known mean 0, so whatever is linear in them has no sampling
    error; the bias is O(1/n). Uniform where the samples are too few to regress.
    """
    count, samples = features.shape
    uniform = np.full(samples, 1 / samples)
    if samples < 20 * count:
        return uniform
    mean = features.mean(1)
    centred = features - mean[:, None]
    return uniform - np.linalg.solve(centred @ centred.T, mean) @ centred
