import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference

import jaxlora
from jaxlora.activations import as_activation
from jaxlora.simulation import parts
from jaxlora.simulation.attention import Attention
from jaxlora.simulation.objective import Objective, TrainingSet, accurate_sum, grams

N, T, D, P = 23, 3, 7, 5


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def objective(name="softmax", columns=P, empirical=False):
    """An objective on random data, frozen fields included, and a random factor."""
    activation = as_activation(name)
    inputs, frozen = normal(0, N, T, D), normal(1, T, T, N)
    data = TrainingSet(inputs, grams(inputs), activation(normal(2, T, T, N)), frozen)
    scale = jnp.asarray(1 / (D * columns**0.5))
    made = Objective(data, activation, jnp.asarray(0.3), scale, empirical)
    return made, normal(3, D, columns)


def direct(made, factor):
    """The loss written sample by sample in NumPy, with outputs rather than Gram matrices."""
    X, W = np.asarray(made.data.inputs), np.asarray(factor)
    fields = np.moveaxis(np.asarray(made.data.frozen), -1, 0)
    fields = fields + float(made.scale) * np.einsum("nad,dp,ep,nbe->nab", X, W, W, X)
    if made.empirical:
        fields = fields - fields.mean(0)
    else:
        fields = fields - float(made.scale) * np.sum(W**2) * np.eye(T)
    targets = np.moveaxis(np.asarray(made.data.target), -1, 0)
    total = float(made.ridge) * np.sum(W**2)
    for x, field, target in zip(X, fields, targets, strict=True):
        output = np.asarray(made.activation(jnp.asarray(field)))
        total += np.sum(((output - target) @ x) ** 2) / D
    return total


@pytest.mark.parametrize("empirical", [False, True])
@pytest.mark.parametrize("columns", [1, P])
@pytest.mark.parametrize("name", ["softmax", "identity"])
def test_loss_is_the_sum_over_outputs(name, columns, empirical):
    made, factor = objective(name, columns, empirical)
    np.testing.assert_allclose(made.value(factor), direct(made, factor), rtol=1e-12)
    ridge = float(made.ridge) * np.sum(np.asarray(factor) ** 2)
    np.testing.assert_allclose(made.data_loss(factor), direct(made, factor) - ridge, rtol=1e-12)


@pytest.mark.parametrize("empirical", [False, True])
@pytest.mark.parametrize("columns", [1, P])
def test_gradient_is_the_derivative_of_the_loss(columns, empirical):
    made, factor = objective("softmax", columns, empirical)
    direction = normal(4, D, columns)
    slope = central_difference(lambda x: direct(made, x), (factor,), (direction,))
    gradient = made.value_and_gradient(factor)[1]
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-8)


@pytest.mark.parametrize(("most", "count"), [(1, 1), (4, 4), (9, 8), (22, 12)])
def test_parts_add_up_to_the_whole(monkeypatch, most, count):
    made, factor = objective()
    whole = made.value_and_gradient(factor)
    monkeypatch.setitem(parts.PART_BYTES, jax.default_backend(), most * T * D * 8)
    assert parts.part_size(made.data.inputs) == count
    value, gradient = made.value_and_gradient(factor)
    np.testing.assert_allclose(value, whole[0], rtol=1e-13)
    np.testing.assert_allclose(gradient, whole[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("empirical", [False, True])
def test_slack_gives_the_gradient(empirical):
    made, factor = objective(empirical=empirical)
    slack = np.asarray(made.slack(factor))
    np.testing.assert_allclose(slack, slack.T)
    gradient = made.value_and_gradient(factor)[1]
    np.testing.assert_allclose(2 * slack @ np.asarray(factor), gradient, atol=1e-12)


def test_attention_is_what_the_objective_trains():
    activation = as_activation("softmax")
    W, w = normal(5, D, P), normal(6, D)
    student = Attention(W, w, activation)
    inputs = normal(0, N, T, D)
    data = TrainingSet(
        inputs, grams(inputs), activation(normal(2, T, T, N)), student.frozen_field(inputs)
    )
    made = Objective(data, activation, jnp.asarray(0.0), jnp.asarray(1 / D))
    outputs = jax.vmap(student)(inputs)
    labels = jnp.einsum("abn,nbd->nad", data.target, inputs)
    expected = jnp.sum((outputs - labels) ** 2) / D
    np.testing.assert_allclose(made.data_loss(w[:, None]), expected, rtol=1e-12)


def test_attention_is_centred_by_the_mean_over_sequences():
    student = Attention(normal(5, D, P), normal(6, D), as_activation("identity"))
    field = np.asarray(student.field(normal(7, 20_000, T, D)))
    error = field.std(axis=2) / np.sqrt(field.shape[2])
    assert np.all(np.abs(field.mean(axis=2)) < 4.5 * error)


def test_single_precision_agrees_on_many_samples():
    """XLA's fused float32 reductions were wrong from about 10⁴ samples on."""
    activation = jaxlora.ACTIVATIONS["softmax"]
    count, dimension = 12_000, 4
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.standard_normal((count, T, dimension)))
    fields = (jnp.asarray(rng.standard_normal((T, T, count))) for _ in range(2))
    frozen, target = fields
    data = TrainingSet(inputs, grams(inputs), activation(target), frozen)
    made = Objective(data, activation, jnp.asarray(0.3), jnp.asarray(0.25))
    factor = jnp.asarray(rng.standard_normal((dimension, 1)))
    single = jax.tree.map(lambda x: x.astype(jnp.float32) if eqx.is_array(x) else x, (made, factor))
    value = eqx.filter_jit(lambda made, factor: made.value(factor))(*single)
    np.testing.assert_allclose(value, made.value(factor), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 16, 1000])
def test_accurate_sum(count):
    x = np.random.default_rng(count).random(count).astype(np.float32)
    np.testing.assert_allclose(accurate_sum(jnp.asarray(x)), x.astype(float).sum(), rtol=2e-7)
