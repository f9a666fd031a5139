"""The best recalibration β that gradients find, against the closed form M/Q (26)."""

import numpy as np
import pytest

import jaxlora
from jaxlora import best_beta, predict, tune
from jaxlora.tuning.refinement import STEP

Q0, Q, M = 1.5, 1.5, 1.0
GIVEN = {"tokens": 2, "given": (Q0, Q, M), "delta": 0.5, "alpha_ft": 3.0, "lam_ft": 0.5}
FEW = {"samples": 2**11, "replicates": 4, "starts": 1}


def identity(**fields):
    return jaxlora.Task(**(GIVEN | {"activation": "identity"} | fields))


@pytest.mark.parametrize("start", [0.0, 1.0, 4.0])
def test_that_of_the_error_of_the_identity_is_exact(start):
    # E = 3/2 Δ_eff(β) on any draws, as the weights average its quadratic form exactly.
    found = tune(identity(beta=start), ["beta"], "error", **FEW)
    least = 1.5 * (Q0 + 0.25 - M**2 / Q)
    second = 1.5 * (4 * Q * (M / Q) ** 2 - 2 * M * (M / Q))
    assert found.converged
    # The stopping rule: |d log E/d log β| ≤ 1e-4.
    optimum = found.parameters["beta"]
    np.testing.assert_allclose(
        optimum.value, best_beta(Q, M), rtol=2e-4 * least / second, atol=3 * optimum.stderr
    )
    np.testing.assert_allclose(found.value, least, rtol=1e-7)
    # By differences over ±STEP around a point up to STEP/2 away; the third derivative by log β is
    # three times the second one.
    np.testing.assert_allclose(found.curvature, [second], rtol=3 * STEP / 2 + STEP**2 * 7 / 6)


@pytest.mark.parametrize("over", [["beta"], ["beta", "lam_ft"]])
def test_that_of_the_error_after_finetuning_the_identity_is_the_same(over):
    # (q, m) depend on z* − βz alone, and E' grows with its variance.
    found = tune(identity(), over, **FEW)
    optimum = found.parameters["beta"]
    assert found.converged
    assert not optimum.at_bound
    assert min(found.curvature) > 0
    assert 0 < optimum.stderr < 0.02
    tolerance = 1e-4 * found.value / min(found.curvature) * optimum.value  # of the stopping rule
    assert abs(optimum.value - M / Q) < 3 * optimum.stderr + tolerance
    assert found.improvement > 3 * found.improvement_stderr


def test_a_bound_holds_it():
    found = tune(identity(), {"beta": (1.0, 3.0)}, "error", **FEW)
    optimum = found.parameters["beta"]
    assert optimum.at_bound
    assert optimum.value == pytest.approx(1.0)
    assert optimum.gradient == pytest.approx(1.5 * 2 * (Q - M), rel=1e-6)


@pytest.mark.slow
def test_that_of_a_solved_pretraining_is_that_of_its_overlaps():
    task = jaxlora.Task(
        **{name: GIVEN[name] for name in ("tokens", "delta", "alpha_ft", "lam_ft")},
        **{"activation": "identity", "kappa0": 0.5, "kappa": 1.0, "alpha": 0.3, "lam": 0.05},
    )
    solved = predict(task, samples=2**11, replicates=4).pretraining
    for objective in ("error", "error_ft"):
        optimum = tune(task, ["beta"], objective, **FEW).parameters["beta"]
        expected = float(best_beta(solved.Q, solved.M))
        assert abs(optimum.value - expected) < 3 * optimum.stderr + 2e-4 * expected


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["error", "error_ft"])
def test_that_of_softmax_is_the_best_of_a_fine_grid(objective):
    task = jaxlora.Task(**GIVEN, activation="softmax")
    found = tune(task, ["beta"], objective, **FEW)
    best = found.parameters["beta"].value
    assert found.converged
    stage = "pretraining" if objective == "error" else "finetuning"
    betas = best * np.linspace(0.9, 1.1, 21)
    errors = [
        float(
            getattr(
                predict(
                    jaxlora.Task(**GIVEN, activation="softmax", beta=beta),
                    samples=2**11,
                    replicates=4,
                ),
                stage,
            ).test_error
        )
        for beta in betas
    ]
    assert np.argmin(errors) == 10
    assert errors[10] == pytest.approx(found.value, rel=1e-8)
    # The parabola through the grid has its vertex there, to a third of its spacing.
    second, first, _ = np.polyfit(betas - best, errors, 2)
    assert second > 0
    assert abs(first / (2 * second)) < 0.01 * best / 3
