import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import NODES as LEGENDRE
from independent import WEIGHTS, bands, density
from jax.tree_util import Partial
from scipy.optimize import brentq
from scipy.stats import t as student

import jaxlora
from jaxlora.activations import as_activation
from jaxlora.bayes import bayes_optimal, pretraining_overlap
from jaxlora.bayes._benchmark import NODES
from jaxlora.bayes._finetuning import ChannelEvolution
from jaxlora.bayes._posterior import COMPONENTS, Observation, posterior, propose
from jaxlora.bayes._pretraining import _error_ratio
from jaxlora.sampling import draw, draw_nodes
from jaxlora.simulation import bayes_amp, draw_rank_one

# T = 2 and softmax: one program for every point of the benchmark, one for the predictions.
BASE = {"tokens": 2, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.2, "delta": 0.5}
TRAINING = {"lam": 0.1, "alpha_ft": 3.0, "lam_ft": 0.5}
FIGURE = BASE | TRAINING | {"tokens": 3, "alpha": 0.1}
SIZE = {"samples": 2**10, "replicates": 4}
COUNT = 512  # sequences whose posterior is integrated


def task(**changes):
    return jaxlora.Task(**BASE | TRAINING | changes)


@functools.lru_cache
def benchmark(seed=0, **changes):
    return bayes_optimal(task(**changes), **SIZE, seed=seed)


def cubed_density(eta, kappa0):
    """∫ρ³ of μ_η, ρ from the roots of the cubic."""
    total = 0.0
    for left, right in bands(eta, kappa0):
        middle, half, theta = (left + right) / 2, (right - left) / 2, np.pi / 2 * LEGENDRE
        rho = density(middle + half * np.sin(theta), eta, kappa0)
        total += np.pi / 2 * np.sum(WEIGHTS * rho**3 * half * np.cos(theta))
    return total


def overlap_from_its_equations(tokens, activation, kappa0, alpha, delta):
    """Q_BO from (87)–(89) as they stand."""
    K = tokens**2 + tokens - 2 * (activation == "softmax")
    Q0 = 1 + kappa0

    def excess(Q):
        Q_hat = alpha * K / (Q0 + delta / 2 - Q)
        rho3 = cubed_density(Q_hat**-0.5, kappa0)
        return Q0 - 1 / Q_hat + 4 * np.pi**2 / (3 * Q_hat**2) * rho3 - Q

    return brentq(excess, 1e-9, Q0 * (1 - 1e-6), xtol=1e-12, rtol=1e-13)


@pytest.mark.parametrize(
    ("tokens", "activation", "kappa0", "alpha", "delta"),
    [
        (3, "softmax", 1.0, 0.1, 0.5),
        (3, "identity", 1.0, 0.1, 2.0),
        (2, "softmax", 0.3, 0.3, 0.1),
        (2, "identity", 0.3, 0.05, 5.0),
        (4, "softmax", 2.0, 0.02, 20.0),
        (2, "identity", 2.0, 0.4, 1e-3),
        (3, "softmax", 2.0, 0.05, 0.0),
    ],
)
def test_pretraining_overlap_solves_its_equations(tokens, activation, kappa0, alpha, delta):
    changes = {"kappa0": kappa0, "alpha": alpha, "delta": delta, "activation": activation}
    expected = overlap_from_its_equations(tokens, activation, kappa0, alpha, delta)
    got = pretraining_overlap(task(tokens=tokens, **changes))
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_without_noise_enough_samples_leave_nothing_open():
    """T = 3, κ0 = 1: αK = 1 is as many numbers as S* has, 0.9 is less."""
    known, open_ = (pretraining_overlap(task(tokens=3, alpha=a, delta=0.0)) for a in (0.1, 0.09))
    assert float(known) == 2.0
    assert 1.5 < float(open_) < 2.0 - 1e-3


