import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from jaxlora.activations import as_activation
from jaxlora.simulation import training
from jaxlora.simulation.attention import layer_field
from jaxlora.simulation.draws import draw_inputs, draw_noise
from jaxlora.simulation.objective import Objective
from jaxlora.simulation.sets import Labelled, pretraining_set
from jaxlora.simulation.training import Training, train

D, T, N = 16, 3, 120


@pytest.fixture(scope="module")
def problem():
    """A pre-training of P = D with a teacher of rank 4, and a start."""
    keys = jax.random.split(jax.random.key(1), 4)
    inputs = draw_inputs(keys[0], N, T, D, jnp.dtype(float))
    teacher = jax.random.normal(keys[1], (D, 4))
    labelled = Labelled(
        inputs, layer_field(teacher, inputs), draw_noise(keys[2], 0.3, N, T, jnp.dtype(float))
    )
    activation = as_activation("softmax")
    data = pretraining_set(labelled, activation, False)
    scale = jnp.asarray(1 / (D * D**0.5))
    objective = Objective(data, activation, jnp.asarray(0.05), scale)
    return objective, jax.random.normal(keys[3], (D, D))


@pytest.fixture(scope="module")
def minimum(problem):
    """The least loss that SciPy finds, and its F Fᵀ."""
    objective, start = problem
    evaluate = jax.jit(lambda x: objective.value_and_gradient(x))

    def function(x):
        value, gradient = evaluate(jnp.asarray(x.reshape(start.shape)))
        return float(value), np.asarray(gradient).ravel()

    best = minimize(
        function,
        np.asarray(start).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 5000, "ftol": 0, "gtol": 1e-8},
    )
    factor = best.x.reshape(start.shape)
    return best.fun, factor @ factor.T


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("optimiser", ["optax", "jaxopt"])
@pytest.mark.parametrize("rescale", [True, False])
def test_all_ways_end_at_the_same_minimum(
    monkeypatch, problem, minimum, optimiser, rescale, compiles
):
    if compiles:
        monkeypatch.setattr(training, "WORTH_COMPILING", 0)
    elif not rescale:
        pytest.skip("columns are dropped only where units are chosen")
    trained = train(*problem, Training(optimiser, tol=1e-7, rescale=rescale))
    assert trained.converged
    assert trained.gradient <= 1e-7
    assert trained.factor.shape == (D, D)
    np.testing.assert_allclose(trained.value, minimum[0], rtol=1e-11)
    np.testing.assert_allclose(trained.factor @ trained.factor.T, minimum[1], atol=1e-4)
    np.testing.assert_allclose(problem[0].value(trained.factor), trained.value, rtol=1e-13)
    if rescale:
        assert trained.slack > -training.SLACK_TOLERANCE


def test_single_precision_ends_next_to_the_same_minimum(problem, minimum):
    def single(x):
        return x.astype(jnp.float32) if eqx.is_array(x) else x

    objective, start = jax.tree.map(single, problem)
    trained = train(objective, start, Training.of("float32"))
    assert trained.converged
    # A gradient of 1e-4 a weight, next to curvatures of 2λ = 0.1, leaves this much of the loss,
    # and rounding data and sums some millionths of it.
    left = 1e-4**2 * start.size / (2 * 0.1) + 2e-6 * minimum[0]
    np.testing.assert_allclose(trained.value, minimum[0], atol=left, rtol=0)
    product = np.asarray(trained.factor @ trained.factor.T)
    assert np.linalg.norm(product - minimum[1]) < 0.003 * np.linalg.norm(minimum[1])


def test_columns_are_added_where_too_few_were_kept(monkeypatch, problem, minimum):
    monkeypatch.setattr(training, "WORTH_COMPILING", 0)
    objective, start = problem
    monkeypatch.setattr(training, "SMALL_COLUMN", 0.5)
    monkeypatch.setattr(training, "WIDTH", 1)
    rank = np.linalg.matrix_rank(minimum[1], tol=1e-4)
    trained = train(objective, start, Training(tol=1e-7))
    assert trained.converged
    np.testing.assert_allclose(trained.value, minimum[0], rtol=1e-10)
    assert np.linalg.matrix_rank(np.asarray(trained.factor), tol=1e-3) >= rank


def test_more_columns_than_dimensions_are_not_trained(problem, minimum):
    objective, start = problem
    wide = jnp.concatenate([start, start[::-1]], axis=1)
    places = []
    trained = train(objective, wide, Training(tol=1e-7), save=places.append)
    assert trained.converged
    assert trained.factor.shape == (D, 2 * D)
    np.testing.assert_allclose(trained.value, minimum[0], rtol=1e-11)
    # A weight's share of the gradient is smaller, the more weights there are.
    norm = jnp.linalg.norm(objective.value_and_gradient(trained.factor)[1])
    np.testing.assert_allclose(trained.gradient, norm / (2 * D**2) ** 0.5, rtol=1e-6)
    assert all(place["scaled"].shape == (D, D) for place in places)


def test_rest_at_a_saddle_is_not_convergence(monkeypatch, problem):
    monkeypatch.setattr(training, "WORTH_COMPILING", 0)
    monkeypatch.setattr(training, "SMALL_COLUMN", 0.5)
    monkeypatch.setattr(training, "WIDTH", 1)
    monkeypatch.setattr(training, "ESCAPES", 0)
    trained = train(*problem, Training(tol=1e-7))
    assert trained.gradient <= 1e-7
    assert trained.slack < -training.SLACK_TOLERANCE
    assert not trained.converged


@pytest.mark.parametrize("optimiser", ["optax", "jaxopt"])
def test_interrupted_training_ends_at_the_same_numbers(problem, optimiser):
    settings = Training(optimiser, tol=1e-9)
    places = []
    whole = train(*problem, settings, save=places.append)
    assert len(places) >= 3
    for saved in places:
        resumed = train(*problem, settings, saved=saved)
        np.testing.assert_array_equal(resumed.factor, whole.factor)
        assert resumed[1:] == whole[1:]


def test_unfinished_training_says_so(problem):
    trained = train(*problem, Training(max_iterations=7))
    assert not trained.converged
    assert trained.iterations == 7
    assert trained.gradient > 1e-6


def test_training_stops_where_rounding_hides_the_decrease(problem):
    trained = train(*problem, Training(tol=1e-300, max_iterations=100_000))
    assert not trained.converged
    assert trained.iterations < 2000
    assert trained.gradient < 1e-6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimiser": "adam"}, "optimiser = 'adam'"),
        ({"tol": 0.0}, "tol = 0.0"),
        ({"tol": float("nan")}, "tol = nan"),
        ({"max_iterations": 0}, "max_iterations = 0"),
    ],
)
def test_bad_settings_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Training(**fields)
