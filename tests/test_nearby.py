import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.simulation import Setting, approach, nearby, training
from jaxlora.simulation.nearby import in_single, near, near_zero
from jaxlora.simulation.setting import bytes_needed, sizes_of
from jaxlora.simulation.stages import Stages
from jaxlora.simulation.training import Training, train

D = 60
TASK = {"tokens": 3, "delta": 0.5, "given": (1.5, 1.5, 1.0), "alpha_ft": 3.0, "lam_ft": 0.5}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(nearby, "LARGE", 0)


@pytest.fixture(params=["population", "empirical"])
def objective(request):
    stages = Stages(jaxlora.Task(**TASK), Setting(D, centring=request.param), 0)
    return stages.finetuning(stages.layers(None), None)


def weights(seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((D, 1)))


def errors(objective, close, factor):
    """Of the value and the gradient, relative to their sizes."""
    value, gradient = objective.value_and_gradient(factor)
    approximate = close.value_and_gradient(factor)
    return (
        abs(float(approximate[0] / value) - 1),
        float(jnp.linalg.norm(approximate[1] - gradient) / jnp.linalg.norm(gradient)),
    )


def test_is_exact_at_the_point_and_rounds_in_proportion_to_the_way_from_it(objective):
    point, direction = weights(1), weights(2)
    single = in_single(objective.data.inputs, 1)
    assert single.dtype == jnp.float32
    close, *exact = near(objective, single, point)
    for ours, theirs in zip(exact, objective.value_and_gradient(point), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)
    assert max(errors(objective, close, point)) < 1e-13
    for way in (1.0, 1e-2, 1e-4):
        found = errors(objective, close, point + way * direction)
        # A few units of float32's 6e-8, of terms that are larger than their sum, the gradient.
        assert max(found) < 1e-6 * way
        assert max(found) > 1e-10 * way


def test_near_zero_is_near_the_point_zero(objective):
    single = in_single(objective.data.inputs, 1)
    zero = near_zero(objective, single)
    known = near(objective, single, jnp.zeros((D, 1)))[0]
    for ours, theirs in zip(jax.tree.leaves(zero), jax.tree.leaves(known), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert max(errors(objective, zero, weights(3))) < 1e-6


@pytest.mark.parametrize("optimiser", ["optax", "jaxopt"])
def test_training_ends_where_lbfgs_alone_in_double_precision_does(objective, optimiser):
    mixed = train(objective, weights(4), Training(optimiser, tol=1e-9))
    double = train(objective, weights(4), Training("optax-alone", tol=1e-9))
    assert mixed.converged
    assert double.converged
    np.testing.assert_allclose(mixed.value, double.value, rtol=1e-13)
    np.testing.assert_allclose(mixed.factor, double.factor, atol=1e-8)
    # What it reports is that of the exact loss.
    value, gradient = objective.value_and_gradient(mixed.factor)
    np.testing.assert_allclose(mixed.value, value, rtol=1e-14)
    np.testing.assert_allclose(mixed.gradient, jnp.linalg.norm(gradient) / D**0.5, rtol=1e-4)


def test_a_start_at_rest_is_judged_by_the_exact_gradient(objective):
    start = train(objective, weights(4), Training(tol=1e-9)).factor
    again = train(objective, start, Training(tol=1e-5))
    assert again.converged
    assert again.iterations == 0
    value, gradient = objective.value_and_gradient(start)
    np.testing.assert_allclose(again.value, value, rtol=1e-14)
    # Of rounded products it would be a hundred times as large.
    np.testing.assert_allclose(again.gradient, jnp.linalg.norm(gradient) / D**0.5, rtol=1e-3)


@pytest.mark.parametrize("optimiser", ["optax", "jaxopt"])
def test_interrupted_training_ends_at_the_same_numbers(monkeypatch, objective, optimiser):
    # L-BFGS goes on where the responses would be kept.
    monkeypatch.setattr(approach, "ROUNDS", 0)
    monkeypatch.setattr(training, "ONE_COLUMN_SEGMENT", 20)
    settings, places = Training(optimiser, tol=1e-11), []
    whole = train(objective, weights(4), settings, save=places.append)
    assert len(places) >= 2
    for saved in places:
        resumed = train(objective, weights(4), settings, saved=saved)
        np.testing.assert_array_equal(resumed.factor, whole.factor)
        assert resumed[1:] == whole[1:]


def test_only_large_fine_tunings_are_rounded(monkeypatch):
    inputs = jnp.zeros((4, 3, 2))
    assert in_single(inputs, 1).dtype == jnp.float32
    assert in_single(inputs, 2) is None
    monkeypatch.setattr(nearby, "LARGE", inputs.size + 1)
    assert in_single(inputs, 1) is None


def test_the_copy_is_counted_as_memory():
    def needed(optimiser):
        setting = Setting(1000, training=Training(optimiser))
        return bytes_needed(sizes_of(jaxlora.Task(**TASK), setting), setting)

    assert needed("optax") - needed("optax-alone") == 4 * 3000 * 3 * 1000
