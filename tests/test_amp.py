from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.integrate import quad
from scipy.special import softmax
from scipy.stats import norm

import jaxlora
from jaxlora.finetuning import STARTS, StateEvolution, from_noise, to_noise
from jaxlora.options import Options
from jaxlora.proximal import response_sums
from jaxlora.sampling import Draws
from jaxlora.simulation import bayes_amp, draw_rank_one, erm_amp

GIVEN = (1.5, 1.5, 1.0)
FAST = {"tokens": 3, "delta": 0.5, "given": GIVEN, "alpha_ft": 6.0, "lam_ft": 0.5}
FULL = FAST | {"alpha_ft": 3.0}


def drawn(task, dimension, seed=0):
    _, Q, M = task.given
    return draw_rank_one(task, Q, M, dimension, seed)


def activation(name):
    """σ and the gradient of |σ(a) − y|²_F on (n, T, T) arrays."""
    if name == "identity":
        return lambda a: a / a.shape[-1], lambda a, y: 2 * (a / a.shape[-1] - y) / a.shape[-1]

    def gradient(a, y):
        p = softmax(a, axis=2)
        return 2 * p * (p - y - np.sum(p * (p - y), axis=2, keepdims=True))

    return lambda a: softmax(a, axis=2), gradient


def sequences(data):
    """X (n, T, D), w*, z* and z (n, T, T) as NumPy arrays with the samples first."""
    teacher, student = (np.moveaxis(np.asarray(z), -1, 0) for z in data.fields)
    X = np.asarray(data.inputs).reshape(data.dimension, teacher.shape[1], -1)
    return np.moveaxis(X, (2, 1, 0), (0, 1, 2)), np.asarray(data.teacher_weights), teacher, student


def training_gradient(data, weights, lam_ft, name="softmax"):
    """∇ of Σ |σ(a) − y'|² + λ'|w|², and of its ridge alone to compare with."""
    X, w_star, teacher, student = sequences(data)
    w, D, eye = np.asarray(weights), data.dimension, np.eye(teacher.shape[1])
    sigma, gradient = activation(name)
    spike, chi = X @ w_star / np.sqrt(D), X @ w / np.sqrt(D)
    y = sigma(teacher + spike[:, :, None] * spike[:, None] - eye)
    G = gradient(student + chi[:, :, None] * chi[:, None] - w @ w / D * eye, y)
    forces = np.einsum("nab,nb->na", G + np.swapaxes(G, 1, 2), chi)
    back = np.einsum("nad,na->d", X, forces) / np.sqrt(D)
    shift = 2 * np.trace(G, axis1=1, axis2=2).sum() / D * w
    return back - shift + 2 * lam_ft * w, 2 * lam_ft * w


def paired_evolution(task, data, seed=0):
    """The state evolution over the fields and χ* of `data`, so that their scatter cancels."""
    spike = data.project(data.teacher_weights)
    noise = np.random.default_rng([seed, 1]).standard_normal(spike.shape)
    weights = jnp.full(spike.shape[1], 1 / spike.shape[1])
    unused = jnp.zeros((0, spike.shape[1]))
    draws = Draws(unused, unused, weights, spike, jnp.asarray(noise))
    return StateEvolution(task, data.fields, draws, Options())


@eqx.filter_jit
def mapped(evolution, order):
    """The undamped map of (q, m, v) with the global minima taken anew."""
    x = to_noise(order)
    return from_noise(evolution(x, evolution.search(x)))


def predicted(task, data, start, steps, seed):
    """(q, m, v) of each step (steps + 1, 3) from the state evolution."""
    evolution, orbit = paired_evolution(task, data, seed), [jnp.asarray(start)]
    for _ in range(steps):
        orbit.append(mapped(evolution, orbit[-1]))
    return np.array(orbit)


def history(run):
    return np.stack([run.q, run.m, run.v], axis=1)


def standard_error(values):
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def assert_agree(simulated, theory, bias):
    """Means over the first axis within four standard errors, and a relative finite-size bias.

    `theory` is one value, or one for each of `simulated` that shares its scatter.
    """
    theory = np.broadcast_to(theory, simulated.shape)
    difference = simulated - theory
    allowed = 4 * standard_error(difference) + bias * np.abs(theory.mean(0))
    assert np.all(np.abs(difference.mean(0)) <= allowed), (difference.mean(0), allowed)


