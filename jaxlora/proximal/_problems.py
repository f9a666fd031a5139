"""The two per-sample objectives of theory section 3 in one dimensionless form.

Both maps minimise  scale · |σ(a(x)) − y|²_F + |x − centre|²/2  over x ∈ R^n, which is −V Ψ
(scale V, x_ab = h_ab/√s_ab, a = h) or −v ψ (scale v, x = χ, a = z + χχᵀ − q I). In this form
V = 0 is a regular point. Arrays are samples-last: x is (n, ...), matrices are (T, T, ...).
"""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..activations import Activation, RowHessian
from ..symmetric import identity_like, pack, positions, root_weights, unpack, weights


class Problem(eqx.Module):
    """Loss |σ(a(x)) − y|²_F as a function of x, with its derivatives; `data` holds the rest."""

    activation: Activation
    tokens: int = eqx.field(static=True)

    @abc.abstractmethod
    def loss(self, x, data) -> jax.Array:
        """The loss of each sample, shape (...)."""

    @abc.abstractmethod
    def gradient(self, x, data) -> jax.Array:
        """∇_x of the loss, shape (n, ...)."""

    @abc.abstractmethod
    def hessian(self, x, data) -> jax.Array:
        """∇²_x of the loss, shape (n, n, ...)."""

    def derivatives(self, x, data) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Loss, gradient and Hessian at once."""
        return self.loss(x, data), self.gradient(x, data), self.hessian(x, data)

    def objective(self, x, scale, centre, data) -> jax.Array:
        """What the proximal map minimises, for each sample, shape (...)."""
        return scale * self.loss(x, data) + 0.5 * jnp.sum((x - centre) ** 2, axis=0)


class _LayerProblem(Problem):
    """A problem whose x enters through the pre-activation a(x) (T, T, ...)."""

    @abc.abstractmethod
    def preactivation(self, x, data) -> jax.Array:
        """a(x)."""

    @abc.abstractmethod
    def target(self, data) -> jax.Array:
        """y (T, T, ...)."""

    @abc.abstractmethod
    def pull_back(self, x, g) -> jax.Array:
        """∇_x from g = ∂loss/∂a (T, T, ...)."""

    @abc.abstractmethod
    def curvature(self, x, g, rows: RowHessian) -> jax.Array:
        """∇²_x from g and the second derivatives by a."""

    def loss(self, x, data):
        return self.activation.loss(self.preactivation(x, data), self.target(data))

    def gradient(self, x, data):
        g = self.activation.gradient(self.preactivation(x, data), self.target(data))
        return self.pull_back(x, g)

    def hessian(self, x, data):
        return self.derivatives(x, data)[2]

    def derivatives(self, x, data):
        a, y = self.preactivation(x, data), self.target(data)
        g = self.activation.gradient(a, y)
        if self.activation.row_wise:
            hessian = self.curvature(x, g, self.activation.row_hessian(a, y))
        else:
            hessian = self._hessian_by_columns(x, data)
        return self.activation.loss(a, y), self.pull_back(x, g), hessian

    def _hessian_by_columns(self, x, data) -> jax.Array:
        gradient = functools.partial(self.gradient, data=data)
        basis = identity_like(jnp.broadcast_to(x[None], (x.shape[0], *x.shape)))

        def column(direction):
            return jax.jvp(gradient, (x,), (jnp.broadcast_to(direction, x.shape),))[1]

        return jax.vmap(column)(basis)


class PretrainingProblem(_LayerProblem):
    """−V Ψ of (15): x is the packed field h_ab/√s_ab (L, ...), `data` the target y (T, T, ...)."""

    def field(self, x):
        """The symmetric field h (T, T, ...) at x."""
        return unpack(root_weights(self.tokens, x) * x, self.tokens)

    def preactivation(self, x, data):
        return self.field(x)

    def target(self, data):
        return data

    def pull_back(self, x, g):
        return pack(g + jnp.swapaxes(g, 0, 1)) / root_weights(self.tokens, x)

    def curvature(self, x, g, rows):
        flat = rows.matrices().reshape((-1, *x.shape[1:]))
        index, factor, mirror, mirror_factor = _row_tables(self.tokens)
        tail = (1,) * (x.ndim - 1)
        full = flat[index] * jnp.asarray(factor, x.dtype).reshape(factor.shape + tail)
        twice = flat[mirror] * jnp.asarray(mirror_factor, x.dtype).reshape((-1, *tail))
        return full + identity_like(full) * twice[None]


class FinetuningProblem(_LayerProblem):
    """−v ψ of (15): x is χ (T, ...), `data` the pair (z − q I, target y), both (T, T, ...)."""

    def preactivation(self, x, data):
        return data[0] + x[:, None] * x[None, :]

    def target(self, data):
        return data[1]

    def gamma(self, x, data):
        """Γ: the symmetrised ∂|σ(a) − y|²_F/∂a (T, T, ...), so that ∇_χ loss = 2 Γ χ."""
        return _symmetrised(self.activation.gradient(self.preactivation(x, data), data[1]))

    def pull_back(self, x, g):
        return 2 * jnp.sum(_symmetrised(g) * x[None], axis=1)

    def curvature(self, x, g, rows):
        # ∂a_rb/∂χ_i = δ_ri χ_b + χ_r δ_bi, contracted with the Hessian of every row r.
        rows_x = rows.times(x)
        square = (x**2)[:, None]
        diagonal = jnp.sum(x[None] * rows_x, axis=1) + jnp.sum(square * rows.diagonal, axis=0)
        outer = jnp.sum((square * rows.left)[:, :, None] * rows.right[:, None], axis=0)
        mixed = x[:, None] * rows_x + outer
        mixed = mixed + jnp.swapaxes(mixed, 0, 1)
        return 2 * _symmetrised(g) + identity_like(g) * diagonal[:, None] + mixed


def _symmetrised(g):
    return 0.5 * (g + jnp.swapaxes(g, 0, 1))


@functools.cache
def _row_tables(tokens: int):
    """Where each entry of the packed Hessian sits among the rows' Hessians [r, i, j], flattened.

    Two different packed entries share at most one row; an off-diagonal entry (a, b) meets itself
    in rows a and b, the second of which is `mirror`. The factors carry √s_p √s_q, or 0.
    """
    s = weights(tokens)
    first, second = np.triu_indices(tokens)
    position = positions(tokens)
    index = np.zeros((len(s), len(s)), dtype=int)
    factor = np.zeros((len(s), len(s)))
    for r in range(tokens):
        for i in range(tokens):
            for j in range(tokens):
                p, q = position[r, i], position[r, j]
                if p != q or r == first[p]:
                    index[p, q] = (r * tokens + i) * tokens + j
                    factor[p, q] = np.sqrt(s[p] * s[q])
    mirror = (second * tokens + first) * tokens + first
    return index, factor, mirror, np.where(first == second, 0.0, s)
