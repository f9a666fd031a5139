import dataclasses

import numpy as np
import pytest
from points import figure_1, figure_3, given

import jaxlora
from jaxlora.simulation import Setting, run_seed, simulate
from jaxlora.simulation.comparison import _trend, compare


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        pytest.param(figure_1(lam=0.01), (50, 100, 200), id="figure 1", marks=pytest.mark.slow),
        pytest.param(figure_3(reuse=True), (30, 60), id="figure 3, reused", marks=pytest.mark.slow),
        pytest.param(given(), (60, 180), id="given", marks=pytest.mark.slow),
    ],
)
def test_theory_is_the_limit(task, sizes):
    """Within four standard errors of both and a bias of 5/D of each number."""
    prediction = jaxlora.predict(task, samples=2**14)
    simulations = [
        simulate(task, Setting(D, normalise_teacher=True, starts=2, test_samples=4000), seeds=6)
        for D in sizes
    ]
    assert all(simulation.failure() is None for simulation in simulations)
    observables = compare(prediction, simulations)
    assert len(observables) >= 9
    for observable in observables:
        for size in observable.sizes:
            both = np.hypot(size.stderr, observable.theory_stderr)
            allowed = 4 * both + 5 * abs(observable.theory) / size.dimension
            assert abs(size.value - observable.theory) <= allowed, (observable, size)


def test_trend_is_the_weighted_fit():
    sizes, errors = np.array([50.0, 100.0, 400.0]), np.array([0.02, 0.01, 0.03])
    values = 0.7 + 3 / sizes
    trend = _trend(list(zip(sizes, values, errors, strict=True)), 0.6, 0.05)
    np.testing.assert_allclose((trend.limit, trend.slope), (0.7, 3))
    _, covariance = np.polyfit(1 / sizes, values, 1, w=1 / errors, cov="unscaled")
    np.testing.assert_allclose(trend.slope_stderr, np.sqrt(covariance[0, 0]))
    np.testing.assert_allclose(trend.limit_stderr, np.sqrt(covariance[1, 1]))
    np.testing.assert_allclose(trend.z, 0.1 / np.hypot(trend.limit_stderr, 0.05))


@pytest.mark.slow
def test_empirical_centring_is_another_problem():
    """Paired seeds against the measured difference of theory section 9, item 8."""
    setting = Setting(300, test_samples=4000, starts=2)
    empirical = dataclasses.replace(setting, centring="empirical")
    pairs = [[run_seed(given(), s, seed) for s in (empirical, setting)] for seed in range(40)]
    expected = {"m": (-0.0046, 0.0005), "q": (-0.0067, 0.0008), "test_error": (0.0013, 0.0002)}
    for name, (value, error) in expected.items():
        differences = np.array(
            [getattr(a.finetuning, name) - getattr(b.finetuning, name) for a, b in pairs]
        )
        spread = differences.std(ddof=1) / np.sqrt(len(differences))
        assert abs(differences.mean() - value) < 4 * np.hypot(spread, error), name
        assert abs(differences.mean()) > 3 * spread, name
