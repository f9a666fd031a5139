"""How many sequences to multiply by a matrix at a time."""

import jax

from ..programs import platform

# A part's product should stay in the cache until it is used; accelerators want large parts.
PART_BYTES = {"cpu": 2**22}
LARGE_PART_BYTES = 2**29
LEAST_ROWS = 150  # of a block, each of which writes a row of sums beside those that it reads
MOST_BLOCKS = 8  # times more of them than needed, where the sequences do not divide evenly


def part_size(inputs: jax.Array | jax.ShapeDtypeStruct) -> int:
    """The number of sequences (N, T, D) in a part, at least 1 and at most N.

    Parts of one size overlap where they do not divide N, so it is the smallest for their number.
    """
    count, tokens, dimension = inputs.shape
    budget = PART_BYTES.get(platform(), LARGE_PART_BYTES)
    largest = max(1, budget // (tokens * dimension * inputs.dtype.itemsize))
    return -(-count // -(-count // largest))


def block_count(inputs: jax.Array) -> int:
    """Into how many blocks of equal size to divide the sequences, each about a part or smaller."""
    count, tokens, _ = inputs.shape
    largest = min(count, max(part_size(inputs), -(-LEAST_ROWS // tokens)))
    blocks = range(-(-count // largest), MOST_BLOCKS * -(-count // largest))
    return next((blocks for blocks in blocks if count % blocks == 0), 1)
