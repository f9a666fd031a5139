import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.simulation import Setting, rounded
from jaxlora.simulation.setting import bytes_needed, sizes_of
from jaxlora.simulation.stages import Stages
from jaxlora.simulation.training import Training, train

TASK = jaxlora.Task(
    tokens=3, kappa0=1, kappa=1, alpha=0.1, delta=0.5, lam=0.01, alpha_ft=3, lam_ft=0.2
)
D = 40


@pytest.fixture(scope="module")
def problem():
    stages = Stages(TASK, Setting(D), 0)
    objective = stages.pretraining(stages.pretraining_sequences())
    return objective, jax.random.normal(jax.random.key(1), (D, D))


@pytest.fixture(scope="module")
def minimum(problem):
    return train(*problem, Training("optax-alone", tol=1e-9))


@pytest.fixture
def rounds(monkeypatch):
    monkeypatch.setattr(rounded, "WORTH_ROUNDING", 0)


def size(x):
    return float(jnp.linalg.norm(x)) / x.size**0.5


def test_rounding_moves_value_and_gradient_by_what_float32_resolves(problem, minimum):
    objective, start = problem
    eps = float(jnp.finfo(jnp.float32).eps)
    errors = []
    for factor in (start, minimum.factor):
        value, gradient = objective.value_and_gradient(factor)
        single = rounded.rounded(objective).value_and_gradient(factor)
        assert single[0].dtype == single[1].dtype == factor.dtype
        np.testing.assert_allclose(single[0], value, rtol=4 * eps)
        errors.append(size(single[1] - gradient))
    assert 0 < errors[0] < 20 * eps * size(objective.value_and_gradient(start)[1])
    # Where training ends it leaves the gradient below the tolerance.
    assert 0 < errors[1] < (1 - rounded.SAFETY**2) ** 0.5 * rounded.LEAST_TOL


@pytest.mark.parametrize("optimiser", ["optax", "jaxopt"])
@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_training_ends_at_the_minimum_of_the_exact_loss(rounds, problem, minimum, optimiser, tol):
    objective, start = problem
    trained = train(objective, start, Training(optimiser, tol=tol))
    assert trained.converged
    value, gradient = objective.value_and_gradient(trained.factor)
    np.testing.assert_allclose(trained.value, value, rtol=1e-13)
    np.testing.assert_allclose(trained.gradient, size(gradient), rtol=1e-6)
    assert size(gradient) <= tol
    # What the gradient leaves next to curvatures of 2λ, and the rounding of the sum.
    left = tol**2 * start.size / (4 * float(TASK.lam)) + 1e-13 * minimum.value
    np.testing.assert_allclose(value, minimum.value, rtol=0, atol=left)


def test_most_of_the_way_is_gone_in_single_precision(rounds, problem):
    places = []
    train(*problem, Training(tol=1e-8), save=places.append)
    exact = [bool(place["exact"]) for place in places]
    assert exact == sorted(exact)
    assert 3 <= exact.count(False) < len(exact)
    assert all(place["scaled"].dtype == np.float64 for place in places)


def test_interrupted_training_ends_at_the_same_numbers(rounds, problem):
    places = []
    whole = train(*problem, Training(tol=1e-8), save=places.append)
    for saved in places:
        resumed = train(*problem, Training(tol=1e-8), saved=saved)
        np.testing.assert_array_equal(resumed.factor, whole.factor)
        assert resumed[1:] == whole[1:]


def test_unfinished_training_tells_the_exact_loss(rounds, problem):
    objective, start = problem
    trained = train(objective, start, Training(max_iterations=7))
    assert not trained.converged
    assert trained.iterations == 7
    value, gradient = objective.value_and_gradient(trained.factor)
    np.testing.assert_allclose(trained.value, value, rtol=1e-13)
    np.testing.assert_allclose(trained.gradient, size(gradient), rtol=1e-10)


def test_what_float32_cannot_represent_is_trained_in_float64(rounds, problem):
    objective, start = problem
    huge = 1e20 * start
    assert not np.isfinite(rounded.rounded(objective).value_and_gradient(huge)[0])
    trained = train(objective, huge, Training())
    alone = train(objective, huge, Training("optax-alone"))
    assert trained.iterations > 0
    assert trained[1:4] == alone[1:4]


def test_the_copy_is_counted():
    setting = Setting(1000)
    alone = Setting(1000, training=Training("optax-alone"))
    sizes = sizes_of(TASK, setting)
    copy = bytes_needed(sizes, setting) - bytes_needed(sizes, alone)
    assert copy == 4 * sizes.samples * sizes.tokens * sizes.dimension
