import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora import Options, Result, Task, predict, solve_finetuning, solve_pretraining

# T = 2 and few samples: what is compared here does not depend on the sampling error.
FIELDS = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5, "lam": 0.1}
TASK = FIELDS | {"alpha_ft": 3.0, "lam_ft": 0.5}
FAST = {"samples": 2**9, "replicates": 2}


@pytest.fixture(scope="module")
def prediction():
    return predict(Task(**TASK), **FAST)


def numbers(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def with_lam_ft(lam_ft):
    return eqx.tree_at(lambda task: task.lam_ft, Task(**TASK), lam_ft)


def test_same_seed_same_result_and_other_seed_another(prediction):
    again = predict(Task(**TASK), **FAST)
    other = predict(Task(**TASK), **FAST, seed=1)
    np.testing.assert_array_equal(numbers(again), numbers(prediction))
    assert float(other.pretraining.Q) != float(prediction.pretraining.Q)


@pytest.mark.slow
def test_a_prediction_nearby_starts_another():
    # The identity's proximal maps have no minima to choose among, so that its solution is unique.
    task = Task(**TASK, activation="identity")
    afresh = predict(task, **FAST)
    again = predict(task, **FAST, known=afresh)
    np.testing.assert_allclose(again.finetuning.q, afresh.finetuning.q, rtol=1e-7)
    np.testing.assert_allclose(again.pretraining.Q, afresh.pretraining.Q, rtol=1e-7)
    fewer, more = (
        float(p.status.pretraining.iterations + p.status.finetuning.iterations)
        for p in (again, afresh)
    )
    assert fewer < more


def test_replicates_average_to_the_prediction(prediction):
    each = prediction.replicates.finetuning.test_error
    assert each.shape == (FAST["replicates"],)
    np.testing.assert_allclose(np.mean(each), prediction.finetuning.test_error, rtol=1e-12)
    stderr = np.std(each, ddof=1) / len(each) ** 0.5
    np.testing.assert_allclose(stderr, prediction.stderr.finetuning.test_error, rtol=1e-9)


def test_stages_alone_compose_to_the_prediction(prediction):
    pretrained = solve_pretraining(Task(**TASK), **FAST)
    finetuned = solve_finetuning(Task(**TASK), pretrained, **FAST)
    np.testing.assert_allclose(
        numbers(pretrained.values), numbers(prediction.pretraining), rtol=1e-9
    )
    np.testing.assert_allclose(numbers(finetuned.values), numbers(prediction.finetuning), rtol=1e-8)


def test_vmap_under_jit_is_the_loop_and_marks_what_is_invalid(prediction):
    lam_ft = jnp.array([0.5, 2.0, -1.0, jnp.inf])

    @jax.jit
    def batch(lam_ft):
        return jax.vmap(lambda x: predict(with_lam_ft(x), **FAST, throw=False))(lam_ft)

    got = batch(lam_ft)
    np.testing.assert_allclose(got.finetuning.q[0], prediction.finetuning.q, rtol=1e-7)
    alone = predict(with_lam_ft(lam_ft[1]), **FAST)
    np.testing.assert_allclose(got.finetuning.test_error[1], alone.finetuning.test_error, rtol=1e-7)
    results = [Result(int(x)) for x in got.status.finetuning.result]
    assert results == [
        Result.CONVERGED,
        Result.CONVERGED,
        Result.INVALID_PARAMETER,
        Result.CONVERGED,
    ]
    assert jnp.isnan(got.finetuning.q[2])
    assert float(got.finetuning.q[3]) == 0


@pytest.mark.slow
def test_vmap_without_jit_traces_once():
    traced = []

    def counted(a):
        traced.append(a)
        return jax.nn.softmax(a, axis=1)

    task = Task(
        tokens=2, activation=counted, given=(1.5, 1.5, 1.0), delta=0.5, alpha_ft=3.0, lam_ft=1.0
    )

    def error(lam_ft):
        point = eqx.tree_at(lambda t: t.lam_ft, task, lam_ft)
        return predict(point, **FAST, throw=False).finetuning.test_error

    first = jax.vmap(error)(jnp.array([0.5, 1.0]))
    count = len(traced)
    assert count > 0
    second = jax.vmap(error)(jnp.array([0.5, 1.0]))
    assert len(traced) == count
    np.testing.assert_array_equal(first, second)


def test_throw_is_refused_where_values_are_traced():
    with pytest.raises(ValueError, match="throw = True"):
        jax.jit(lambda x: predict(with_lam_ft(x), **FAST))(0.5)


def test_another_point_and_tolerance_compile_nothing(prediction):
    compiled = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    predict(Task(**(TASK | {"lam": 0.17})), **FAST, options=Options(tol=1e-9, max_iterations=200))
    assert not compiled


def test_standard_errors_are_those_of_the_replicates(prediction):
    pretrained = solve_pretraining(Task(**TASK), **FAST)
    Q = np.asarray(pretrained.order[:, 0])
    np.testing.assert_allclose(prediction.pretraining.Q, Q.mean(), rtol=1e-9)
    np.testing.assert_allclose(
        prediction.stderr.pretraining.Q, Q.std(ddof=1) / np.sqrt(2), rtol=1e-6
    )
    single = solve_pretraining(Task(**TASK), samples=256, replicates=1)
    assert jnp.isnan(single.stderr.Q)


@pytest.mark.slow
def test_single_precision_is_close(prediction):
    single = predict(Task(**TASK), **FAST, options=Options.single())
    assert single.finetuning.q.dtype == jnp.float32
    for stage in ("pretraining", "finetuning"):
        for name in ("test_error", "train_error"):
            expected = float(getattr(getattr(prediction, stage), name))
            got = float(getattr(getattr(single, stage), name))
            assert got == pytest.approx(expected, rel=2e-3), (stage, name)


def test_float64_is_asked_for():
    task = Task(**TASK)
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="jax_enable_x64"):
        predict(task, **FAST)


