"""Derivatives of predictions against central differences of fully converged solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference

import jaxlora
from jaxlora import Kink, predict

REAL = ("kappa0", "kappa", "alpha", "delta", "lam", "alpha_ft", "lam_ft", "beta", "given")
NUMERICS = {"samples": 2**12, "replicates": 2, "options": jaxlora.Options(tol=1e-11)}
BASE = {"kappa0": 0.5, "kappa": 1.1, "alpha": 0.2, "delta": 0.5, "lam": 0.2, "beta": 0.9}
BASE |= {"alpha_ft": 3.0, "lam_ft": 0.3}
GIVEN = {"given": (1.5, 1.0, 0.8), "delta": 0.5, "alpha_ft": 3.0, "lam_ft": 0.5, "beta": 1.0}
FRESH = {"tokens": 2, "activation": "softmax"}
REUSED = FRESH | {"reuse": True}
IDENTITY = {"tokens": 3, "activation": "identity"}

# Differences over STEP, so small that no sample changes its minimum on the way.
STEP = 3e-5
FULL = [
    (FRESH, BASE),
    (IDENTITY, BASE),
    (IDENTITY | {"reuse": True}, BASE),
    # At λ' = 0.5 branches coexist and the replicon is not below 1, as the status says (`Kink`).
    (FRESH, GIVEN | {"lam_ft": 0.8}),
    (FRESH, BASE | {"alpha": 0.5, "lam": 0.05}),
    (FRESH, BASE | {"delta": 1.5, "lam_ft": 0.6}),
    (FRESH, BASE | {"kappa0": 1.5, "kappa": 2.0}),
    (FRESH, BASE | {"alpha_ft": 8.0, "lam_ft": 0.1}),
    (FRESH, BASE | {"lam": 0.7}),
    (REUSED, BASE | {"alpha": 0.5, "delta": 1.0}),
    (REUSED, BASE | {"lam": 0.5, "lam_ft": 0.8}),
    (IDENTITY, GIVEN),
    (IDENTITY, BASE | {"alpha": 1.0, "lam": 0.01}),
    (IDENTITY, BASE | {"kappa0": 0.2, "delta": 0.05}),
    (IDENTITY | {"reuse": True}, BASE | {"alpha": 1.0, "lam": 0.5}),
    (FRESH | {"tokens": 3}, BASE | {"kappa0": 1.0, "alpha": 0.1, "lam": 0.1}),
    (FRESH | {"tokens": 3}, BASE | {"kappa0": 1.0, "alpha": 0.1, "lam": 0.3, "delta": 1.0}),
    (REUSED | {"tokens": 3}, BASE | {"kappa0": 1.0, "alpha": 0.1, "lam": 0.3}),
    (FRESH | {"tokens": 4}, BASE | {"alpha": 0.1, "lam": 0.2}),
]


def observables(static, theta):
    """Every observable of both stages that is not NaN by definition, by name."""
    prediction = predict(jaxlora.Task(**static, **theta), **NUMERICS)
    fine = vars(prediction.finetuning)
    observed = {f"ft.{k}": v for k, v in fine.items() if k != "branches"}
    for branch in fine["branches"]:
        observed |= {f"{branch.start}.{k}": getattr(branch, k) for k in ("q", "m", "v", "energy")}
    fields = ("Q", "M", "test_error", "effective_noise") if "given" in theta else None
    pre = vars(prediction.pretraining)
    return observed | {f"pre.{k}": v for k, v in pre.items() if fields is None or k in fields}


def array(theta):
    return jax.tree.map(jnp.asarray, theta)


def unit(theta, i):
    """The i-th unit vector of the shape of `theta`, times the parameter's size."""
    leaves, structure = jax.tree.flatten(theta)
    return structure.unflatten([x if i == j else 0 * x for j, x in enumerate(leaves)])


def assert_derivatives_agree(static, theta):
    theta = array(theta)
    value = observables(static, theta)

    def stacked(theta):
        return jnp.stack(list(observables(static, theta).values()))

    jacobian = jax.tree.leaves(jax.jacfwd(stacked)(theta))
    # What hardly depends on a parameter is known to the accuracy of the solves only.
    margin = NUMERICS["options"].tol / STEP * np.abs(np.array(list(value.values())))
    for i, (column, x) in enumerate(zip(jacobian, jax.tree.leaves(theta), strict=True)):
        expected = central_difference(stacked, (theta,), (unit(theta, i),), STEP)
        error = np.abs(column * x - expected)
        assert np.all(error <= 1e-5 * np.abs(expected) + margin), (i, list(value)[error.argmax()])
    gradient = jax.grad(lambda theta: observables(static, theta)["ft.test_error"])(theta)
    row = list(value).index("ft.test_error")
    forward = [column[row] for column in jacobian]
    np.testing.assert_allclose(jax.tree.leaves(gradient), forward, rtol=1e-9)


def test_all_derivatives_agree_with_differences():
    assert_derivatives_agree(REUSED, BASE)  # which go through every part of both stages


@pytest.mark.slow
@pytest.mark.parametrize(("static", "theta"), FULL)
def test_all_derivatives_agree_with_differences_everywhere(static, theta):
    assert_derivatives_agree(static, theta)


def error_ft(theta, static=IDENTITY, point=GIVEN, throw=True, **numerics):
    task = jaxlora.Task(**static, **(array(point) | theta))
    return predict(task, throw=throw, **(NUMERICS | numerics)).finetuning.test_error


RIDGE = {"lam_ft": jnp.array(0.3), "delta": jnp.array(0.5)}


