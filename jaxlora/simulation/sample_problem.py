"""The loss of one sample at finite D as a problem for the proximal solvers."""

import jax
import jax.numpy as jnp

from ..proximal import Problem
from ..symmetric import identity_like
from .objective import times_gram


class SampleProblem(Problem):
    """|(σ(z + χχᵀ) − y) X|²_F/D as a function of χ (T, ...).

    `data` are the field z, the target y, and the Gram matrices X Xᵀ/D, (T, T, ...) each.
    """

    def loss(self, x, data):
        return self.derivatives(x, data)[0]

    def gradient(self, x, data):
        return self.derivatives(x, data)[1]

    def hessian(self, x, data):
        return self.derivatives(x, data)[2]

    def derivatives(self, x, data):
        field, target, gram = data

        def gradient(x):
            output, pull_back = jax.vjp(self.activation, field + x[:, None] * x[None])
            difference = output - target
            moved = times_gram(difference, gram)
            (half,) = pull_back(moved)
            force = 2 * (half + jnp.swapaxes(half, 0, 1))
            return jnp.sum(force * x[None], axis=1), jnp.sum(difference * moved, axis=(0, 1))

        def along(direction):
            return jax.jvp(gradient, (x,), (jnp.broadcast_to(direction, x.shape),), has_aux=True)

        directions = identity_like(jnp.broadcast_to(x[None], (len(x), *x.shape)))
        slope, hessian, loss = jax.vmap(along, out_axes=(None, 0, None))(directions)
        return loss, slope, hessian