@pytest.mark.parametrize(("kappa0", "eta"), [(1.0, 0.6), (0.3, 0.4)])
def test_error_ratio_is_that_of_a_large_random_matrix(kappa0, eta):
    """Of S* seen in Gaussian noise, the best estimator with the eigenvectors of what is seen."""
    dimension, ratios = 200, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((dimension, int(kappa0 * dimension)))
        S = W @ W.T / np.sqrt(W.size)
        noise = rng.standard_normal(S.shape)
        vectors = np.linalg.eigh(S + eta * (noise + noise.T) / np.sqrt(2 * dimension))[1]
        along = np.sum(vectors * (S @ vectors), axis=0)
        ratios.append((np.sum(S**2) - np.sum(along**2)) / dimension / eta**2)
    ratios = np.array(ratios)
    expected = float(_error_ratio(jnp.asarray(eta**2), jnp.asarray(kappa0)))
    # Four standard errors and the finite-size bias.
    allowed = 4 * ratios.std(ddof=1) / 2 + 2 / dimension
    assert abs(ratios.mean() - expected) < allowed


@eqx.filter_jit
def integrate(problem, nodes, v, V, Y, omega, truth):
    proposal = propose(problem, v, V, Y, omega, jnp.stack([truth, omega]))
    return posterior(problem, proposal, nodes, v, V, Y, omega)


@functools.lru_cache
def nodes_of(seed):
    return jnp.asarray(draw_nodes(COMPONENTS, 2, NODES, 1, seed)[0])


def symmetric_noise(rng, count):
    """N(0, s) fields (2, 2, count)."""
    a, b, c = rng.standard_normal((3, count))
    return np.array([[np.sqrt(2) * a, c], [c, np.sqrt(2) * b]])


def observed(V, q, seed=0, *, noisy=True, count=COUNT):
    """ω, χ* and Y = χ*χ*ᵀ + √V N(0, s) at T = 2; `noisy` = False leaves the noise out of Y."""
    rng = np.random.default_rng(seed)
    omega, rest = rng.standard_normal((2, 2, count))
    omega = np.sqrt(q) * omega
    truth = omega + np.sqrt(1 - q) * rest
    noise = np.sqrt(V) * symmetric_noise(rng, count)
    return omega, truth, truth[:, None] * truth[None] + (noise if noisy else 0)


def posterior_of(name, V, q, observation, seed=0):
    omega, truth, Y = map(jnp.asarray, observation)
    problem = Observation(as_activation(name), 2)
    v, V = jnp.asarray(1.0 - q), jnp.asarray(V)
    return integrate(problem, nodes_of(seed), v, V, Y, omega, truth)


def on_a_grid(hidden, V, v, omega, Y, points):
    """log Z_out, ⟨x⟩ and ⟨xxᵀ⟩ by the trapezoidal rule on [ω − 7√v, ω + 7√v]²."""
    axes = omega[:, None] + np.sqrt(v) * np.linspace(-7, 7, points)
    x = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(2, -1)
    R = [Y[0, 0] - x[0] ** 2, Y[0, 1] - x[0] * x[1], Y[1, 1] - x[1] ** 2]
    misfit = R[0] ** 2 + 2 * R[1] ** 2 + R[2] ** 2
    if hidden:
        misfit = misfit - (R[0] + 2 * R[1] + R[2]) ** 2 / 4
    log_p = -misfit / (4 * V) - np.sum((x - omega[:, None]) ** 2, axis=0) / (2 * v)
    top = log_p.max()
    p = np.exp(log_p - top)
    total = p.sum()
    cell = np.prod(axes[:, 1] - axes[:, 0])
    return np.log(total * cell / (2 * np.pi * v)) + top, x @ p / total, (x * p) @ x.T / total


@pytest.mark.parametrize("name", ["softmax", "identity"])
@pytest.mark.parametrize(
    ("V", "points", "count"), [(1.0, 301, 12), (0.1, 401, 12), (1e-3, 1501, 4)]
)
@pytest.mark.parametrize("q", [0.1, 0.6, 0.95])
def test_posterior_of_a_sample_is_the_integral(name, V, points, count, q):
    """192 nodes have errors of a hundredth of the width, and of log Z_out, on most samples.

    The few whose posterior is bent, which Gaussians do not fit, have up to thirty times that.
    """
    observation = observed(V, q)
    omega, _, Y = observation
    got = [posterior_of(name, V, q, observation, seed) for seed in range(4)]
    errors = []
    for n in range(count):
        log_evidence, mean, second = on_a_grid(
            name == "softmax", V, 1 - q, omega[:, n], Y[..., n], points
        )
        width = np.sqrt(np.trace(second - np.outer(mean, mean)))
        for g in got:
            off = np.linalg.norm(g.mean[:, n] - mean) / width
            off2 = np.linalg.norm(g.second_moment[..., n] - second) / np.linalg.norm(second)
            errors.append([abs(float(g.log_evidence[n]) - log_evidence), off, off2])
    middle, largest = np.median(errors, axis=0), np.max(errors, axis=0)
    assert np.all(middle < [0.03, 0.03, 0.08]), middle
    assert np.all(largest[:2] < [0.6, 0.2]), largest


