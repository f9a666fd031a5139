import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.activations import as_activation
from jaxlora.simulation import Setting
from jaxlora.simulation import approach as module
from jaxlora.simulation.anderson import MEMORY, extrapolate, no_history
from jaxlora.simulation.approach import approach
from jaxlora.simulation.nearby import near_zero
from jaxlora.simulation.stages import Stages
from jaxlora.simulation.training import Training, train

TASK = jaxlora.Task(tokens=3, delta=0.5, given=(1.5, 1.5, 1.0), alpha_ft=3.0, lam_ft=0.5)
TOL = 1e-9


def objective_of(task, dimension, seed=0, centring="population"):
    stages = Stages(task, Setting(dimension, centring=centring), seed)
    return stages.finetuning(stages.layers(None), None)


def weights(dimension, seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((dimension, 1)))


def approached(objective, start, tol=TOL, most=1000):
    seen = []
    inputs = objective.data.inputs.astype(jnp.float32)
    factor, read = approach(objective, inputs, start, tol, most, lambda *at: seen.append(at))
    return factor, read, seen


def gradient(objective, factor):
    return float(jnp.linalg.norm(objective.value_and_gradient(factor)[1])) / factor.size**0.5


@pytest.mark.parametrize(
    ("task", "centring"),
    [
        (TASK, "population"),
        (TASK, "empirical"),
        (dataclasses.replace(TASK, activation="identity", lam_ft=1.0), "population"),
        (dataclasses.replace(TASK, tokens=2, alpha_ft=6.0, lam_ft=2.0), "population"),
    ],
)
def test_ends_at_the_minimum_that_lbfgs_finds_and_sooner(task, centring):
    dimension = 400
    objective = objective_of(task, dimension, centring=centring)
    start = weights(dimension, 1)
    factor, read, seen = approached(objective, start)
    trained = train(objective, start, Training(tol=TOL))
    assert trained.converged
    assert gradient(objective, factor) < 2 * TOL
    np.testing.assert_allclose(objective.value(factor), trained.value, rtol=1e-13)
    np.testing.assert_allclose(factor @ factor.T, trained.factor @ trained.factor.T, atol=1e-7)
    assert read < trained.evaluations
    assert seen[0] == (0, pytest.approx(gradient(objective, start), rel=1e-3))
    assert seen[-1][0] == read - 1


def test_the_rate_is_the_root_of_the_replicon():
    dimension, steps, rates = 1000, 7, []
    for seed in range(6):
        objective = objective_of(TASK, dimension, seed)
        local = near_zero(objective, objective.data.inputs)
        place, sizes = module._begin(local, weights(dimension, seed)), []
        while not (sizes and sizes[-1] < 0.15):
            place = module._pass_messages(local, place, False)
            sizes.append(float(place.size))
        for _ in range(steps):
            place = module._pass_messages(local, place, False)
        rates.append((float(place.size) / sizes[-1]) ** (1 / steps))
    root = float(jaxlora.predict(TASK, samples=2**14).finetuning.replicon) ** 0.5
    standard_error = np.std(rates, ddof=1) / len(rates) ** 0.5
    assert standard_error < 0.05
    assert abs(np.mean(rates) - root) < 3 * standard_error


def test_without_rest_training_can_start_on_the_way():
    # Far beyond a replicon of 1.
    task = dataclasses.replace(TASK, alpha_ft=1.0, lam_ft=0.02)
    objective, start = objective_of(task, 200), weights(200, 3)
    factor, read, seen = approached(objective, start, most=30)
    assert read == len(seen) <= 31
    assert min(size for _, size in seen) > module.FAR
    assert objective.value(factor) < objective.value(start)
    assert train(objective, factor, Training()).converged


@pytest.mark.parametrize("size", [np.nan, 10.0])
def test_what_does_not_settle_is_not_returned(monkeypatch, size):
    def lost(local, place, tol):
        return place._replace(factor=place.factor * jnp.nan, size=jnp.asarray(size))

    monkeypatch.setattr(module, "_settle", lost)
    objective = objective_of(TASK, 200)
    factor, _, seen = approached(objective, weights(200, 1))
    assert np.isnan(seen[-1][1]) == np.isnan(size)
    assert gradient(objective, factor) < module.FAR


def test_a_start_that_is_close_is_left_where_it_is():
    objective = objective_of(TASK, 60)
    start = train(objective, weights(60, 4), Training()).factor
    factor, read, seen = approached(objective, start)
    np.testing.assert_array_equal(factor, start)
    assert read == len(seen) == 1


@pytest.mark.parametrize("activation", ["softmax", "identity", jnp.tanh])
def test_problems_of_samples_are_the_objectives(activation):
    task = dataclasses.replace(TASK, activation=as_activation(activation))
    objective, factor = objective_of(task, 20), weights(20, 5)
    problem, data = module._samples(objective, factor)
    spike = module._spike(near_zero(objective, objective.data.inputs), factor)

    def loss(spike):
        return jnp.sum(problem.loss(spike, data))

    np.testing.assert_allclose(loss(spike), objective.data_loss(factor), rtol=1e-5)
    value, slope, hessian = problem.derivatives(spike, data)
    np.testing.assert_allclose(value, problem.loss(spike, data))
    np.testing.assert_allclose(slope, jax.grad(loss)(spike), atol=1e-13)
    for sample in range(3):
        one = jax.tree.map(lambda x: x[..., sample], (spike, data))  # noqa: B023
        exact = jax.jit(jax.hessian(problem.loss))(*one)
        np.testing.assert_allclose(hessian[..., sample], exact, atol=1e-12)


def test_responses_of_many_samples_in_single_precision():
    # XLA's compiler for CPUs gets some sums of such sizes wrong.
    objective = objective_of(dataclasses.replace(TASK, alpha_ft=750.0), 40)
    factor = weights(40, 6)
    problem, data = module._samples(objective, factor)
    spike = module._spike(near_zero(objective, objective.data.inputs), factor)
    assert spike.shape == (3, 30_000)
    respond = jax.jit(lambda *at: module._responses(problem, *at))
    exact = respond(spike, jnp.asarray(0.1), data)
    single = [x.astype(jnp.float32) for x in (spike, jnp.asarray(0.1), *data)]
    for ours, theirs in zip(respond(*single[:2], tuple(single[2:])), exact, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.max(jnp.abs(theirs))))


def test_extrapolation_solves_linear_equations_of_few_unknowns():
    rng = np.random.default_rng(6)
    size = MEMORY - 1
    # Without extrapolation the iteration diverges.
    matrix = 3 * rng.standard_normal((size, size))
    offset = rng.standard_normal(size)
    solution = np.linalg.solve(np.eye(size) - matrix, offset)

    def change(x):
        after = matrix @ np.concatenate([x["a"], x["b"]]) + offset
        return {"a": jnp.asarray(after[:2]), "b": jnp.asarray(after[2:])}

    x = {"a": jnp.zeros(2), "b": jnp.zeros(size - 2)}
    history = no_history(x)
    for _ in range(size + 1):
        x, history = extrapolate(history, x, change(x))
    np.testing.assert_allclose(np.concatenate([x["a"], x["b"]]), solution, rtol=1e-3)
