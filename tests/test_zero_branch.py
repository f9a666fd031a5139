import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from scipy.optimize import brentq, minimize_scalar
from scipy.special import softmax

import jaxlora
from jaxlora.finetuning import SideFields
from jaxlora.laws import correlated
from jaxlora.sampling import FINETUNING, Draws, draw
from jaxlora.symmetric import root_weights, unpack
from jaxlora.zero_branch import diagonalise, zero_branch

# (α', Δ, (Q0, Q, M)): with an outlier, and too noisy for one.
OUTLIER = (3.0, 0.5, (1.5, 1.5, 1.0))
BULK_ONLY = (3.0, 40.0, (1.5, 0.1, 0.0))
TW_MEAN = -1.2065  # of the Tracy–Widom law of real symmetric matrices


def make_task(alpha_ft, delta, given, tokens=3, **other):
    return jaxlora.Task(
        tokens=tokens,
        delta=delta,
        given=given,
        **({"alpha_ft": alpha_ft, "lam_ft": 1.0} | other),
    )


def draws_of(tokens, samples, replicates=None, seed=0):
    """Draws of one replicate, or of several on a leading axis."""
    draws = jax.tree.map(jnp.asarray, draw(tokens, samples, replicates or 1, seed, FINETUNING))
    return draws if replicates else jax.tree.map(lambda x: x[0], draws)


def fields_of(task, draws):
    Q0, Q, M = task.given
    teacher, student = correlated(Q0 + task.delta / 2, M, Q, draws.first, draws.second)
    roots = root_weights(task.tokens, teacher)
    return SideFields(*(unpack(roots * x, task.tokens) for x in (teacher, task.beta * student)))


@jax.jit
def sampled(task, draws):
    return zero_branch(task, fields_of(task, draws), draws)


@jax.jit
def replicated(task, draws):
    return jax.vmap(lambda d: zero_branch(task, fields_of(task, d), d))(draws)


solve_on_samples = jax.jit(zero_branch)


@jax.jit
def modes_and_roots(gamma, draws, alpha):
    modes = diagonalise(gamma, draws, alpha)
    return modes, modes.roots()


def mean_and_error(x, axis=0):
    x = np.asarray(x)
    return x.mean(axis), x.std(axis, ddof=1) / np.sqrt(x.shape[axis])


# Plain NumPy, sharing no code with the package; samples come first here.


def gamma_by_complex_step(activation, teacher, student, chi):
    """Γ (n, T, T), the derivative of the loss without rounding or truncation error."""
    tokens = chi.shape[1]
    target = activation(teacher + chi[:, :, None] * chi[:, None, :] - np.eye(tokens))
    gamma = np.zeros(student.shape)
    for a in range(tokens):
        for b in range(tokens):
            moved = student.astype(complex)
            moved[:, a, b] += 1e-20j
            loss = np.sum((activation(moved) - target) ** 2, axis=(1, 2))
            gamma[:, a, b] += loss.imag / 2e-20
            gamma[:, b, a] += loss.imag / 2e-20
    return gamma


def row_softmax(a):
    e = np.exp(a)
    return e / e.sum(axis=2, keepdims=True)