def assert_same_under_jit_and_vmap(theta, **fields):
    def silent(theta):
        return error_ft(theta, throw=False, **fields)

    eager = jax.grad(silent)(theta)
    jitted = jax.jit(jax.grad(silent))(theta)
    batched = jax.vmap(jax.grad(silent))(jax.tree.map(lambda x: x * jnp.array([1.0, 1.3]), theta))
    _, push = jax.linearize(silent, theta)
    for name, slope in eager.items():
        np.testing.assert_allclose(jitted[name], slope, rtol=1e-8)
        np.testing.assert_allclose(batched[name][0], slope, rtol=1e-8)
        np.testing.assert_allclose(jax.jit(push)(unit_vector(theta, name)), slope, rtol=1e-8)
    backward = jax.jacrev(lambda t: jnp.stack([silent(t), 2 * silent(t)]))(theta)
    for name, slope in eager.items():
        np.testing.assert_allclose(backward[name], [slope, 2 * slope], rtol=1e-8)


def unit_vector(theta, name):
    return {other: jnp.ones_like(x) * (other == name) for other, x in theta.items()}


@pytest.mark.slow
def test_gradients_under_jit_and_vmap_are_the_same():
    assert_same_under_jit_and_vmap(RIDGE)


@pytest.mark.slow
def test_gradients_of_both_stages_under_jit_and_vmap_are_the_same():
    theta = {"lam": jnp.array(0.2), "lam_ft": jnp.array(0.3)}
    assert_same_under_jit_and_vmap(theta, static=REUSED, point=BASE)


def assert_second_derivatives_agree(theta, **fields):
    def gradient(theta):
        return jnp.stack(jax.tree.leaves(jax.grad(lambda t: error_ft(t, **fields))(theta)))

    hessian = jax.hessian(lambda theta: error_ft(theta, **fields))(theta)
    names = sorted(theta)
    for i, name in enumerate(names):
        expected = central_difference(gradient, (theta,), (unit(theta, i),), STEP)
        row = np.array([hessian[name][other] for other in names]) * theta[name]
        np.testing.assert_allclose(row, expected, rtol=1e-3)
    first, second = names
    np.testing.assert_allclose(hessian[first][second], hessian[second][first], rtol=1e-8)


@pytest.mark.slow
def test_second_derivatives_agree_with_differences_of_gradients():
    assert_second_derivatives_agree(RIDGE)


@pytest.mark.slow
@pytest.mark.parametrize("static", [FRESH, REUSED])
def test_second_derivatives_agree_with_differences_for_softmax(static):
    theta = {"lam": jnp.array(0.2), "lam_ft": jnp.array(0.3)}
    assert_second_derivatives_agree(theta, static=static, point=BASE)


def test_the_gradient_raises_what_the_value_raises():
    with pytest.raises(ValueError, match="lam_ft = -1: must be positive"):
        jax.grad(error_ft)({"lam_ft": jnp.array(-1.0)})
    few = jaxlora.Options(max_iterations=2)
    with pytest.raises(jaxlora.ConvergenceError):
        jax.grad(lambda theta: error_ft(theta, options=few))(RIDGE)


def test_beyond_the_collapse_nothing_depends_on_the_pretraining():
    def errors(lam):
        task = jaxlora.Task(**IDENTITY, **(BASE | {"lam": lam}))
        solved = jaxlora.solve_pretraining(task, **NUMERICS)
        return solved.values.test_error, (solved.values.critical_lam, solved.status)

    slope, (critical_lam, status) = jax.grad(errors, has_aux=True)(10.0)
    assert float(slope) == 0
    assert Kink(int(status.kinks)) == Kink.COLLAPSE
    below, (_, status) = jax.grad(errors, has_aux=True)(0.5 * float(critical_lam))
    assert float(below) != 0
    assert Kink(int(status.kinks)) == Kink(0)


@pytest.mark.slow
def test_selection_is_flagged_and_gradients_by_the_ridge_of_finetuning_are_exact():
    def error(lam_ft):
        task = jaxlora.Task(**IDENTITY, **(GIVEN | {"lam_ft": lam_ft, "active_ratio": 0.5}))
        prediction = predict(task, **NUMERICS)
        return prediction.finetuning.test_error, prediction.status.finetuning.kinks

    slope, kinks = jax.grad(error, has_aux=True)(0.3)
    expected = central_difference(lambda x: error(x)[0], (0.3,), (1.0,), 1e-4)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    assert Kink.SELECTION in Kink(int(kinks))


def test_jumps_between_minima_are_flagged():
    task = jaxlora.Task(
        **FRESH, kappa0=0.5, kappa=1.0, alpha=0.2, delta=5.0, lam=0.01, alpha_ft=3.0, lam_ft=0.2
    )
    solved = jaxlora.solve_pretraining(task, samples=2**12, replicates=2)
    assert Kink.JUMPS in Kink(int(solved.status.kinks))


def test_a_layer_without_noise_of_its_own_is_flagged():
    point = GIVEN | {"given": (1.0, 1.0, 1.0), "delta": 0.0, "lam_ft": np.inf}
    prediction = predict(jaxlora.Task(**IDENTITY, **point), **NUMERICS)
    assert Kink(int(prediction.status.pretraining.kinks)) == Kink.DEGENERATE


def test_kinks_say_what_they_leave_out():
    assert Kink(0).messages == ()
    both = Kink.JUMPS | Kink.SELECTION
    assert both.names == ["jumps", "selection"]
    assert [("minima" in m, "threshold" in m) for m in both.messages] == [
        (True, False),
        (False, True),
    ]