@pytest.mark.parametrize("name", ["softmax", "identity"])
@pytest.mark.parametrize("V", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("q", [0.1, 0.9])
def test_a_good_share_of_the_nodes_counts(name, V, q):
    sizes = np.asarray(posterior_of(name, V, q, observed(V, q)).effective_sample_size)
    share = sizes / (COMPONENTS * NODES)
    assert share.mean() > 0.5
    assert np.mean(share > 0.1) > 0.95


@pytest.mark.parametrize("name", ["softmax", "identity"])
@pytest.mark.parametrize("q", [0.3, 0.9])
def test_nishimori_holds_for_the_noisy_observation_and_not_for_the_printed_one(name, q):
    """E⟨x⟩·(χ* − ⟨x⟩) = 0 over 16 sets of draws, within four standard errors."""
    V, gaps = 0.5, {True: [], False: []}
    for noisy, values in gaps.items():
        for seed in range(16):
            observation = observed(V, q, seed, noisy=noisy)
            mean = posterior_of(name, V, q, observation, seed).mean
            values.append(np.mean(np.sum(mean * (observation[1] - mean), axis=0)))
    scores = {k: np.mean(x) / (np.std(x, ddof=1) / 4) for k, x in gaps.items()}
    assert abs(scores[True]) < 4, scores
    assert abs(scores[False]) > 5, scores


@pytest.mark.slow
def test_nishimori_holds_at_the_benchmark():
    gaps = np.array([float(benchmark(seed).status.nishimori_gap) for seed in range(5)])
    # Four standard errors over 5 seeds of 1024 draws.
    assert abs(gaps.mean()) < 4 * gaps.std(ddof=1) / np.sqrt(5)
    assert np.all(np.abs(gaps) < 0.02)


def test_status_of_the_benchmark():
    status = benchmark().status
    assert int(status.result) == jaxlora.Result.CONVERGED
    assert status.failure() is None
    assert not bool(status.is_bound)
    assert float(status.residual) < 1e-10
    assert 96 < float(status.effective_samples) < 192
    assert 1 <= float(status.least_effective_samples) < float(status.effective_samples)
    assert (float(status.least_effective_samples) < 10) == (float(status.poor_share) > 0)
    assert float(status.poor_share) < 0.01
    # One fixed point, whatever the start.
    np.testing.assert_allclose(status.uninformed_q, benchmark().values.q, rtol=1e-7)


def test_plug_in_errors_are_above_the_bayes_errors_and_below_those_without_learning():
    values, stderr = benchmark().values, benchmark().stderr
    for stage in ("pretraining", "finetuning"):
        bayes, plug_in = f"{stage}_bayes_error", f"{stage}_test_error"
        allowed = 3 * np.hypot(float(getattr(stderr, bayes)), float(getattr(stderr, plug_in)))
        assert float(getattr(values, plug_in)) - float(getattr(values, bayes)) > allowed
    np.testing.assert_allclose(values.overlap**2, values.q, rtol=2e-3)


def test_a_seed_says_what_is_drawn():
    again = bayes_optimal(task(), **SIZE)
    for a, b in zip(vars(again.values).values(), vars(benchmark().values).values(), strict=True):
        assert float(a) == float(b)
    assert float(benchmark(1).values.q) != float(benchmark().values.q)


@pytest.mark.parametrize(
    ("lam", "lam_ft"), [(0.01, 0.1), (0.05, 0.5), (0.05, 2.0), (0.3, 0.2), (2.0, 0.5)]
)
@pytest.mark.slow
def test_no_training_beats_the_bayes_optimum(lam, lam_ft):
    """Within three standard errors; the Bayes side does not depend on λ and λ'."""
    best = benchmark()
    got = jaxlora.predict(task(lam=lam, lam_ft=lam_ft), **SIZE, throw=False)
    for stage in ("pretraining", "finetuning"):
        error = float(getattr(got, stage).test_error)
        least = float(getattr(best.values, f"{stage}_bayes_error"))
        allowed = 3 * np.hypot(
            float(getattr(got.stderr, stage).test_error),
            float(getattr(best.stderr, f"{stage}_bayes_error")),
        )
        assert error > least - allowed, (stage, error, least)
    Q, M = float(got.pretraining.Q), float(got.pretraining.M)
    if Q > 0:
        spread = float(got.stderr.pretraining.M) * 2 * M / Q
        spread += float(got.stderr.pretraining.Q) * M**2 / Q**2
        assert M**2 / Q <= float(best.values.Q) + 3 * spread
    else:
        assert lam > float(got.pretraining.critical_lam)
    if float(got.finetuning.q) > 0:
        allowed = 3 * np.hypot(float(got.stderr.finetuning.overlap), float(best.stderr.overlap))
        assert float(got.finetuning.overlap) <= float(best.values.overlap) + allowed


@functools.lru_cache
def reused(alpha_ft):
    return bayes_optimal(
        task(activation="identity", reuse=True, alpha_ft=alpha_ft), **SIZE, throw=False
    )


@pytest.mark.parametrize(("alpha_ft", "bound"), [(3.0, False), (1.0, False), (0.9, True)])
def test_reused_sequences_give_the_spike_away(alpha_ft, bound):
    solved = reused(alpha_ft)
    assert float(solved.values.q) == float(solved.values.overlap) == 1.0
    assert bool(solved.status.is_bound) == bound
    assert int(solved.status.result) == jaxlora.Result.CONVERGED
    assert np.isnan(float(solved.status.nishimori_gap))


def test_identity_plug_in_is_the_bayes_estimator():
    """Both errors are (T² + T)/T² (A0 − Q_BO), and with χ* known fine-tuning adds nothing."""
    values = reused(3.0).values
    expected = 6 / 4 * (2.25 - overlap_from_its_equations(2, "identity", 1.0, 0.2, 0.5))
    for stage in ("pretraining", "finetuning"):
        for kind in ("test", "bayes"):
            got = getattr(values, f"{stage}_{kind}_error")
            np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"given": (1.5, 1.5, 1.0)}, "given"),
        ({"activation": jnp.tanh}, "activation"),
    ],
)
def test_tasks_without_a_known_benchmark_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        bayes_optimal(task(**arguments), **SIZE)


