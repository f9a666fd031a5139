"""Derivatives of a trained layer's validation loss with respect to its ridges.

Both trained weights are functions of the ridges through ∂_W L(W, λ) = 0 and ∂_w L'(w, W, λ') = 0.
By the implicit function theorem, for a validation loss 𝓛(W, w),

    a = (∂²_w L')⁻¹ ∂_w 𝓛                            d𝓛/dλ' = −2 a·w
    c = (∂²_W L)⁻¹ (∂_W 𝓛 − ∂_W [a·∂_w L'])          d𝓛/dλ  = −2 c·W

Rotations W → W exp(A), A antisymmetric, change nothing, so ∂²_W L is singular along W A; as the
right-hand side is orthogonal to all W A, adding the projector on them changes only that.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from ..tasks import Task
from .draws import Stream, stream_key
from .layers import TrainedLayers
from .measurements import measure_test_errors
from .setting import Setting
from .stages import TrainedPair

MAX_ITERATIONS = 2000
SMALL = 1e-6  # columns of smaller norm, relative to the largest, are what training left of none


class HyperGradient(NamedTuple):
    """E' on a fixed set of fresh sequences and its derivatives with respect to λ and λ'.

    `residuals` are those of the two linear systems, relative to their right-hand sides; NaN and a
    derivative NaN: a stage that was not trained.
    """

    value: jax.Array
    by_lam: jax.Array
    by_lam_ft: jax.Array
    residuals: tuple[jax.Array, jax.Array]


def hyperparameter_gradient(
    task: Task, setting: Setting, pair: TrainedPair, seed: int, *, tol: float = 1e-8
) -> HyperGradient:
    """dE'/dλ and dE'/dλ' of what `train_pair` returned for that seed.

    `setting.test_samples` sequences are the validation set. The linear systems are solved to the
    relative residual `tol`. Weights that are not at a minimum have no such derivatives: train to a
    small gradient.
    """
    key = stream_key(seed, Stream.TEST)
    # A stage that was not trained is a constant; that of a given pre-training has no W.
    factor = None if pair.W is None or pair.pretraining is None else _full_rank(pair.W)
    return _gradient(task, pair, factor, key, setting.test_samples, tol)


def _full_rank(W) -> jax.Array:
    """Orthogonal columns F with F Fᵀ = W Wᵀ, without those that vanish."""
    vectors, norms, _ = jnp.linalg.svd(W, full_matrices=False)
    rank = int(jnp.sum(norms > SMALL * norms[0]))
    return vectors[:, :rank] * norms[None, :rank]


@eqx.filter_jit
def _gradient(task: Task, pair: TrainedPair, W, key, count: int, tol: float) -> HyperGradient:
    layers, objective = pair.layers, pair.finetuning
    inputs = objective.data.inputs

    def with_W(W) -> TrainedLayers:
        assert isinstance(layers, TrainedLayers)
        missing = layers.student.W.shape[1] - W.shape[1]
        whole = jnp.pad(jnp.sqrt(task.beta) * W, ((0, 0), (0, missing)))
        return eqx.tree_at(lambda layers: layers.student.W, layers, whole)

    def validation(W, w):
        shown = layers if W is None else with_W(W)
        errors = measure_test_errors(
            shown, task.activation, pair.teacher_w, w, task.delta, key, count, inputs.shape[1]
        )
        return errors.finetuning

    def force(W, w):
        """∂_w L' at frozen weights W."""
        adapted = objective
        if W is not None:
            frozen = with_W(W).student.frozen_field(inputs)
            adapted = eqx.tree_at(lambda objective: objective.data.frozen, objective, frozen)
        return adapted.value_and_gradient(w[:, None])[1][:, 0]

    nan = jnp.full((), jnp.nan, pair.w.dtype)
    value, by_w = jax.value_and_grad(validation, argnums=1)(W, pair.w)
    by_lam_ft, by_lam, residual_ft, residual = nan, nan, nan, nan
    a = jnp.zeros_like(pair.w)
    if pair.statuses[1] is not None:
        a, residual_ft = _solve(lambda w: force(W, w), pair.w, by_w, tol)
        by_lam_ft = -2 * jnp.sum(a * pair.w)
    if W is not None:
        assert pair.pretraining is not None
        pretraining = pair.pretraining
        through = jax.grad(lambda W: validation(W, pair.w) - jnp.sum(a * force(W, pair.w)))(W)
        c, residual = _solve(lambda W: pretraining.value_and_gradient(W)[1], W, through, tol)
        by_lam = -2 * jnp.sum(c * W)
    return HyperGradient(value, by_lam, by_lam_ft, (residual, residual_ft))


def _solve(gradient, at, right, tol) -> tuple[jax.Array, jax.Array]:
    """(∂ gradient)⁻¹ right, and the relative residual; `at` is w (D,) or orthogonal columns."""

    def hessian(x):
        curved = jax.jvp(gradient, (at,), (x,))[1]
        return curved if x.ndim == 1 else curved + _rotation(at, x)

    solution, _ = cg(hessian, right, tol=tol, maxiter=MAX_ITERATIONS)
    residual = jnp.linalg.norm(hessian(solution) - right) / jnp.linalg.norm(right)
    return solution, residual


def _rotation(F, x) -> jax.Array:
    """The part F A, A antisymmetric, of x (D, k), for orthogonal columns F (D, k)."""
    norms = jnp.sum(F**2, axis=0)
    moved = F.T @ x
    return F @ ((moved - moved.T) / (norms[:, None] + norms[None]))
