"""Plain NumPy and SciPy versions of parts of the theory, sharing no code with the package."""

import numpy as np
from scipy.optimize import minimize, root
from scipy.special import softmax

NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


def identity_test_error(noise, tokens):
    """E = (T² + T)/T² Δ_eff for σ = x/T."""
    return (1 + 1 / tokens) * noise


def identity_frozen_error(noise, tokens):
    """E'_frozen = (T² + T)/T² (1 + Δ_eff) for σ = x/T (80)."""
    return (1 + 1 / tokens) * (1 + noise)


def bands(eta, kappa0):
    """Band edges of μ0 ⊞ semicircle: real critical values of x(G)."""
    s = np.sqrt(kappa0)
    gap = np.polynomial.Polynomial([1, -1 / s]) ** 2
    square = np.polynomial.Polynomial([0, 0, 1])
    critical = (-gap + square + eta**2 * square * gap).roots()
    G = critical[np.abs(critical.imag) < 1e-9].real
    return np.sort(1 / G + s / (1 - G / s) + eta**2 * G).reshape(-1, 2)


def density(x, eta, kappa0):
    """|Im G|/π from the roots of the cubic x = x(G)."""
    s = np.sqrt(kappa0)
    # −η²/s G³ + (η² + x/s) G² + (s − 1/s − x) G + 1 = 0, divided by its leading coefficient.
    lead = -(eta**2) / s
    companion = np.zeros((len(x), 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    companion[:, 0, 2] = -1 / lead
    companion[:, 1, 2] = -(s - 1 / s - x) / lead
    companion[:, 2, 2] = -(eta**2 + x / s) / lead
    return np.abs(np.linalg.eigvals(companion).imag).max(1) / np.pi


def truncated_second_moment(eta, eps, kappa0):
    """J(η, ε) = ∫_{x > ε} (x − ε)² μ_η(dx)."""
    total = 0.0
    for left, right in bands(eta, kappa0):
        if eps >= right:
            continue
        middle, half = (left + right) / 2, (right - left) / 2
        start = np.arcsin((max(eps, left) - middle) / half)
        theta = start + (np.pi / 2 - start) * (NODES + 1) / 2
        x = middle + half * np.sin(theta)
        values = (x - eps) ** 2 * density(x, eta, kappa0) * half * np.cos(theta)
        total += np.sum(WEIGHTS * values) * (np.pi / 2 - start) / 2
    return total


def derivative(function, x, step):
    return (
        8 * (function(x + step) - function(x - step))
        - (function(x + 2 * step) - function(x - 2 * step))
    ) / (12 * step)


def identity_state_evolution(tokens, kappa0, kappa, alpha, delta, lam):
    """(Q, M, V) of σ = x/T, where the expectations over the proximal map are closed forms."""
    entries = tokens * (tokens + 1) / 2
    A0 = 1 + kappa0 + delta / 2

    def change(x):
        Q, M, V = x
        shrink = 1 + 4 * V / tokens**2
        M_hat = V_hat = 8 * alpha * entries / tokens**2 / shrink
        Q_hat = 32 * alpha * entries / tokens**4 * (A0 + Q - 2 * M) / shrink**2
        eta, eps = np.sqrt(Q_hat) / M_hat, 2 * np.sqrt(kappa) * lam / M_hat
        J = truncated_second_moment(eta, eps, kappa0)
        J1 = derivative(lambda e: truncated_second_moment(e, eps, kappa0), eta, 1e-3)
        J2 = derivative(lambda e: truncated_second_moment(eta, e, kappa0), eps, 1e-3)
        return [
            (M_hat / V_hat) ** 2 * J - Q,
            M_hat / (2 * V_hat) * (2 * J - eta * J1 - eps * J2) - M,
            J1 / (2 * V_hat * eta) - V,
        ]

    solution = root(change, [1.0, 0.9, 1.0], tol=1e-12)
    assert np.max(np.abs(change(solution.x))) < 1e-10
    return solution.x


def trained_spike(tokens, given, delta, alpha_ft, lam_ft, dimension, seed, active_ratio=1.0):
    """q, m and E'_train of one softmax layer at finite D, whose side fields (z*, z) are Gaussian.

    XXᵀ/D is replaced by the identity, which changes errors at O(1/D) only, and |w*|² = D. The
    sequences are the share `active_ratio` of the candidates whose σ(z) is closest to σ(0).
    """
    rng = np.random.default_rng(seed)
    Q0, Q, M = given
    count = int(alpha_ft * dimension)
    A0 = Q0 + delta / 2

    candidates = round(count / active_ratio)

    def symmetric(covariance):
        upper = np.linalg.cholesky(covariance) @ rng.standard_normal((2, candidates * tokens**2))
        upper = upper.reshape(2, candidates, tokens, tokens)
        off = np.triu(upper, 1)
        diagonal = np.sqrt(2) * upper * np.eye(tokens)
        return off + np.swapaxes(off, -1, -2) + diagonal

    teacher, student = symmetric(np.array([[A0, M], [M, Q]]))
    distance = np.sum((softmax(student, axis=2) - 1 / tokens) ** 2, axis=(1, 2))
    kept = np.argsort(distance)[:count]
    teacher, student = teacher[kept], student[kept]
    w_star = rng.standard_normal(dimension)
    w_star *= np.sqrt(dimension) / np.linalg.norm(w_star)
    X = rng.standard_normal((count * tokens, dimension)) / np.sqrt(dimension)
    eye = np.eye(tokens)

    def rank_one(w):
        chi = (X @ w).reshape(count, tokens)
        return chi, chi[:, :, None] * chi[:, None, :]

    target = softmax(teacher + rank_one(w_star)[1] - eye, axis=2)

    def objective(w):
        chi, outer = rank_one(w)
        p = softmax(student + outer - w @ w / dimension * eye, axis=2)
        difference = p - target
        G = 2 * p * (difference - np.sum(p * difference, axis=2, keepdims=True))
        back = np.einsum("nab,nb->na", G + np.swapaxes(G, 1, 2), chi).reshape(-1)
        trace = np.trace(G, axis1=1, axis2=2).sum()
        loss = np.sum(difference**2)
        return loss + lam_ft * w @ w, X.T @ back - 2 * trace / dimension * w + 2 * lam_ft * w

    runs = [
        minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
        for start in (w_star, rng.standard_normal(dimension))
    ]
    best = min(runs, key=lambda run: run.fun)
    w = best.x
    q, m = w @ w / dimension, abs(w @ w_star) / dimension
    return q, m, (best.fun - lam_ft * w @ w) / count