def test_an_unknown_channel_raises():
    with pytest.raises(ValueError, match="channel = 'other'"):
        bayes_optimal(task(), **SIZE, channel="other")


HARD = {"alpha": 0.05, "delta": 4.0, "alpha_ft": 0.3}


@eqx.filter_jit
def zero_growth(evolution):
    zero = jnp.zeros_like(evolution.V)
    return evolution.zero_growth(evolution.propose(zero))


@pytest.mark.parametrize(("changes", "learns"), [(HARD, False), ({}, True)])
def test_zero_is_the_solution_where_it_is_stable(changes, learns):
    point = task(**changes)
    V = point.teacher_variance() - pretraining_overlap(point)
    draws = jax.tree.map(lambda x: jnp.asarray(x[0]), draw(2, COUNT, 1, 0, 0))
    growth = float(zero_growth(ChannelEvolution(point, V, draws, nodes_of(0), "conditional")))
    solved = benchmark(**changes)
    assert int(solved.status.result) == jaxlora.Result.CONVERGED
    if learns:
        assert growth > 1
        assert float(solved.status.uninformed_q) > 0.5
    else:
        assert 0 < growth < 0.8
        # From near 1 the iteration comes to 0 up to its tolerance.
        assert 0 <= float(solved.values.q) < 1e-9
        assert float(solved.status.uninformed_q) == 0


@eqx.filter_jit
def means_and_second_moments(problem, nodes, V, Y, omega, truth):
    """⟨x⟩ at ω and ⟨xxᵀ⟩ at 0, from the same proposal."""
    v = jnp.ones_like(V)
    proposal = propose(problem, v, V, Y, omega, jnp.stack([truth, omega]))
    near, zero = (
        posterior(problem, proposal, nodes, v, V, Y, center) for center in (omega, 0 * omega)
    )
    return near.mean, zero.second_moment


