"""What is measured of a trained layer: the finite-D counterparts of a prediction's numbers."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..activations import Activation
from ..noise import effective_noise
from .attention import quadratic_field
from .draws import draw_noise
from .layers import Layers
from .objective import Objective, accurate_sum, grams, output_distance
from .parts import part_size


class MeasuredPretraining(NamedTuple):
    """Q, M (8), E, E_train and Δ_eff of one seed; errors and Δ_eff of the recalibrated layer.

    NaN where undefined: the training error of a given pre-training.
    """

    Q: float
    M: float
    test_error: float
    train_error: float
    effective_noise: float


class MeasuredFinetuning(NamedTuple):
    """q, m ≥ 0 (9), E', E'_train, o_w = m/√q, E'', the loss (3) over D, and E' at w = 0.

    NaN where undefined: the overlap of ŵ = 0.
    """

    q: float
    m: float
    test_error: float
    train_error: float
    overlap: float
    forgetting: float
    energy: float
    frozen_test_error: float


class TestErrors(NamedTuple):
    """E, E', E'' and the frozen layer's E', means over test sequences."""

    pretraining: jax.Array
    finetuning: jax.Array
    forgetting: jax.Array
    frozen: jax.Array


@eqx.filter_jit
def measure_test_errors(
    layers: Layers, activation: Activation, teacher_w, w, delta, key, count: int, tokens: int
) -> TestErrors:
    """Test errors of the layer with the update w (D,), on `count` fresh sequences."""
    dimension, dtype = w.shape[0], w.dtype
    size = min(count, part_size(jax.ShapeDtypeStruct((count, tokens, dimension), dtype)))

    def add(i, totals):
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        inputs = jax.random.normal(keys[0], (size, tokens, dimension), dtype)
        weight = (i * size + jnp.arange(size) < count).astype(dtype)
        gram = grams(inputs) * weight[None, None]
        teacher, frozen = layers.fields(inputs, keys[1])
        noise = draw_noise(keys[2], delta, size, tokens, dtype)
        adapted = frozen + quadratic_field(w[:, None], inputs)
        before = activation(teacher + noise)
        after = activation(teacher + quadratic_field(teacher_w[:, None], inputs) + noise)
        pairs = ((frozen, before), (adapted, after), (adapted, before), (frozen, after))
        errors = [
            accurate_sum(output_distance(activation(field) - target, gram))
            for field, target in pairs
        ]
        return jax.tree.map(jnp.add, totals, TestErrors(*errors))

    zero = TestErrors(*(jnp.zeros((), dtype) for _ in TestErrors._fields))
    totals = jax.lax.fori_loop(0, -(-count // size), add, zero)
    return jax.tree.map(lambda total: total / count, totals)


def teacher_overlaps(W, teacher) -> tuple[float, float, float]:
    """Q0, Q and M (8) of a trained W (D, P) and the teacher's W* (D, P0)."""
    D = W.shape[0]

    def overlap(A, B):
        # Tr (A Aᵀ)(B Bᵀ) = |Aᵀ B|²
        scale = D**2 * (A.shape[1] * B.shape[1]) ** 0.5
        return float(jnp.sum((A.T @ B) ** 2) / scale)

    return overlap(teacher, teacher), overlap(W, W), overlap(W, teacher)


@eqx.filter_jit
def _losses(objective: Objective, factor) -> tuple[jax.Array, jax.Array]:
    """The loss per sample, and with the ridge over D."""
    data = objective.data_loss(factor)
    ridge = objective.ridge * jnp.sum(factor**2)
    return data / objective.data.count, (data + ridge) / factor.shape[0]


def mean_loss(objective: Objective, factor) -> float:
    """The loss per sample, without the ridge."""
    return float(_losses(objective, factor)[0])


def measure_pretraining(
    W, teacher, beta, delta, train_error: float, errors: TestErrors
) -> MeasuredPretraining:
    """The numbers of a trained W (D, P)."""
    Q0, Q, M = teacher_overlaps(W, teacher)
    noise = float(effective_noise(Q0 + delta / 2, Q, M, beta))
    return MeasuredPretraining(Q, M, float(errors.pretraining), train_error, noise)


def measure_finetuning(
    objective: Objective, w, teacher_w, errors: TestErrors
) -> MeasuredFinetuning:
    """The numbers of a trained w (D,)."""
    D = w.shape[0]
    q, m = float(w @ w) / D, abs(float(w @ teacher_w)) / D
    train_error, energy = (float(x) for x in _losses(objective, w[:, None]))
    return MeasuredFinetuning(
        q,
        m,
        float(errors.finetuning),
        train_error,
        m / q**0.5 if q > 0 else float("nan"),
        float(errors.forgetting),
        energy,
        float(errors.frozen),
    )
