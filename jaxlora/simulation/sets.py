"""Training sets of the two stages (theory sections 1 and 8)."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..activations import Activation
from ..active import by_distance
from .attention import layer_field, quadratic_field
from .draws import draw_inputs, draw_noise
from .layers import GaussianLayers, Layers
from .objective import TrainingSet, grams
from .setting import Sizes


class Labelled(NamedTuple):
    """Sequences (N, T, D), the teacher's W* part A* − E A* and the label noise ξ, (T, T, N)."""

    inputs: jax.Array
    teacher: jax.Array
    noise: jax.Array


@eqx.filter_jit
def draw_pretraining(key, W, delta, count: int, tokens: int, dtype) -> Labelled:
    """N labelled sequences of the teacher W* (D, P0)."""
    keys = jax.random.split(key)
    inputs = draw_inputs(keys[0], count, tokens, W.shape[0], dtype)
    noise = draw_noise(keys[1], delta, count, tokens, dtype)
    return Labelled(inputs, layer_field(W, inputs), noise)


def pretraining_set(labelled: Labelled, activation: Activation, empirical: bool) -> TrainingSet:
    """What (2) is a sum over."""
    gram, target = _gram_and_target(labelled, activation, empirical)
    return TrainingSet(labelled.inputs, gram, target, jnp.zeros_like(target))


@eqx.filter_jit
def draw_finetuning(
    key,
    layers: Layers,
    activation: Activation,
    delta,
    sizes: Sizes,
    dtype,
) -> tuple[Labelled, jax.Array]:
    """Fresh sequences and the frozen fields (T, T, N') on them; active ones of the candidates."""
    D, T = sizes.dimension, sizes.tokens
    labelled, candidates = sizes.finetuning_samples, sizes.candidates
    keys = jax.random.split(key, 3)
    noise = draw_noise(keys[2], delta, candidates, T, dtype)
    if isinstance(layers, GaussianLayers):
        # The fields do not depend on the sequences, so those of the rejected are not drawn.
        teacher, frozen = layers.draw(keys[1], candidates, T, dtype)
        inputs = draw_inputs(keys[0], labelled, T, D, dtype)
        if candidates == labelled:
            return Labelled(inputs, teacher, noise), frozen
        chosen = by_distance(activation, frozen)[:labelled]
        return Labelled(inputs, teacher[..., chosen], noise[..., chosen]), frozen[..., chosen]
    inputs = draw_inputs(keys[0], candidates, T, D, dtype)
    teacher, frozen = layers.fields(inputs, keys[1])
    return select_actively(Labelled(inputs, teacher, noise), frozen, activation, labelled)


@eqx.filter_jit
def reuse_pretraining(
    labelled: Labelled, layers: Layers, activation: Activation, sizes: Sizes
) -> tuple[Labelled, jax.Array]:
    """As `draw_finetuning`, of the first pre-training sequences with their noise (e = 1)."""
    count = sizes.candidates
    first = Labelled(
        labelled.inputs[:count], labelled.teacher[..., :count], labelled.noise[..., :count]
    )
    # The fields of trained layers are not random.
    frozen = layers.fields(first.inputs, jax.random.key(0))[1]
    return select_actively(first, frozen, activation, sizes.finetuning_samples)


def select_actively(
    candidates: Labelled, frozen, activation: Activation, count: int
) -> tuple[Labelled, jax.Array]:
    """The `count` candidates of least |σ(z) − σ(0)|²_F (Algorithm 1), and their frozen fields."""
    if count == frozen.shape[-1]:
        return candidates, frozen
    chosen = by_distance(activation, frozen)[:count]
    inputs, teacher, noise = candidates
    return Labelled(inputs[chosen], teacher[..., chosen], noise[..., chosen]), frozen[..., chosen]


def finetuning_set(
    labelled: Labelled, frozen, teacher_w, activation: Activation, empirical: bool
) -> TrainingSet:
    """What (3) is a sum over, for the teacher's w* (D,)."""
    spike = eqx.filter_jit(quadratic_field)(teacher_w[:, None], labelled.inputs)
    labelled = labelled._replace(teacher=labelled.teacher + spike)
    gram, target = _gram_and_target(labelled, activation, empirical)
    return TrainingSet(labelled.inputs, gram, target, frozen)


# The sequences are not among what it returns: that would copy them.
@eqx.filter_jit
def _gram_and_target(labelled: Labelled, activation: Activation, empirical: bool):
    target = activation(_centred(labelled.teacher, empirical) + labelled.noise)
    return grams(labelled.inputs), target


def _centred(field, empirical: bool) -> jax.Array:
    """Fields (T, T, N) that the population centres, centred by their own mean where asked to."""
    return field - jnp.mean(field, axis=2, keepdims=True) if empirical else field