def thresholds(gamma, chi, weights, alpha):
    """Outlier (None where there is none) and edge, the least λ'(v) over the allowed v."""
    eye = np.eye(chi.shape[1])
    largest = 0.5 / -np.linalg.eigvalsh(gamma).min()

    def average(matrix):
        return alpha * weights @ np.trace(matrix, axis1=1, axis2=2)

    def K(v):
        return 2 * v * gamma @ np.linalg.inv(eye + 2 * v * gamma)

    def ridge(v):
        return 1 / (2 * v) + average(gamma @ K(v))

    def outlier_condition(v):
        return average(K(v) @ (eye - chi[:, :, None] * chi[:, None, :])) - 1

    low, high = 1e-4 * largest, (1 - 1e-9) * largest
    edge = minimize_scalar(ridge, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    grid = np.linspace(low, edge.x, 400)
    crossings = np.flatnonzero(np.array([outlier_condition(v) for v in grid]) > 0)
    if not len(crossings):
        return None, edge.fun
    first = crossings[0]
    return ridge(brentq(outlier_condition, *grid[first - 1 : first + 1], xtol=1e-15)), edge.fun


def random_layer(tokens, alpha, delta, given, dimension, seed):
    """z*, z, χ* and Γ of N' = α'D sequences, B = (1/D) Σ (Tr Γ I − XᵀΓX), and w*, |w*|² = D.

    The Hessian at w = 0 is 2 (λ'I − B).
    """
    rng = np.random.default_rng(seed)
    count = round(alpha * dimension)
    Q0, Q, M = given
    covariance = [[Q0 + delta / 2, M], [M, Q]]
    upper = np.linalg.cholesky(covariance) @ rng.standard_normal((2, count * tokens**2))
    upper = upper.reshape(2, count, tokens, tokens)
    off = np.triu(upper, 1)
    teacher, student = off + np.swapaxes(off, 2, 3) + np.sqrt(2) * upper * np.eye(tokens)
    X = rng.standard_normal((count, tokens, dimension))
    w_star = rng.standard_normal(dimension)
    w_star *= np.sqrt(dimension) / np.linalg.norm(w_star)
    chi = X @ w_star / np.sqrt(dimension)

    p = softmax(student, axis=2)
    difference = p - softmax(teacher + chi[:, :, None] * chi[:, None] - np.eye(tokens), axis=2)
    gradient = 2 * p * (difference - np.sum(p * difference, axis=2, keepdims=True))
    gamma = (gradient + np.swapaxes(gradient, 1, 2)) / 2
    B = -X.reshape(-1, dimension).T @ (gamma @ X).reshape(-1, dimension)
    B += np.trace(gamma, axis1=1, axis2=2).sum() * np.eye(dimension)
    return teacher, student, chi, gamma, B / dimension, w_star


def on_those_samples(task, teacher, student, chi, gamma):
    """Theory on a layer's own samples: thresholds, the scale of Tracy–Widom's law, the overlap.

    Where λ'(y) ≈ edge + λ''(y − y_e)²/2, the largest eigenvalue of the bulk fluctuates on the scale
    (y_e⁴ λ''/2)^(1/3) D^(−2/3) (σ D^(−2/3) for a semicircle of radius 2σ, y + σ²/y).
    """
    count = len(chi)
    packed = np.zeros((task.tokens * (task.tokens + 1) // 2, count))
    draws = Draws(packed, packed, np.full(count, 1 / count), chi.T, np.zeros_like(chi.T))
    fields = SideFields(np.moveaxis(teacher, 0, -1), np.moveaxis(student, 0, -1))
    branch = solve_on_samples(task, fields, draws)
    values, vectors = np.linalg.eigh(gamma)
    alpha = float(task.alpha_ft)

    def moment(function):
        return alpha * np.mean(np.sum(function, axis=1))

    _, (y_edge, y_outlier, _) = modes_and_roots(np.moveaxis(gamma, 0, -1), draws, alpha)
    curvature = 2 * moment(values**2 / (float(y_edge) + values) ** 3)
    scale = (float(y_edge) ** 4 * curvature / 2) ** (1 / 3)
    K = values / (float(y_outlier) + values)
    slope = 1 - moment(K**2)
    aligned = np.einsum("nab,na->nb", vectors, chi) ** 2
    overlap = slope / (slope + moment(K**2 * aligned))
    return float(branch.outlier), float(branch.edge), scale, overlap


def compare_with_layers(case, dimension, seeds):
    """Rows: outlier − theory, overlap − theory, largest eigenvalue of the bulk − theory.

    The bulk is that of B on the complement of w*, where nothing is repelled by the outlier. Theory
    is taken on each layer's samples, which removes most of the fluctuations.
    """
    alpha, delta, given = case
    task = make_task(*case)
    rows = []
    for seed in range(seeds):
        *samples, B, w_star = random_layer(3, alpha, delta, given, dimension, seed)
        outlier, edge, scale, overlap = on_those_samples(task, *samples)
        values, vectors = np.linalg.eigh(B)
        direction = w_star / np.linalg.norm(w_star)
        rest = B - np.outer(direction, B @ direction)
        rest -= np.outer(rest @ direction, direction)
        bulk = np.linalg.eigvalsh(rest)[-1]
        expected = edge + TW_MEAN * scale * dimension ** (-2 / 3)
        rows.append([values[-1] - outlier, (vectors[:, -1] @ direction) ** 2 - overlap])
        rows[-1] += [bulk - expected, values[-1] - expected]
    return np.array(rows)


@pytest.mark.parametrize(
    ("tokens", "name", "case", "has_outlier"),
    [
        (2, "softmax", OUTLIER, True),
        (3, "softmax", OUTLIER, True),
        (3, "softmax", (30.0, 0.5, (1.5, 1.5, 1.0)), True),
        (3, "softmax", (0.3, 0.5, (1.5, 1.5, 1.0)), False),
        (3, "softmax", BULK_ONLY, False),
        (3, "tanh", OUTLIER, True),
        (1, "tanh", OUTLIER, False),
    ],
)
def test_agrees_with_direct_sums_over_the_same_samples(tokens, name, case, has_outlier):
    task = make_task(*case, tokens=tokens, activation=jnp.tanh if name == "tanh" else name)
    draws = draws_of(tokens, 512)
    branch = sampled(task, draws)
    teacher, student = (np.moveaxis(np.asarray(x), -1, 0) for x in fields_of(task, draws))
    chi = np.asarray(draws.spike).T
    activation = {"softmax": row_softmax, "tanh": np.tanh}[name]
    gamma = gamma_by_complex_step(activation, teacher, student, chi)
    outlier, edge = thresholds(gamma, chi, np.asarray(draws.weights), case[0])
    # minimize_scalar stops within 1e-8 of the stationary point, brentq at rounding.
    np.testing.assert_allclose(branch.edge, edge, rtol=1e-10)
    assert (outlier is not None) == has_outlier
    if outlier is None:
        assert np.isnan(branch.outlier)
        assert branch.critical == branch.edge
    else:
        np.testing.assert_allclose(branch.outlier, outlier, rtol=1e-10)
        assert branch.critical == branch.outlier
        assert branch.outlier > branch.edge


@pytest.mark.parametrize("spike", [1.0, 1.57, 1.59, 2.5])
@pytest.mark.parametrize(("sign", "alpha"), [(-1, 1.0), (-1, 0.1), (1, 1.0), (1, 0.2)])
def test_constant_gamma_is_a_spiked_wishart_matrix(sign, alpha, spike):
    # For Γ = ±I, B = ±(c − XᵀX/D), c = α'T; χ* has the variance `spike` along w*.
    tokens, count = 3, 10
    c = alpha * tokens
    gamma = jnp.broadcast_to(sign * jnp.eye(tokens)[..., None], (tokens, tokens, count))
    chi = np.full((tokens, count), np.sqrt(spike))
    empty = np.zeros((6, count))
    draws = Draws(empty, empty, np.full(count, 1 / count), chi, chi)
    modes, (y_edge, y_outlier, exists) = modes_and_roots(gamma, draws, alpha)
    edge, outlier = (modes.ridge(y - modes.bound) for y in (y_edge, y_outlier))
    # Marchenko–Pastur: (1 ± √c)², or the kernel of XᵀX/D where c < 1.
    exact = 1 + 2 * np.sqrt(c) if sign < 0 else (2 * np.sqrt(c) - 1 if c > 1 else c)
    np.testing.assert_allclose(edge, exact, rtol=1e-12)
    # Baik, Ben Arous and Péché: the spike splits off above where spike − 1 > 1/√c.
    split = sign < 0 and (spike - 1) * np.sqrt(c) > 1
    assert bool(exists) == split
    if split:
        exact = 1 + c * (spike - 1) + 1 / (spike - 1)
        np.testing.assert_allclose(outlier, exact, rtol=1e-12)


def test_threshold_of_the_checked_case():
    # Known from other draws to the digits shown: outlier 2.37 to 2.39, edge about 1.89.
    branch = replicated(make_task(*OUTLIER), draws_of(3, 2**13, replicates=8))
    outlier, outlier_error = mean_and_error(branch.outlier)
    edge, edge_error = mean_and_error(branch.edge)
    assert outlier_error < 0.01
    assert edge_error < 0.01
    # Four standard errors.
    assert 2.37 - 4 * outlier_error < outlier < 2.39 + 4 * outlier_error
    assert abs(edge - 1.89) < 0.005 + 4 * edge_error
    np.testing.assert_array_equal(branch.critical, branch.outlier)


def test_outlier_and_bulk_of_hessians_at_finite_dimension():
    dimension, seeds = 150, 24
    mean, error = mean_and_error(compare_with_layers(OUTLIER, dimension, seeds))
    # Four standard errors, and corrections O(1/D).
    assert np.all(error[:3] < [0.03, 0.02, 0.02])
    assert np.all(np.abs(mean[:3]) < 4 * error[:3] + np.array([1, 1, 2]) / dimension)


def test_hessians_at_finite_dimension_without_outlier():
    dimension, seeds = 150, 24
    rows = compare_with_layers(BULK_ONLY, dimension, seeds)
    # On so few samples some have an outlier just beyond the edge.
    assert np.sum(np.isnan(rows[:, 0])) > 0.75 * seeds
    (_, overlap, bulk, largest), error = mean_and_error(rows)
    assert error[2] < 0.025
    assert abs(bulk) < 4 * error[2] + 2 / dimension
    # w* moves the largest eigenvalue by less than the scale of its fluctuations, 1.5 D^(−2/3).
    assert largest < 1.5 * dimension ** (-2 / 3) + 4 * error[3]
    assert overlap < 0.15  # 0.65 in the case with an outlier


@pytest.mark.slow
def test_hessian_in_large_dimension_agrees_with_independent_draws():
    dimension, seeds = 1200, 4
    branch = replicated(make_task(*OUTLIER), draws_of(3, 2**13, replicates=8))
    rows = []
    for seed in range(seeds):
        *_, B, w_star = random_layer(3, *OUTLIER, dimension, seed)
        values, vectors = np.linalg.eigh(B)
        rows.append([*values[:-3:-1], *(vectors[:, :-3:-1].T @ w_star) ** 2 / dimension])
    (outlier, next_one, overlap, next_overlap), error = mean_and_error(rows)
    expected, expected_error = mean_and_error(branch.outlier)
    # Four standard errors.
    assert abs(outlier - expected) < 4 * np.hypot(error[0], expected_error)
    # 0.65 is what the theory has for the outlier; the others share 1 − 0.65 among O(D).
    assert abs(overlap - 0.65) < 0.05
    assert next_overlap < 0.05
    # The bulk's largest lies below its edge by O(D^(−2/3)): at most by three units of 2.5 D^(−2/3).
    edge = float(np.mean(branch.edge))
    assert edge - 7.5 * dimension ** (-2 / 3) < next_one < edge + 4 * error[1]


@pytest.mark.parametrize("case", [OUTLIER, BULK_ONLY])
def test_derivatives_along_v_and_the_order_of_the_thresholds(case):
    task, draws = make_task(*case), draws_of(3, 512)
    teacher, student = (np.moveaxis(np.asarray(x), -1, 0) for x in fields_of(task, draws))
    gamma = gamma_by_complex_step(row_softmax, teacher, student, np.asarray(draws.spike).T)
    modes, (y_edge, _, _) = modes_and_roots(np.moveaxis(gamma, 0, -1), draws, task.alpha_ft)
    bound = float(modes.bound)
    np.testing.assert_allclose(bound, -np.linalg.eigvalsh(gamma).min(), rtol=1e-12)

    def ridge(v):
        return modes.ridge(1 / (2 * v) - bound)

    def p(y):
        return y * (1 - modes.misalignment(y - bound))

    edge, v_edge = float(sampled(task, draws).edge), 1 / (2 * float(y_edge))
    for v in np.array([0.1, 0.5, 0.9, 1.0]) * v_edge:
        replicon = float(modes.replicon(1 / (2 * v) - bound))
        slope = central_difference(ridge, (v,), (v,), 1e-4) / v
        # Truncation of the five-point rule and rounding, in units of the terms of λ'(v).
        np.testing.assert_allclose(slope, (replicon - 1) / (2 * v**2), atol=1e-9 / v**2)
        assert replicon < 1 + 1e-9
        assert ridge(v) >= edge - 1e-12
        y = 1 / (2 * v)
        assert central_difference(p, (y,), (y,), 1e-4) > 0


@pytest.mark.parametrize("case", [OUTLIER, BULK_ONLY])
def test_derivatives_against_finite_differences(case):
    task, draws = make_task(*case, tokens=2), draws_of(2, 512)
    assert np.isnan(sampled(task, draws).outlier) == (case == BULK_ONLY)
    leaves, structure = jax.tree.flatten(task)
    for i, leaf in enumerate(leaves):
        direction = [jnp.zeros_like(x) for x in leaves]
        direction[i] = jnp.maximum(leaf, 0.1)
        direction = structure.unflatten(direction)
        derivative = along(task, direction, draws)
        for name in ("critical", "edge"):

            def value(task, name=name):
                return getattr(sampled(task, draws), name)

            numeric = central_difference(value, (task,), (direction,), 1e-3)
            # The rule's error is 1e-12 times a fifth derivative.
            np.testing.assert_allclose(getattr(derivative, name), numeric, rtol=1e-6, atol=1e-8)
            if leaf is not task.lam_ft and leaf is not task.active_ratio:
                assert numeric != 0, "the direction tests nothing"


@jax.jit
def along(task, direction, draws):
    return jax.jvp(lambda task: sampled(task, draws), (task,), (direction,))[1]


def test_maps_over_parameters_with_and_without_outlier():
    draws = draws_of(2, 512)
    alphas = jnp.array([0.2, 3.0, 30.0])

    def at(alpha_ft):
        return sampled(make_task(alpha_ft, *OUTLIER[1:], tokens=2), draws)

    mapped = jax.jit(jax.vmap(at))(alphas)
    assert np.isnan(mapped.outlier).tolist() == [True, False, False]
    np.testing.assert_allclose(mapped.critical, [at(a).critical for a in alphas], rtol=1e-12)


def test_single_precision():
    task, draws = make_task(*OUTLIER, tokens=2), draws_of(2, 512)
    single = sampled(*jax.tree.map(lambda x: x.astype(jnp.float32), (task, draws)))
    assert single.critical.dtype == jnp.float32
    # Roundings of 6e-8 in sums of terms some ten times the result.
    np.testing.assert_allclose(single, sampled(task, draws), rtol=1e-5)


def test_identity_has_no_zero_branch():
    task = make_task(*OUTLIER, activation="identity")
    with pytest.raises(ValueError, match="identity: has no zero branch"):
        sampled(task, draws_of(3, 64))


def uninformed(case, lam_ft):
    """The uninformed branch at λ' and its standard errors, on the draws of `replicated`."""
    task = make_task(*case, lam_ft=lam_ft)
    solved = jaxlora.solve_finetuning(task, samples=2**15, replicates=8, throw=False)
    return solved.values.branches[1], solved.stderr.branches[1]


@pytest.mark.slow
def test_overlap_starts_at_the_outlier():
    draws = draws_of(3, 2**12, replicates=8)
    critical = float(np.mean(replicated(make_task(*OUTLIER), draws).critical))
    # The replicates' thresholds scatter by 0.02.
    assert abs(float(uninformed(OUTLIER, critical + 0.1)[0].q)) < 1e-8
    distances = np.array([0.1, 0.2, 0.3])
    solved = [uninformed(OUTLIER, critical - distance) for distance in distances]
    m, error = (np.array([float(x.m) for x in xs]) for xs in zip(*solved, strict=True))
    # m² of each replicate, averaged over the 8 of them.
    square, square_error = m**2 + 7 * error**2, 2 * m * error
    slopes = np.diff(square) / np.diff(distances)
    assert np.all(slopes > 0)
    # A straight line through the first two: where it starts, to four standard errors and the bend.
    start = distances[0] - square[0] / slopes[0]
    bend = abs(slopes[1] / slopes[0] - 1) * distances[0]
    assert 4 * square_error[0] / slopes[0] < 0.05
    assert abs(start) < 4 * square_error[0] / slopes[0] + bend
    assert abs(slopes[1] / slopes[0] - 1) < 0.25


@pytest.mark.slow
def test_norm_without_overlap_starts_at_the_edge():
    draws = draws_of(3, 2**12, replicates=8)
    branch = replicated(make_task(*BULK_ONLY), draws)
    assert np.all(np.isnan(branch.outlier))
    edge = float(np.mean(branch.edge))
    assert abs(float(uninformed(BULK_ONLY, edge + 0.1)[0].q)) < 1e-8
    distances = np.array([0.1, 0.2])
    (near, near_error), (far, _) = (uninformed(BULK_ONLY, edge - x) for x in distances)
    slope = float(far.q - near.q) / (distances[1] - distances[0])
    start = distances[0] - float(near.q) / slope
    # A straight line: where it starts, to four standard errors and the bend.
    assert slope > 0.05
    assert abs(start) < 4 * float(near_error.q) / slope + 0.005
    # |m| is of the size of its sampling error, as m = 0 gives.
    assert float(far.m) ** 2 < 0.01 * float(far.q)


def test_an_update_that_vanishes_has_no_overlap():
    """Far above λ'_c the fixed point is ŵ = 0, which the iteration reaches to rounding only."""
    task = jaxlora.Task(tokens=2, given=(1.5, 1.5, 1.0), delta=0.5, alpha_ft=3.0, lam_ft=5.0)
    assert float(jaxlora.zero_branch_boundary(task, samples=2**10).critical.value) < 4.0
    values = jaxlora.predict(task, samples=2**10, replicates=2).finetuning
    assert float(values.q) < 1e-15
    assert np.isnan(values.overlap)
    np.testing.assert_allclose(values.test_error, values.frozen_test_error, rtol=1e-12)
