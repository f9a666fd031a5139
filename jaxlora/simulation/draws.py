"""Random numbers of an experiment, drawn on the device, the same for the same seed."""

import enum

import jax
import jax.numpy as jnp

from ..symmetric import packed_size, root_weights, unpack

BLOCK_SIZE = 2**22  # numbers drawn at a time: more would double the memory of the largest sets


class Stream(enum.IntEnum):
    """What a random number is for; streams of one seed are independent."""

    TEACHER = 0
    PRETRAINING = 1
    FINETUNING = 2
    TEST = 3
    PRETRAINING_START = 4
    FINETUNING_START = 5


def stream_key(seed: int, stream: Stream) -> jax.Array:
    """The key of one stream of a seed."""
    return jax.random.fold_in(jax.random.key(seed), int(stream))


def draw_inputs(key: jax.Array, count: int, tokens: int, dimension: int, dtype) -> jax.Array:
    """`count` sequences X (count, T, D), i.i.d. N(0, 1)."""
    block = min(count, max(1, BLOCK_SIZE // (tokens * dimension)))

    def fill(i, inputs):
        # The last block starts earlier rather than being shorter, and overwrites what is there.
        start = jnp.minimum(i * block, count - block)
        drawn = jax.random.normal(jax.random.fold_in(key, i), (block, tokens, dimension), dtype)
        return jax.lax.dynamic_update_slice(inputs, drawn, (start, 0, 0))

    empty = jnp.zeros((count, tokens, dimension), dtype)
    return jax.lax.fori_loop(0, -(-count // block), fill, empty)


def draw_field(key: jax.Array, count: int, tokens: int, dtype) -> jax.Array:
    """Symmetric Gaussian fields (T, T, count) of entry variance s_ab = 1 + δ_ab."""
    normal = jax.random.normal(key, (packed_size(tokens), count), dtype)
    return unpack(root_weights(tokens, normal) * normal, tokens)


def draw_noise(key: jax.Array, delta, count: int, tokens: int, dtype) -> jax.Array:
    """Label noise ξ (T, T, count), symmetric, of entry variance Δ/(2 − δ_ab)."""
    return jnp.sqrt(jnp.asarray(delta, dtype) / 2) * draw_field(key, count, tokens, dtype)