def linearised_step(data, lam_ft, q, m, v):
    """(q, m, v) after a step from small weights, and the replicon: with X = 2Γ(I + 2vΓ)⁻¹ at w = 0,

    m' = v' m α' E Tr X(I − χ*χ*ᵀ),  q' = m'² + α' v'² E[(q − m²) |X|² + m² |Xχ*|²].
    """
    X, w_star, teacher, student = sequences(data)
    spike, eye = X @ w_star / np.sqrt(data.dimension), np.eye(3)
    outer = spike[:, :, None] * spike[:, None]
    sigma, gradient = activation("softmax")
    G = gradient(student, sigma(teacher + outer - eye))
    G = (G + np.swapaxes(G, 1, 2)) / 2
    X = 2 * G @ np.linalg.inv(eye + 2 * v * G)

    def average(values):
        return np.sum(values) / data.dimension

    k, shift = average(np.trace(X, axis1=1, axis2=2)), average(np.trace(G, axis1=1, axis2=2))
    v = 1 / (2 * lam_ft - 2 * shift + k)
    m_new = v * m * (k - average(X * outer))
    along = average((X @ spike[:, :, None]) ** 2)
    q_new = m_new**2 + v**2 * ((q - m**2) * average(X**2) + m**2 * along)
    return (q_new, m_new, v), v**2 * average(X**2)


def linear_output(labels, noise, omega, v):
    """g for labels χ* + N(0, noise I)."""
    return (labels - omega) / (v + noise)


def sign_output(labels, omega, v):
    """g for labels sign χ*, from the mean of a truncated normal variable."""
    t = labels * omega / jnp.sqrt(v)
    ratio = jnp.exp(jax.scipy.stats.norm.logpdf(t) - jax.scipy.special.log_ndtr(t))
    return labels * ratio / jnp.sqrt(v)


def test_drawn_data_have_the_laws_of_the_model():
    task = jaxlora.Task(**FAST | {"alpha_ft": 4.0, "beta": 0.8})
    data = drawn(task, 400)
    X, w_star, teacher, student = sequences(data)
    assert X.shape == (1600, 3, 400)
    np.testing.assert_allclose(w_star @ w_star, 400, rtol=1e-12)
    np.testing.assert_array_equal(teacher, np.swapaxes(teacher, 1, 2))
    np.testing.assert_array_equal(student, np.swapaxes(student, 1, 2))
    rows, columns = np.triu_indices(3)
    s = 1.0 + (rows == columns)
    pair = np.stack([teacher[:, rows, columns], student[:, rows, columns]]) / np.sqrt(s)
    covariance = np.einsum("ank,bnk->ab", pair, pair) / pair[0].size
    # Entries of 9600 products; five standard errors of the largest.
    expected = [[1.75, 0.8], [0.8, 0.96]]
    np.testing.assert_allclose(covariance, expected, atol=5 * np.sqrt(2 / 9600) * 1.75)
    np.testing.assert_allclose([X.mean(), X.var()], [0, 1], atol=5 * np.sqrt(2 / X.size))


