"""The attention layer (1) as an Equinox model, pre-trained weights and LoRA update included."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..activations import Activation
from ..symmetric import identity_like
from .parts import block_count, part_size


class Attention(eqx.Module):
    """ŷ(X) = σ(A − E A) X with A = X (W Wᵀ/√P + w wᵀ) Xᵀ/D, W (D, P) and w (D,), (1).

    E A = I (Tr Ŝ + |w|²)/D is the population's mean.
    """

    W: jax.Array
    w: jax.Array
    activation: Activation

    def __call__(self, X: jax.Array) -> jax.Array:
        """The output (T, D) for one sequence X (T, D)."""
        return self.activation(self.field(X[None])[..., 0]) @ X

    def field(self, inputs: jax.Array) -> jax.Array:
        """Centred pre-activations (T, T, n) of sequences (n, T, D)."""
        return self.frozen_field(inputs) + quadratic_field(self.w[:, None], inputs)

    def frozen_field(self, inputs: jax.Array) -> jax.Array:
        """The part of `field` that W makes."""
        return layer_field(self.W, inputs)


def layer_field(W: jax.Array, inputs: jax.Array) -> jax.Array:
    """X W Wᵀ Xᵀ/(D√P), centred, (T, T, n) for a layer W (D, P), in parts for the memory's sake."""
    count, tokens, _ = inputs.shape
    size = part_size(inputs)

    def fill(i, fields):
        start = jnp.minimum(i * size, count - size)
        part = jax.lax.dynamic_slice_in_dim(inputs, start, size)
        field = quadratic_field(W, part) / W.shape[1] ** 0.5
        return jax.lax.dynamic_update_slice_in_dim(fields, field, start, 2)

    empty = jnp.zeros((tokens, tokens, count), inputs.dtype)
    return jax.lax.fori_loop(0, -(-count // size), fill, empty)


def quadratic_field(factor: jax.Array, inputs: jax.Array) -> jax.Array:
    """X F Fᵀ Xᵀ/D − I |F|²/D (T, T, n) for a factor F (D, k) and sequences (n, T, D)."""
    dimension = factor.shape[0]
    field = products(project(inputs, factor)) / dimension
    return field - identity_like(field) * jnp.sum(factor**2) / dimension


def project(inputs: jax.Array, factor: jax.Array) -> jax.Array:
    """X F (n, T, k) of sequences (n, T, D)."""
    count, tokens, dimension = inputs.shape
    # As one matrix product: batches of T rows are slow.
    rows = jnp.matmul(inputs.reshape(-1, dimension), factor, precision="highest")
    return rows.reshape(count, tokens, -1)


def backproject(inputs: jax.Array, rows: jax.Array) -> jax.Array:
    """Σ_μ X_μᵀ B_μ (D, k) of rows B (n, T, k), the transpose of `project`."""
    dimension = inputs.shape[2]
    if rows.shape[2] == 1:
        # Blocks that stay in the cache, summed at the end, are read at the memory's full speed.
        blocks = block_count(inputs)
        sums = jnp.einsum(
            "br,brd->bd",
            rows.reshape(blocks, -1),
            inputs.reshape(blocks, -1, dimension),
            precision="highest",
        )
        return jnp.sum(sums, axis=0)[:, None]
    # XLA for CPUs contracts over leading axes at half the speed: transposing costs less.
    transposed = jax.lax.optimization_barrier(inputs.reshape(-1, dimension).T)
    return jnp.matmul(transposed, rows.reshape(-1, rows.shape[2]), precision="highest")


def products(rows: jax.Array) -> jax.Array:
    """B Bᵀ (T, T, n) of each sample's rows B (n, T, k)."""
    # Not a batched matrix product, which takes ten times as long for few tokens.
    return jnp.moveaxis(jnp.sum(rows[:, :, None] * rows[:, None], axis=-1), 0, -1)