def test_zero_growth_is_the_slope_of_the_map():
    """g = (⟨xxᵀ⟩ − I) ω on every sample for ω → 0, hence E|g|² = q E|⟨xxᵀ⟩ − I|²_F."""
    omega, truth, Y = map(jnp.asarray, observed(2.0, 1e-10))
    problem = Observation(as_activation("softmax"), 2)
    mean, second = means_and_second_moments(problem, nodes_of(0), jnp.asarray(2.0), Y, omega, truth)
    expected = np.einsum("abn,bn->an", second, omega)
    np.testing.assert_allclose(mean, expected, atol=1e-8)
    assert np.median(np.abs(expected - np.asarray(omega))) > 1e-7


def bayes_output(problem, nodes, V, Y, truth, omega, v):
    proposal = propose(problem, v, V, Y, omega, jnp.stack([truth, omega]))
    return (posterior(problem, proposal, nodes, v, V, Y, omega).mean - omega) / v


def amp_overlaps(point, Q, dimension, seeds):
    """(|w|²/D, w·w*/D) over the last steps of Bayes-optimal AMP, for every seed."""
    V, ends = point.teacher_variance() - Q, []
    for seed in range(seeds):
        data = draw_rank_one(point, Q, Q, dimension, seed)
        truth = data.project(data.teacher_weights)
        Y = truth[:, None] * truth[None] + data.fields.teacher - data.fields.student
        problem = Observation(point.activation, point.tokens)
        output = Partial(bayes_output, problem, nodes_of(seed), V, Y, truth)
        run = bayes_amp(output, data, seed=seed, damping=0.7, tol=0.0, max_iterations=40)
        # At small D a few sequences move from mode to mode, and w does not come to rest.
        ends.append([float(jnp.mean(x[-15:])) for x in (run.q, run.m)])
    return np.array(ends)


def assert_amp_agrees(dimension, seeds):
    best = benchmark()
    ends = amp_overlaps(task(), best.values.Q, dimension, seeds)
    scatter = ends.std(axis=0, ddof=1) / np.sqrt(seeds)
    # The 99.9 % point of Student's law, as few seeds tell their scatter, and a finite-size bias.
    quantile = student.ppf(0.9995, seeds - 1)
    allowed = quantile * np.hypot(scatter, float(best.stderr.q)) + 3 / dimension
    difference = ends.mean(axis=0) - float(best.values.q)
    assert np.all(np.abs(difference) < allowed), (difference, allowed, scatter)


def test_amp_reaches_the_bayes_optimal_overlap():
    assert_amp_agrees(200, 6)


@pytest.mark.slow
def test_amp_reaches_the_bayes_optimal_overlap_at_full_size():
    assert_amp_agrees(2000, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delta", "bayes", "plug_in"),
    [(0.5, (0.2456, 0.2356), (0.2566, 0.2467)), (2.0, (0.5424, 0.522), (0.5874, 0.571))],
)
def test_errors_are_the_known_ones(delta, bayes, plug_in):
    """Within four standard errors and 0.4 per cent, the error of the known values."""
    solved = bayes_optimal(jaxlora.Task(**FIGURE | {"delta": delta}), samples=2**13, replicates=8)
    for i, stage in enumerate(("pretraining", "finetuning")):
        for kind, known in (("bayes", bayes), ("test", plug_in)):
            value = float(getattr(solved.values, f"{stage}_{kind}_error"))
            stderr = float(getattr(solved.stderr, f"{stage}_{kind}_error"))
            allowed = 4 * stderr + 0.004 * known[i]
            assert abs(value - known[i]) < allowed, (stage, kind, value, stderr)


@pytest.mark.slow
def test_the_printed_channel_breaks_nishimori():
    """E⟨x⟩·χ* = 2.805 against E|⟨x⟩|² = 2.746; the right channel has both equal."""
    point = jaxlora.Task(**FIGURE)
    gaps = {
        channel: float(
            bayes_optimal(
                point, samples=2**12, replicates=4, throw=False, channel=channel
            ).status.nishimori_gap
        )
        for channel in ("conditional", "printed")
    }
    assert abs(gaps["conditional"]) < 0.003
    np.testing.assert_allclose(gaps["printed"], 2.805 / 2.746 - 1, atol=0.006)