def test_a_seed_says_what_is_drawn():
    task = jaxlora.Task(**FAST)
    one, same, other = (drawn(task, 20, seed) for seed in (0, 0, 1))
    for a, b, c in zip(*map(jax.tree.leaves, (one, same, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.all(a != c)


def test_active_selection_keeps_the_least_distances():
    kept = drawn(jaxlora.Task(**FAST | {"active_ratio": 0.1}), 40)
    assert kept.fields.student.shape == (3, 3, 240)
    everything = drawn(jaxlora.Task(**FAST | {"alpha_ft": 60.0}), 40)
    distance = [
        np.sum((softmax(sequences(data)[3], axis=2) - 1 / 3) ** 2, axis=(1, 2))
        for data in (kept, everything)
    ]
    # The candidates are drawn first, so they are the same.
    np.testing.assert_allclose(np.sort(distance[0]), np.sort(distance[1])[:240], rtol=1e-12)


def test_products_with_the_inputs():
    data = drawn(jaxlora.Task(**FAST), 30)
    X, *_ = sequences(data)
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal(30), rng.standard_normal((3, 180))
    np.testing.assert_allclose(data.project(jnp.asarray(w)).T, X @ w / np.sqrt(30), atol=1e-12)
    back = np.einsum("nad,an->d", X, g) / np.sqrt(30)
    np.testing.assert_allclose(data.backproject(jnp.asarray(g)), back, atol=1e-11)


@pytest.mark.parametrize("name", ["softmax", "identity"])
def test_fixed_point_is_a_stationary_point_of_the_training_objective(name):
    task = jaxlora.Task(**FAST | {"activation": name})
    data = drawn(task, 200)
    run = erm_amp(task, data)
    assert run.converged
    assert run.change <= 1e-9
    gradient, ridge = training_gradient(data, run.weights, 0.5, name)
    assert np.linalg.norm(gradient) < 1e-6 * np.linalg.norm(ridge)
    w, w_star = np.asarray(run.weights), np.asarray(data.teacher_weights)
    np.testing.assert_allclose([run.q[-1], run.m[-1]], [w @ w / 200, w @ w_star / 200], rtol=1e-12)


def test_damping_and_start_do_not_move_the_fixed_point():
    task = jaxlora.Task(**FAST)
    data = drawn(task, 200)
    runs = [
        erm_amp(task, data),
        erm_amp(task, data, damping=0.5),
        erm_amp(task, data, start=(0.5, 0.4, 0.1), seed=1),
    ]
    for run in runs:
        assert run.converged
        np.testing.assert_allclose(run.weights, runs[0].weights, atol=1e-7)
        np.testing.assert_allclose(run.v[-1], runs[0].v[-1], rtol=1e-7)


def test_follows_the_state_evolution_step_by_step():
    task, steps, dimension = jaxlora.Task(**FAST), 4, 300
    simulated, theory = [], []
    for seed in range(6):
        data = drawn(task, dimension, seed)
        simulated.append(history(erm_amp(task, data, seed=seed, max_iterations=steps)))
        theory.append(predicted(task, data, STARTS["informed"], steps, seed))
    simulated, theory = np.array(simulated), np.array(theory)
    np.testing.assert_allclose(simulated[:, 0], theory[:, 0], rtol=1e-12)
    assert_agree(simulated[:, 1:], theory[:, 1:], 3 / dimension)


def test_damped_steps_keep_the_law_of_the_state_evolution():
    """From the q, m, v of each step m and v move half of the way to where the map leads."""
    task, steps, dimension = jaxlora.Task(**FAST), 4, 300
    simulated, theory = [], []
    for seed in range(6):
        data = drawn(task, dimension, seed)
        orbit = history(erm_amp(task, data, seed=seed, max_iterations=steps, damping=0.5))
        evolution = paired_evolution(task, data, seed)
        targets = np.array([mapped(evolution, jnp.asarray(x)) for x in orbit[:-1]])
        simulated.append(orbit[1:, 1:])
        theory.append((orbit[:-1, 1:] + targets[:, 1:]) / 2)
    assert_agree(np.array(simulated), np.array(theory), 1 / dimension)


def test_without_training_the_weights_vanish():
    task = jaxlora.Task(**FAST | {"lam_ft": jnp.inf})
    run = erm_amp(task, drawn(task, 200))
    assert run.converged
    assert float(run.q[-1]) == float(run.v[-1]) == 0
    assert not np.any(run.weights)


@pytest.mark.parametrize("lam_ft", [3.0, 2.1, 1.5])
def test_small_weights_follow_the_linearised_step_and_vanish_above_the_threshold(lam_ft):
    """The outlier's threshold is λ' = 2.39, the bulk's edge, where the replicon is 1, at 1.89."""
    task, dimension = jaxlora.Task(**FULL | {"lam_ft": lam_ft}), 600
    data = drawn(task, dimension)
    run = erm_amp(task, data, start=(1e-12, 5e-7, 0.15))
    orbit, replicons = history(run)[:3], []
    for before, after in pairwise(orbit):
        (q, m, v), replicon = linearised_step(data, lam_ft, *before)
        np.testing.assert_allclose(after[2], v, rtol=1e-6)
        # Four standard errors of |w|² and of w·w* for Gaussian weights.
        np.testing.assert_allclose(after[0], q, rtol=4 * np.sqrt(2 / dimension))
        np.testing.assert_allclose(after[1], m, atol=4 * np.sqrt(q / dimension))
        replicons.append(replicon)
    assert run.converged
    if lam_ft > 2.39:
        assert float(run.q[-1]) < 1e-12
        assert linearised_step(data, lam_ft, 1e-12, 0.0, float(run.v[-1]))[1] < 1
    else:
        assert float(run.q[-1]) > 0.05
    assert (max(replicons) > 1) == (lam_ft < 1.89)


def test_a_negative_v_ends_the_iteration_and_is_reported():
    task = jaxlora.Task(**FAST | {"lam_ft": 0.01})
    run = erm_amp(task, drawn(task, 200), start=(0.1, 0.01, 5.0))
    assert float(run.v[-1]) < 0
    assert run.q.shape == run.m.shape == run.v.shape == (2,)
    assert np.isinf(run.change)
    assert not run.converged


def labelled_spikes(tokens, alpha, dimension, seed):
    """Sequences whose side fields do not matter, and χ* (T, N')."""
    task = jaxlora.Task(
        tokens=tokens, activation="identity", delta=0, given=GIVEN, alpha_ft=alpha, lam_ft=1
    )
    data = drawn(task, dimension, seed)
    return data, data.project(data.teacher_weights)


@pytest.mark.parametrize("tokens", [1, 2])
def test_bayes_amp_of_linear_labels_is_ridge_regression(tokens):
    data, spike = labelled_spikes(tokens, 2.0, 200, 0)
    noise = 0.4
    rng = np.random.default_rng(1)
    labels = np.asarray(spike) + np.sqrt(noise) * rng.standard_normal(spike.shape)
    run = bayes_amp(Partial(linear_output, labels, noise), data, tol=1e-11)
    assert run.converged
    X = np.asarray(data.inputs).T / np.sqrt(200)
    exact = np.linalg.solve(X.T @ X + noise * np.eye(200), X.T @ labels.reshape(-1))
    np.testing.assert_allclose(run.weights, exact, atol=1e-8)


def test_bayes_amp_follows_its_state_evolution():
    """Labels sign χ* at T = 1, whose q̂ = α' E g² is an integral over one variable."""
    alpha, dimension, steps, start = 3.0, 400, 8, 0.2

    def advance(q):
        def integrand(omega):
            t = omega / np.sqrt(1 - q)
            log_g2 = 2 * norm.logpdf(t) - norm.logcdf(t) - np.log(1 - q)
            return 2 * np.exp(norm.logpdf(omega, scale=np.sqrt(q)) + log_g2)

        q_hat = alpha * quad(integrand, -np.inf, np.inf)[0]
        return q_hat / (1 + q_hat)

    q = [start]
    for _ in range(steps):
        q.append(advance(q[-1]))
    simulated = []
    for seed in range(48):
        data, spike = labelled_spikes(1, alpha, dimension, seed)
        output = Partial(sign_output, jnp.sign(spike))
        run = bayes_amp(output, data, start=start, seed=seed, max_iterations=steps, tol=0.0)
        simulated.append(history(run))
    theory = np.stack([q, q, 1 - np.array(q)], axis=1)
    np.testing.assert_allclose(np.array(simulated)[:, 0], theory[[0]].repeat(48, axis=0))
    assert_agree(np.array(simulated)[:, 1:], theory[1:], 3 / dimension)


def test_bayes_amp_converges_to_the_linear_channels_fixed_point():
    """q̂ = α' T/(1 − q + noise) for labels χ* + N(0, noise I)."""
    tokens, alpha, noise, dimension = 2, 1.5, 0.5, 400
    simulated = []
    for seed in range(8):
        data, spike = labelled_spikes(tokens, alpha, dimension, seed)
        rng = np.random.default_rng([seed, 1])
        labels = np.asarray(spike) + np.sqrt(noise) * rng.standard_normal(spike.shape)
        run = bayes_amp(Partial(linear_output, labels, noise), data)
        assert run.converged
        simulated.append(history(run)[-1])
    # q (1 − q + noise) = α' T (1 − q)
    b = 1 + noise + alpha * tokens
    q = (b - np.sqrt(b**2 - 4 * alpha * tokens)) / 2
    assert_agree(np.array(simulated), np.array([q, q, 1 - q]), 3 / dimension)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Q": 0.1}, "Q = 0.1"),
        ({"Q": np.nan}, "Q = nan"),
        ({"dimension": 1}, "dimension = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 0.5}, "seed = 0.5"),
    ],
)
def test_bad_data_raise(change, message):
    arguments = {"Q": 1.5, "M": 1.0, "dimension": 20, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        draw_rank_one(jaxlora.Task(**FAST), **arguments)


def test_reused_sequences_and_too_few_raise():
    reused = jaxlora.Task(
        tokens=2, kappa0=1, kappa=1, alpha=1, lam=1, delta=0, alpha_ft=1, lam_ft=1, reuse=True
    )
    with pytest.raises(ValueError, match="reuse = True"):
        draw_rank_one(reused, 1.5, 1.0, 20, 0)
    with pytest.raises(ValueError, match="one sequence"):
        drawn(jaxlora.Task(**FAST | {"alpha_ft": 0.01}), 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": (0.5, 0.8, 0.1)}, "q = 0.5"),
        ({"start": (1.0, 0.8, -0.1)}, "start v = -0.1"),
        ({"seed": -1}, "seed = -1"),
        ({"damping": 0.0}, "damping = 0"),
        ({"tol": -1.0}, "tol = -1"),
        ({"max_iterations": 0}, "max_iterations = 0"),
        ({"searches": -1}, "searches = -1"),
    ],
)
def test_bad_arguments_raise(change, message):
    task = jaxlora.Task(**FAST)
    with pytest.raises(ValueError, match=message):
        erm_amp(task, drawn(task, 10), **change)


def test_a_bad_bayes_start_raises():
    data, spike = labelled_spikes(1, 1.0, 10, 0)
    with pytest.raises(ValueError, match=r"start = 1.5"):
        bayes_amp(Partial(sign_output, spike), data, start=1.5)


@pytest.mark.slow
def test_full_size_agrees_with_the_theory():
    """At D = 2000: the first steps, the fixed point, and the gradient of the objective there."""
    task, dimension, steps = jaxlora.Task(**FULL), 2000, 6
    simulated, theory, final = [], [], []
    for seed in range(6):
        data = drawn(task, dimension, seed)
        run = erm_amp(task, data, seed=seed)
        assert run.converged
        assert run.switched_share < 1e-3
        gradient, ridge = training_gradient(data, run.weights, 0.5)
        assert np.linalg.norm(gradient) < 1e-6 * np.linalg.norm(ridge)
        simulated.append(history(run)[1 : steps + 1])
        final.append(history(run)[-1])
        theory.append(predicted(task, data, STARTS["informed"], steps, seed)[1:])
    assert_agree(np.array(simulated), np.array(theory), 3 / dimension)
    solved = jaxlora.solve_finetuning(task)
    final, errors = np.array(final), standard_error(np.array(final))
    for i, name in enumerate(("q", "m", "v")):
        value, stderr = (float(getattr(s, name)) for s in (solved.values, solved.stderr))
        # Four standard errors and the finite-size bias, which is O(1/D).
        allowed = 4 * np.hypot(errors[i], stderr) + 3 * value / dimension
        assert abs(final[:, i].mean() - value) < allowed, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "delta", "lam_ft", "stable"),
    [(GIVEN, 0.5, 0.5, True), ((1.5, 1.5, 0.0), 2.0, 0.2, False)],
)
def test_converges_where_the_replicon_is_below_one_and_not_where_it_is_above(
    given, delta, lam_ft, stable
):
    task = jaxlora.Task(tokens=3, delta=delta, given=given, alpha_ft=3, lam_ft=lam_ft)
    solved = jaxlora.solve_finetuning(task, samples=2**14, throw=False).values
    data = drawn(task, 1000)
    evolution = paired_evolution(task, data)
    x = to_noise(jnp.stack([solved.q, solved.m, solved.v]))
    hessian = evolution.problem.hessian(evolution.search(x).x, evolution.data(x))
    _, norms = response_sums(hessian, x[2])
    replicon = float(3 * x[2] ** 2 * evolution.draws.mean(norms))
    assert replicon < 0.6 if stable else replicon > 2
    for damping in (1.0, 0.5):
        # Global minima throughout: a followed branch may be stable where their choice is not.
        run = erm_amp(task, data, damping=damping, max_iterations=100, searches=100, tol=1e-8)
        assert bool(run.converged) == stable
        assert run.change <= 1e-8 if stable else run.change > 1e-3
