"""The losses (2) and (3) at finite D and their gradients, one matrix product each way.

Both are functions of a factor F (D, k): W with the scale 1/(D√P) in the pre-training, w (k = 1)
with 1/D in the fine-tuning,

    L(F) = Σ_μ |(σ(A_μ) − σ(A*_μ)) X_μ|²_F/D + ridge |F|²,
    A_μ = frozen_μ + scale X_μ F Fᵀ X_μᵀ − mean.

They need the sequences only through X_μ F and the Gram matrices X_μ X_μᵀ/D.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from ..activations import Activation
from ..symmetric import identity_like
from .attention import backproject, products, project
from .parts import part_size


class TrainingSet(eqx.Module):
    """Sequences `inputs` (N, T, D), and per sample (T, T, N): their Gram matrices X Xᵀ/D, the
    teacher's attention `target` σ(A* − E A* + ξ), and the centred `frozen` pre-activations.
    """

    inputs: jax.Array
    gram: jax.Array
    target: jax.Array
    frozen: jax.Array

    @property
    def count(self) -> int:
        """The number of samples N."""
        return self.inputs.shape[0]

    def part(self, start, size: int, first) -> "TrainingSet":
        """The samples start … start + size, those before `first` without any weight."""

        def cut(x, axis):
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

        weight = (start + jnp.arange(size) >= first).astype(self.gram.dtype)
        gram = cut(self.gram, 2) * weight[None, None]
        return TrainingSet(cut(self.inputs, 0), gram, cut(self.target, 2), cut(self.frozen, 2))


def grams(inputs: jax.Array) -> jax.Array:
    """Gram matrices X Xᵀ/D (T, T, N)."""
    return products(inputs) / inputs.shape[2]


class Objective(eqx.Module):
    """The loss of one stage; `empirical` centres over the set, not by the population's mean."""

    data: TrainingSet
    activation: Activation
    ridge: jax.Array
    scale: jax.Array
    empirical: bool = eqx.field(static=True, default=False)

    def value(self, factor: jax.Array) -> jax.Array:
        """L(F), a sum over the samples."""
        return self.value_and_gradient(factor)[0]

    def value_and_gradient(self, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
        """L(F) and ∂L/∂F (D, k)."""
        value, gradient = self.data_term(factor, factor)
        value = value.astype(factor.dtype) + self.ridge * jnp.sum(factor**2)
        return value, gradient + 2 * self.ridge * factor

    def data_loss(self, factor: jax.Array) -> jax.Array:
        """Σ_μ |ŷ − y|²_F/D."""
        return self.data_term(factor, factor)[0].astype(factor.dtype)

    def slack(self, factor: jax.Array) -> jax.Array:
        """The matrix K (D, D) with ∂L/∂F = 2 K F.

        At a minimum over factors of any rank it has no negative eigenvalue.
        """
        eye = jnp.eye(factor.shape[0], dtype=factor.dtype)
        matrix = self.data_term(factor, eye)[1] / 2 + self.ridge * eye
        return (matrix + matrix.T) / 2

    def data_term(self, factor: jax.Array, along: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`data_loss` at F, in float64 where JAX has it, and 2 (∂/∂FFᵀ) H for a factor H = `along`.

        For H = F (D, k) that is its gradient.
        """
        data = self.data
        size = self._part_size(factor)
        norm = jnp.sum(factor**2)

        def add(i, total):
            start = jnp.minimum(i * size, data.count - size)
            part = data if size == data.count else data.part(start, size, i * size)
            return jax.tree.map(jnp.add, total, self._part_term(part, factor, along, norm))

        start = (jnp.zeros((), float), jnp.zeros_like(along), jnp.zeros_like(norm))
        value, gradient, by_norm = jax.lax.fori_loop(0, -(-data.count // size), add, start)
        return value, gradient + 2 * by_norm * along

    def _part_term(self, part: TrainingSet, factor, along, norm):
        rows = project(part.inputs, factor)
        value, force, by_norm = self.forces(part, rows, norm)
        if along is not factor:
            rows = project(part.inputs, along)
        return value, backproject(part.inputs, force_times(force, rows)), by_norm

    def forces(
        self, part: TrainingSet, rows: jax.Array, norm: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The data loss as a function of its `rows` X F (n, T, k) and the `norm` |F|².

        With it come its derivatives: K (T, T, n) of each sample, by whose products K_μ X_μ F those
        by X_μ F are given, and that by |F|².
        """
        output, pull_back = jax.vjp(self._output(part), products(rows), norm)
        difference = output - part.target
        moved = times_gram(difference, part.gram)
        value = accurate_sum(jnp.sum(difference * moved, axis=(0, 1)))
        # Gram matrices are symmetric; autodiff would not know.
        force, by_norm = pull_back(2 * moved)
        return value, force + jnp.swapaxes(force, 0, 1), by_norm

    def _output(self, data: TrainingSet):
        """σ(A) as a function of X F Fᵀ Xᵀ (T, T, n) and |F|²."""

        def output(products, norm):
            field = data.frozen + self.scale * products
            if self.empirical:
                field = field - jnp.mean(field, axis=2, keepdims=True)
            else:
                field = field - identity_like(field) * (self.scale * norm)
            return self.activation(field)

        return output

    def _part_size(self, factor) -> int:
        """Samples to take at a time; all of them where the mean over the set is needed."""
        if self.empirical or factor.shape[1] == 1:
            return self.data.count
        return part_size(self.data.inputs)


def force_times(force: jax.Array, rows: jax.Array) -> jax.Array:
    """K_μ B_μ (n, T, k) for K (T, T, n) and rows B (n, T, k)."""
    force = jnp.moveaxis(force, -1, 0)
    # Sums over the T tokens rather than a batched product, as in `products`.
    moved = jnp.zeros_like(rows)
    for b in range(rows.shape[1]):
        moved += force[:, :, b, None] * rows[:, None, b]
    return moved


def output_distance(difference: jax.Array, gram: jax.Array) -> jax.Array:
    """|Δ X|²_F/D (n,) of each sample, for attentions Δ apart and Gram matrices (T, T, n)."""
    return jnp.sum(difference * times_gram(difference, gram), axis=(0, 1))


def times_gram(difference: jax.Array, gram: jax.Array) -> jax.Array:
    """Δ X Xᵀ/D (T, T, n) of each sample."""
    # Summed over tokens one by one: XLA's CPU compiler gets the fused float32 reduction over a
    # broadcast axis wrong from about 10⁴ samples on (jaxlib 0.10.2).
    moved = jnp.zeros_like(difference)
    for a in range(gram.shape[0]):
        moved += difference[:, a, None] * gram[a][None]
    return moved


def accurate_sum(x: jax.Array) -> jax.Array:
    """The sum of x (N,) in blocks, whose error is that of √N terms: line searches compare it.

    It is float64 where JAX has it.
    """
    block = math.isqrt(x.shape[0]) + 1
    blocks = jnp.pad(x, (0, -len(x) % block)).reshape(-1, block)
    return jnp.sum(jnp.sum(blocks, axis=1, dtype=float))
