import jax.numpy as jnp
import numpy as np
import pytest
from independent import identity_state_evolution

import jaxlora
from jaxlora import Options, Result, Task, solve_pretraining
from jaxlora.execution import draw_samples
from jaxlora.replicates import pretrain_replicates
from jaxlora.spectrum import right_edge
from jaxlora.start import from_order
from jaxlora.starts import PRETRAINING_START

FIGURE_1 = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.1, "delta": 0.5}
FINETUNING = {"alpha_ft": 3.0, "lam_ft": 0.2}


def solve(samples=2**13, replicates=4, **parameters):
    return solve_pretraining(
        jaxlora.Task(**parameters, **FINETUNING), samples=samples, replicates=replicates
    )


@pytest.mark.parametrize(
    ("kappa0", "kappa", "alpha", "delta", "lam"),
    [(1.0, 1.0, 0.3, 0.5, 0.05), (0.4, 1.5, 0.1, 2.0, 0.01), (2.0, 1.0, 0.5, 0.0, 0.4)],
)
def test_identity_solves_the_scalar_equations(kappa0, kappa, alpha, delta, lam):
    expected = identity_state_evolution(3, kappa0, kappa, alpha, delta, lam)
    solved = solve(
        tokens=3,
        activation="identity",
        kappa0=kappa0,
        kappa=kappa,
        alpha=alpha,
        delta=delta,
        lam=lam,
    )
    values = solved.values
    np.testing.assert_allclose([values.Q, values.M, values.V], expected, rtol=1e-8)


def test_identity_errors_are_those_of_the_effective_noise():
    solved = solve(**(FIGURE_1 | {"alpha": 0.3}), activation="identity", lam=0.05).values
    noise = 2.25 - 2 * solved.M + solved.Q
    np.testing.assert_allclose(solved.effective_noise, noise, rtol=1e-12)
    np.testing.assert_allclose(solved.test_error, 12 / 9 * noise, rtol=1e-10)
    shrink = 1 + 4 * solved.V / 9
    np.testing.assert_allclose(solved.train_error, 12 / 9 * noise / shrink**2, rtol=1e-10)


def test_identity_collapses_where_the_closed_form_says():
    solved = solve(**FIGURE_1, activation="identity", lam=0.05).values
    tokens, alpha, A0 = 3, 0.1, 2.25
    entries = tokens * (tokens + 1) / 2
    M_hat = 8 * alpha * entries / tokens**2
    Q_hat = 32 * alpha * entries * A0 / tokens**4
    expected = M_hat * right_edge(np.sqrt(Q_hat) / M_hat, 1.0) / 2
    np.testing.assert_allclose(solved.critical_lam, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param(FIGURE_1, 0.5498, marks=pytest.mark.slow),
        pytest.param(FIGURE_1 | {"delta": 2.0}, 0.5388, marks=pytest.mark.slow),
        ({"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5}, 0.8605),
    ],
)
def test_softmax_threshold_agrees_with_the_known_values(parameters, expected):
    solved = solve(**parameters, lam=10.0)
    # Four standard errors of ours, and the rounding and sampling error of the known value.
    tolerance = 4 * float(solved.stderr.critical_lam) + 1e-3 * expected
    assert abs(float(solved.values.critical_lam) - expected) < tolerance


@pytest.mark.parametrize("lam", [0.6, 5.0, np.inf])
def test_above_the_threshold_everything_vanishes(lam):
    solved = solve(**FIGURE_1, lam=lam)
    assert jaxlora.Result(int(solved.status.result)) is jaxlora.Result.COLLAPSED
    assert float(solved.values.Q) == float(solved.values.M) == float(solved.values.V) == 0
    np.testing.assert_allclose(solved.values.effective_noise, 2.25)
    # With Ŵ = 0 training and test samples have the same law.
    difference = abs(float(solved.values.train_error - solved.values.test_error))
    assert difference < 4 * float(solved.stderr.train_error + solved.stderr.test_error)


def test_the_transition_is_continuous_with_the_known_power():
    near, far = (solve(**FIGURE_1, lam=lam).values for lam in (0.545, 0.54))
    gap = [float(near.critical_lam) - 0.545, float(far.critical_lam) - 0.54]
    power = np.log(float(far.Q / near.Q)) / np.log(gap[1] / gap[0])
    assert power == pytest.approx(3.5, abs=0.15)
    assert float(far.Q) < 1e-5


@pytest.mark.slow
def test_damped_iteration_and_newton_agree():
    task = jaxlora.Task(**(FIGURE_1 | {"tokens": 2}), lam=0.05, **FINETUNING)
    numbers = [
        solve_pretraining(
            task, samples=512, replicates=2, options=jaxlora.Options(method=method, damping=damping)
        ).order
        for method, damping in (("newton", 1.0), ("damped", 0.7))
    ]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-8)


def test_switching_samples_are_reported():
    solved = solve(tokens=2, kappa0=0.5, kappa=1.0, alpha=0.2, delta=5.0, lam=0.01)
    status = solved.status
    assert 0.01 < float(status.switched_share) < 0.1
    assert float(status.residual) <= 1e-10
    assert 0 < float(status.switching_jump) < 1e-2
    assert float(status.stein_gap) > 0.01


def test_failure_raises_and_carries_the_last_iterate():
    task = jaxlora.Task(**(FIGURE_1 | {"tokens": 2}), lam=0.05, **FINETUNING)
    options = jaxlora.Options(max_iterations=3)
    with pytest.raises(jaxlora.ConvergenceError, match="residual") as caught:
        solve_pretraining(task, samples=512, replicates=2, options=options)
    last = caught.value.prediction
    assert jaxlora.Result(int(last.status.result)) is jaxlora.Result.NOT_CONVERGED
    assert float(last.status.residual) > 1e-10
    assert jnp.isfinite(last.values.Q)


def test_what_fails_from_where_it_starts_is_solved_afresh():
    task = Task(tokens=2, kappa0=0.5, kappa=1.0, alpha=0.2, delta=0.5, lam=0.1, **FINETUNING)
    options = Options(max_iterations=15)
    draws = draw_samples(task, 2**9, 2, 0, options).pretraining

    def solve(*order):
        return pretrain_replicates(draws, task, from_order(jnp.array(order)), options)

    far, afresh = solve(1e6, 1.0, 1e6), solve(*PRETRAINING_START)
    np.testing.assert_array_equal(far.result, Result.CONVERGED)
    np.testing.assert_allclose(
        far.solved.fixed_point.value, afresh.solved.fixed_point.value, rtol=1e-8
    )
