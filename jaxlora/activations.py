"""Activations σ of the attention layer and the derivatives of the loss |σ(a) − y|²_F.

Matrices are (T, T, ...): one sample, or any number of samples on the trailing axes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .symmetric import identity_like


class RowHessian(NamedTuple):
    """∂²|σ(a) − y|²_F/∂a_ri∂a_rj of a row-wise σ: diag(d_r) + b_r c_rᵀ + c_r b_rᵀ for each row r.

    Shapes (T, T, ...), indexed [r, i].
    """

    diagonal: jax.Array
    left: jax.Array
    right: jax.Array

    def matrices(self) -> jax.Array:
        """The rows' Hessians (T, T, T, ...), indexed [r, i, j]."""
        outer = self.left[:, :, None] * self.right[:, None]
        diagonal = identity_like(self.diagonal)[None] * self.diagonal[:, :, None]
        return diagonal + outer + jnp.swapaxes(outer, 1, 2)

    def times(self, x: jax.Array) -> jax.Array:
        """Each row's Hessian times x (T, ...), (T, T, ...)."""
        along_left = jnp.sum(self.left * x[None], axis=1, keepdims=True)
        along_right = jnp.sum(self.right * x[None], axis=1, keepdims=True)
        return self.diagonal * x[None] + self.left * along_right + self.right * along_left


class Activation(eqx.Module):
    """An activation σ given by a function on T×T arrays; autodiff supplies what the solvers need.

    `function` maps one (T, T) array to another, `name` is what outputs call it. `equivariant` says
    whether σ(P a Pᵀ) = P σ(a) Pᵀ for every permutation P of the tokens, which lowers the sampling
    error; where it is None, that is tried out. Subclasses may give `row_hessian`, which spares the
    proximal solvers derivatives of derivatives.
    """

    function: Callable[[jax.Array], jax.Array] = eqx.field(static=True)
    name: str = eqx.field(static=True, default="custom")
    min_tokens: int = eqx.field(static=True, default=1)
    equivariant: bool | None = eqx.field(static=True, default=None)

    def __call__(self, a: jax.Array) -> jax.Array:
        """σ(a), shape of `a` (T, T, ...)."""
        function = self.function
        for _ in range(a.ndim - 2):
            function = jax.vmap(function, in_axes=-1, out_axes=-1)
        return function(a)

    def loss(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """|σ(a) − y|²_F of each sample, shape (...)."""
        return jnp.sum((self(a) - y) ** 2, axis=(0, 1))

    def gradient(self, a: jax.Array, y: jax.Array) -> jax.Array:
        """∂|σ(a) − y|²_F/∂a with the T² entries of a independent, shape (T, T, ...)."""
        return jax.grad(lambda a: jnp.sum(self.loss(a, y)))(a)

    def is_equivariant(self, tokens: int) -> bool:
        """Whether σ commutes with permutations of that many tokens."""
        if self.equivariant is None:
            return _commutes_with_permutations(self.function, tokens)
        return self.equivariant

    @property
    def row_wise(self) -> bool:
        """Whether σ acts on each row alone and `row_hessian` gives the second derivatives."""
        return type(self).row_hessian is not Activation.row_hessian

    def row_hessian(self, a: jax.Array, y: jax.Array) -> RowHessian:
        """The second derivatives of |σ(a) − y|²_F for a row-wise σ."""
        raise TypeError(f"activation {self.name!r} declares no row structure")


class Softmax(Activation):
    """Row-wise softmax."""

    def __call__(self, a: jax.Array) -> jax.Array:
        return _softmax(a)

    def gradient(self, a: jax.Array, y: jax.Array) -> jax.Array:
        p = self(a)
        d = p - y
        return 2 * p * (d - jnp.sum(p * d, axis=1, keepdims=True))

    def row_hessian(self, a: jax.Array, y: jax.Array) -> RowHessian:
        # With J = diag(p) − p pᵀ the row's Hessian 2 J J + 2 Σ_k d_k ∂²p_k collapses to
        # 2 [diag(u) − p uᵀ − u pᵀ + |p|² p pᵀ],  u = p ∘ (p + d − p·d).
        p = self(a)
        d = p - y
        u = p * (p + d - jnp.sum(p * d, axis=1, keepdims=True))
        w = 0.5 * jnp.sum(p * p, axis=1, keepdims=True) * p - u
        return RowHessian(2 * u, p, 2 * w)


class Identity(Activation):
    """Rescaled identity x/T, for which both proximal maps are known in closed form."""

    def __call__(self, a: jax.Array) -> jax.Array:
        return _scaled_identity(a)

    def gradient(self, a: jax.Array, y: jax.Array) -> jax.Array:
        return 2 * (self(a) - y) / a.shape[0]

    def row_hessian(self, a: jax.Array, y: jax.Array) -> RowHessian:
        zero = jnp.zeros_like(a)
        return RowHessian(zero + 2 / a.shape[0] ** 2, zero, zero)


@functools.lru_cache(maxsize=64)
def _commutes_with_permutations(function, tokens: int) -> bool:
    """Whether `function` does at random symmetric matrices, for generators of all permutations."""
    swap = np.r_[1, 0, 2:tokens] if tokens > 1 else np.r_[0]
    rng = np.random.default_rng(0)
    with jax.ensure_compile_time_eval():
        for order in (swap, np.roll(np.arange(tokens), 1)):
            for scale in (0.3, 1.0, 3.0, 10.0):
                a = jnp.asarray(scale * rng.standard_normal((tokens, tokens)))
                a = a + a.T
                before, after = function(a)[order][:, order], function(a[order][:, order])
                margin = 1e3 * jnp.finfo(a.dtype).eps * (1 + jnp.max(jnp.abs(before)))
                if not jnp.all(jnp.abs(before - after) <= margin):
                    return False
    return True


def _softmax(a: jax.Array) -> jax.Array:
    e = jnp.exp(a - jax.lax.stop_gradient(jnp.max(a, axis=1, keepdims=True)))
    return e / jnp.sum(e, axis=1, keepdims=True)


def _scaled_identity(a: jax.Array) -> jax.Array:
    return a / a.shape[0]


ACTIVATIONS = {
    "softmax": Softmax(_softmax, "softmax", min_tokens=2, equivariant=True),  # constant at T = 1
    "identity": Identity(_scaled_identity, "identity", equivariant=True),
}


def as_activation(activation: "str | Activation | Callable[[jax.Array], jax.Array]") -> Activation:
    """The activation of that name, or the one that a function on (T, T) arrays defines.

    Raises ValueError for an unknown name and TypeError for anything that is not callable.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise ValueError(f"activation = {activation!r}: must be one of {known}, or a function")
        return ACTIVATIONS[activation]
    if callable(activation):
        return Activation(activation, getattr(activation, "__name__", "custom"))
    raise TypeError(f"activation = {activation!r}: must be a name or a function on T×T arrays")