@pytest.mark.slow
def test_custom_activation_is_the_built_in_one(prediction):
    activation = jaxlora.Activation(lambda a: jax.nn.softmax(a, axis=1), "mine", min_tokens=2)
    custom = predict(Task(**TASK, activation=activation), **FAST)
    np.testing.assert_allclose(
        numbers(custom.finetuning)[:12], numbers(prediction.finetuning)[:12], rtol=1e-7
    )


def test_recalibration_scales_the_frozen_layer():
    task = TASK | {"lam_ft": jnp.inf}
    scaled = solve_pretraining(Task(**task, beta=1.3), **FAST).values
    given = {k: TASK[k] for k in ("tokens", "delta", "alpha_ft")}
    Q, M = float(scaled.Q), float(scaled.M)
    expected = solve_pretraining(
        Task(**given, lam_ft=1.0, given=(1.5, 1.3**2 * Q, 1.3 * M)), **FAST
    ).values
    np.testing.assert_allclose(scaled.effective_noise, expected.effective_noise, rtol=1e-12)
    # Same draws, but Q and M differ from replicate to replicate: agreement to that scatter.
    np.testing.assert_allclose(scaled.test_error, expected.test_error, rtol=2e-3)


@pytest.mark.slow
def test_active_ratio_may_be_traced():
    given = {"tokens": 2, "delta": 0.0, "given": (2.0, 2.0, 1.0), "alpha_ft": 6.0, "lam_ft": 2.0}

    def overlap(ratio):
        task = Task(**given, active_ratio=ratio)
        solved = solve_finetuning(task, samples=2**12, replicates=4, throw=False)
        return solved.values.overlap, solved.stderr.overlap

    traced, traced_error = jax.jit(overlap)(0.25)
    concrete, concrete_error = overlap(0.25)
    assert abs(float(traced - concrete)) < 5 * np.hypot(float(traced_error), float(concrete_error))
    assert float(concrete) > float(overlap(1.0)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("delta", "lam_ft", "competing"), [(0.5, 0.5, False), (2.0, 0.05, True)])
def test_search_that_a_pilot_cuts_short_finds_what_an_exhaustive_one_does(delta, lam_ft, competing):
    task = Task(tokens=2, given=(1.5, 0.283, 0.52), delta=delta, alpha_ft=3.0, lam_ft=lam_ft)
    large = {"samples": 2**13, "replicates": 2, "throw": False}
    short = solve_finetuning(task, **large)
    exhaustive = solve_finetuning(task, **large, options=Options(exhaustive=True))
    assert short.status.result == exhaustive.status.result == Result.CONVERGED
    assert (float(exhaustive.status.switched_share) > 1e-3) == competing
    for got, expected in ((short.values, exhaustive.values), (short.stderr, exhaustive.stderr)):
        np.testing.assert_allclose(got.test_error, expected.test_error, rtol=1e-8)
        np.testing.assert_allclose(got.replicon, expected.replicon, rtol=1e-8)
