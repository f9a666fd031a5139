"""Closed forms against plain Monte Carlo, within 5 standard errors of independent draws."""

import jax
import numpy as np
import pytest
from independent import identity_frozen_error, identity_test_error
from scipy.optimize import minimize_scalar

from jaxlora.noise import (
    best_beta,
    effective_noise,
    identity_finetuned_error,
    recalibrated_noise,
    reused_noise,
)

Q0, DELTA, Q, M = 1.5, 0.5, 1.2, 0.9
A0 = Q0 + DELTA / 2
LITTLE_q, LITTLE_m = 0.8, 0.6
SAMPLES = 200_000
BOTH_SIZES = pytest.mark.parametrize("tokens", [2, 3])


def symmetric_pairs(tokens):
    """(z*, z) ~ Q as matrices (n, T, T): the symmetric part of two independent matrices each."""
    rng = np.random.default_rng(tokens)
    factor = np.linalg.cholesky([[A0, M], [M, Q]])
    plain = np.einsum("ij,jnab->inab", factor, rng.standard_normal((2, SAMPLES, tokens, tokens)))
    return (plain + plain.swapaxes(2, 3)) / np.sqrt(2)


def spikes(tokens):
    """(χ*, χ) ~ Q', each (n, T)."""
    rng = np.random.default_rng(100 + tokens)
    factor = np.linalg.cholesky([[1, LITTLE_m], [LITTLE_m, LITTLE_q]])
    return np.einsum("ij,jna->ina", factor, rng.standard_normal((2, SAMPLES, tokens)))


def outer(x):
    return x[:, :, None] * x[:, None, :]


def assert_is_mean(value, samples):
    stderr = samples.std() / np.sqrt(len(samples))
    assert stderr < 0.01 * abs(value)
    np.testing.assert_allclose(value, samples.mean(), atol=5 * stderr)


def squared_error(a, b):
    """|σ(a) − σ(b)|²_F of each sample for σ = x/T."""
    return np.sum((a - b) ** 2, axis=(1, 2)) / a.shape[1] ** 2


@pytest.mark.parametrize("beta", [0.0, 0.6, 1.0, 1.7])
def test_effective_noise_is_the_variance_of_what_the_student_misses(beta):
    teacher, student = symmetric_pairs(2)
    missed = teacher[:, 0, 1] - beta * student[:, 0, 1]
    assert_is_mean(effective_noise(A0, Q, M, beta), missed**2)
    missed = teacher[:, 0, 0] - beta * student[:, 0, 0]
    assert_is_mean(2 * effective_noise(A0, Q, M, beta), missed**2)


def test_effective_noise_takes_no_recalibration_by_default():
    np.testing.assert_allclose(effective_noise(A0, Q, M), DELTA / 2 + Q0 - 2 * M + Q, rtol=1e-14)


def test_best_beta_has_the_least_effective_noise():
    found = minimize_scalar(lambda beta: float(effective_noise(A0, Q, M, beta)), tol=1e-12)
    np.testing.assert_allclose(best_beta(Q, M), found.x, rtol=1e-6)
    np.testing.assert_allclose(recalibrated_noise(A0, Q, M), found.fun, rtol=1e-12)


def test_recalibrated_noise_is_the_variance_of_the_teacher_given_the_student():
    precision = np.linalg.inv([[A0, M], [M, Q]])
    np.testing.assert_allclose(recalibrated_noise(A0, Q, M), 1 / precision[0, 0], rtol=1e-14)


@BOTH_SIZES
def test_reused_noise_is_the_effective_noise_after_the_proximal_map(tokens):
    """Prox of an entry minimises V (h − z*)²/T² · (entries it counts for) + (h − z̃)²/(2s)."""
    V = 0.7
    teacher, student = symmetric_pairs(tokens)
    noise = effective_noise(A0, Q, M)
    for b, counted, s in ((0, 1, 2), (1, 2, 1)):
        curvature = 2 * V * counted / tokens**2
        z = (curvature * teacher[:, 0, b] + student[:, 0, b] / s) / (curvature + 1 / s)
        assert_is_mean(s * reused_noise(noise, V, tokens), (z - teacher[:, 0, b]) ** 2)


@BOTH_SIZES
@pytest.mark.parametrize("beta", [1.0, 0.75])
def test_identity_test_error(tokens, beta):
    teacher, student = symmetric_pairs(tokens)
    value = identity_test_error(effective_noise(A0, Q, M, beta), tokens)
    assert_is_mean(value, squared_error(beta * student, teacher))


@BOTH_SIZES
def test_identity_frozen_error(tokens):
    teacher, student = symmetric_pairs(tokens)
    target = teacher + outer(spikes(tokens)[0]) - np.eye(tokens)
    value = identity_frozen_error(effective_noise(A0, Q, M), tokens)
    assert_is_mean(value, squared_error(student, target))


@BOTH_SIZES
def test_identity_finetuned_error(tokens):
    teacher, student = symmetric_pairs(tokens)
    spike, rank_one = spikes(tokens)
    target = teacher + outer(spike) - np.eye(tokens)
    adapted = student + outer(rank_one) - LITTLE_q * np.eye(tokens)
    value = identity_finetuned_error(effective_noise(A0, Q, M), LITTLE_q, LITTLE_m, tokens)
    assert_is_mean(value, squared_error(adapted, target))


def test_noises_are_differentiable():
    """∂Δ_eff/∂M = −2β, and Δ_eff at the best β is stationary: its ∂Q is that at fixed β."""
    assert jax.grad(effective_noise, argnums=2)(A0, Q, M, 0.6) == -1.2
    fixed = jax.grad(effective_noise, argnums=1)(A0, Q, M, float(best_beta(Q, M)))
    np.testing.assert_allclose(jax.grad(recalibrated_noise, argnums=1)(A0, Q, M), fixed)
