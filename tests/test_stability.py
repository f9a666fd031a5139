import functools
import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import bands, density, identity_state_evolution

import jaxlora
from jaxlora import finetuning, pretraining, solve_finetuning, solve_pretraining
from jaxlora.options import Options
from jaxlora.proximal import follow_minimum
from jaxlora.sampling import draw
from jaxlora.spectrum import edges, truncation_spread
from jaxlora.stability import (
    LARGEST_JUMP_SHARE,
    LARGEST_SWITCHED_SHARE,
    Stability,
    finetuning_replicon,
    jumps,
    pretraining_replicon,
    verdict,
)

REFERENCE = json.loads((pathlib.Path(__file__).parent / "reference" / "reference.json").read_text())
A0 = next(case for case in REFERENCE["cases"] if case["name"] == "A0")
STAGES = ("pretraining", "finetuning")
IDENTITY = {"tokens": 3, "kappa0": 1.0, "kappa": 1.0, "alpha": 0.3, "delta": 0.5}


@functools.lru_cache
def prediction():
    return jaxlora.predict(jaxlora.Task(**A0["parameters"]), samples=2**13, replicates=8)


def spread_of(eigenvalues, eps):
    """The mean over all pairs of eigenvalues, each with itself included."""
    zeta = np.maximum(eigenvalues - eps, 0)
    distance = eigenvalues[:, None] - eigenvalues
    np.fill_diagonal(distance, 1)
    quotient = (zeta[:, None] - zeta) / distance
    np.fill_diagonal(quotient, zeta > 0)
    return np.mean(quotient**2)


def spread_by_quadrature(eta, eps, kappa0, nodes=240):
    """The double integral by tanh-sinh rules on every side of ε of every band.

    Their nodes gather at the ends, so that the corner x = y = ε is resolved.
    """
    t = np.linspace(-3.4, 3.4, nodes)
    u = np.pi / 2 * np.sinh(t)
    step = (t[1] - t[0]) * np.pi / 2 * np.cosh(t)
    # Distances to the ends, without cancellation.
    left, right = 1 / (1 + np.exp(-2 * u)), 1 / (1 + np.exp(2 * u))
    weight = 2 * step * left * right
    above, below = [], []
    for start, stop in bands(eta, kappa0):
        for a, b, side in ((start, min(stop, eps), below), (max(start, eps), stop, above)):
            if a < b:
                offset = (b - a) * (left if side is above else -right)
                base = a if side is above else b
                mass = density(base + offset, eta, kappa0) * (b - a) * weight
                side.append((base - eps + offset, mass))
    if not above:
        return 0.0
    x, p = map(np.concatenate, zip(*above, strict=True))
    total = p.sum() ** 2
    if below:
        y, r = map(np.concatenate, zip(*below, strict=True))
        quotient = x[:, None] / (x[:, None] - y)
        total += 2 * np.einsum("i,ij,j", p, quotient**2, r)
    return total


@pytest.mark.parametrize(
    ("eta", "eps", "kappa0"),
    [
        (0.5, 0.3, 1.0),
        (0.5, 1.5, 1.0),
        (2.0, -1.0, 1.0),
        (0.1, 0.6, 0.3),
        (0.1, 0.0, 0.3),
        (1.0, 2.0, 3.0),
    ],
)
def test_truncation_spread_is_the_double_integral(eta, eps, kappa0):
    expected = spread_by_quadrature(eta, eps, kappa0)
    assert 0.02 < expected < 0.98
    np.testing.assert_allclose(truncation_spread(eta, eps, kappa0), expected, rtol=1e-7)


@pytest.mark.parametrize(
    ("eta", "eps", "kappa0"), [(0.5, 0.5, 1.0), (0.3, 0.2, 0.5), (1.5, 1.0, 2.0)]
)
def test_truncation_spread_is_that_of_a_large_random_matrix(eta, eps, kappa0):
    dimension, spreads = 300, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((dimension, int(kappa0 * dimension)))
        noise = rng.standard_normal((dimension, dimension))
        S = W @ W.T / np.sqrt(W.size) + eta * (noise + noise.T) / np.sqrt(2 * dimension)
        spreads.append(spread_of(np.linalg.eigvalsh(S), eps))
    spreads = np.array(spreads)
    # Four standard errors and the finite-size bias.
    allowed = 4 * spreads.std(ddof=1) / 2 + 2 / dimension
    assert abs(spreads.mean() - float(truncation_spread(eta, eps, kappa0))) < allowed


def test_truncation_spread_is_1_left_of_the_bands_and_0_right_of_them():
    for eta, kappa0 in ((0.5, 1.0), (0.05, 0.3)):
        left, *_, right = (float(x) for x in np.ravel(edges(eta, kappa0)))
        np.testing.assert_allclose(truncation_spread(eta, left - 0.01, kappa0), 1, rtol=1e-12)
        assert float(truncation_spread(eta, right + 1e-6, kappa0)) == 0
        between = [
            float(truncation_spread(eta, e, kappa0)) for e in np.linspace(left, right, 9)[1:-1]
        ]
        assert np.all(np.diff([1, *between, 0]) < 0)


@functools.lru_cache
def identity(lam):
    task = jaxlora.Task(**IDENTITY, activation="identity", lam=lam, alpha_ft=3.0, lam_ft=0.2)
    return solve_pretraining(task, samples=2**10, replicates=2, throw=False)


@pytest.mark.parametrize("lam", [1.0, 0.3, 0.05, 1e-2, 1e-3, 1e-4])
def test_identity_is_stable_as_a_convex_problem_is(lam):
    solved = identity(lam)
    replicon, c = float(solved.values.replicon), 4 * float(solved.values.V) / 9
    assert int(solved.status.result) == jaxlora.Result.CONVERGED
    assert 0 < replicon < c / (1 + c) < 1
    assert int(solved.status.stability) == Stability.STABLE


@pytest.mark.parametrize("lam", [0.3, 0.05, 1e-2])
def test_identity_replicon_is_its_closed_form(lam):
    """X = 4/T²/(1 + c) I on every sample, so that only spread/(α T (T + 1)) is left."""
    tokens, kappa0, alpha, delta = 3, 1.0, 0.3, 0.5
    _, _, V = identity_state_evolution(tokens, kappa0, 1.0, alpha, delta, lam)
    Q, M, _ = identity_state_evolution(tokens, kappa0, 1.0, alpha, delta, lam)
    entries, shrink = tokens * (tokens + 1) / 2, 1 + 4 * V / tokens**2
    M_hat = 8 * alpha * entries / tokens**2 / shrink
    noise = 1 + kappa0 + delta / 2 + Q - 2 * M
    Q_hat = 32 * alpha * entries / tokens**4 * noise / shrink**2
    spread = spread_by_quadrature(np.sqrt(Q_hat) / M_hat, 2 * lam / M_hat, kappa0)
    expected = spread / (alpha * tokens * (tokens + 1))
    np.testing.assert_allclose(identity(lam).values.replicon, expected, rtol=1e-6)


def test_replicons_have_the_factors_of_the_theory():
    """(75) corrected and (78), from numbers."""
    spread = float(truncation_spread(0.5, 0.3, 1.0))
    got = pretraining_replicon(0.1, 7.0, 0.4, 0.5, 0.3, 1.0)
    np.testing.assert_allclose(got, 2 * 0.1 * 7.0 / 0.4**2 * spread, rtol=1e-12)
    np.testing.assert_allclose(finetuning_replicon(3.0, 0.7, 0.2), 3 * 0.7 * 0.04, rtol=1e-12)


def draws_of(tokens):
    return jax.tree.map(lambda x: jnp.asarray(x[0]), draw(tokens, 2**9, 1, 0, 0))


@eqx.filter_jit
def averages_and_differences(evolution, x, centre, data, minimum, step):
    """Averages at a minimum, and per sample |∂γ/∂centre|²_F by central differences of γ."""

    def gradient(shift):
        moved = centre + shift[:, None]
        chi = follow_minimum(evolution.solver, minimum, x[2], moved, data).x
        return (moved - chi) / x[2]

    shifts = step * jnp.eye(centre.shape[0])
    columns = jax.lax.map(lambda s: (gradient(s) - gradient(-s)) / (2 * step), shifts)
    return evolution.averages(x, minimum), jnp.sum(columns**2, axis=(0, 1))


@pytest.mark.slow
def test_pretraining_replicon_is_the_response_to_the_centre():
    """2α E|∂γ/∂z̃|² · spread/V̂², with γ = (z̃ − z)/V and no second derivative of the loss."""
    solved = prediction().pretraining
    x = jnp.stack([solved.Q, solved.M, solved.V])
    task = jaxlora.Task(**A0["parameters"])
    evolution = pretraining.StateEvolution(task, draws_of(3), Options())
    minimum = eqx.filter_jit(lambda e, x: e.search(x))(evolution, x)
    centre = evolution.fields(x)[1]
    averages, norms = averages_and_differences(
        evolution, x, centre, evolution.target, minimum, 1e-4
    )
    conjugates, replicon = averages.conjugates, evolution.replicon(averages)
    eta = np.sqrt(conjugates.Q) / conjugates.M
    spread = spread_by_quadrature(float(eta), float(2 * task.lam / conjugates.M), 1.0)
    expected = 2 * 0.1 * float(evolution.draws.mean(norms)) * spread / float(conjugates.V) ** 2
    np.testing.assert_allclose(replicon, expected, rtol=1e-5)


@pytest.mark.slow
def test_finetuning_replicon_is_the_response_to_the_centre():
    """α' E|I − ∂χ/∂χ̃|²_F."""
    solved = prediction()
    order = jnp.stack([solved.finetuning.q, solved.finetuning.m, solved.finetuning.v])
    x = finetuning.to_noise(order)
    task, draws = jaxlora.Task(**A0["parameters"]), draws_of(3)
    fields = jaxlora.observables.side_fields(
        task, solved.pretraining.Q, solved.pretraining.M, draws
    )
    evolution = finetuning.StateEvolution(task, finetuning.SideFields(*fields), draws, Options())
    minimum = eqx.filter_jit(lambda e, x: e.search(x))(evolution, x)
    centre = evolution.centre(x)
    data = evolution.data(x)
    averages, norms = averages_and_differences(evolution, x, centre, data, minimum, 1e-4)
    replicon = evolution.replicon(x[2], averages)
    expected = 3 * float(x[2]) ** 2 * float(draws.mean(norms))
    np.testing.assert_allclose(replicon, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("replicon", "stderr", "jumping", "expected"),
    [
        (0.9, 0.04, False, Stability.STABLE),
        (0.9, 0.06, False, Stability.UNDECIDED),
        (1.1, 0.06, False, Stability.UNDECIDED),
        (1.1, 0.04, False, Stability.UNSTABLE),
        (1.1, 0.04, True, Stability.UNSTABLE),
        (0.5, 0.01, True, Stability.UNDECIDED),
        (0.9, np.nan, False, Stability.STABLE),
        (1.1, np.nan, False, Stability.UNSTABLE),
        (np.nan, np.nan, False, Stability.UNDEFINED),
        (np.inf, 0.1, False, Stability.UNDEFINED),
    ],
)
def test_verdict(replicon, stderr, jumping, expected):
    got = verdict(jnp.asarray(replicon), jnp.asarray(stderr), jnp.asarray(jumping))
    assert Stability(int(got)) is expected
    assert expected.message.endswith(".")


@pytest.mark.parametrize(
    ("switched_share", "stein_gap", "gap_error", "expected"),
    [
        (0.9 * LARGEST_SWITCHED_SHARE, 0.0, 0.0, False),
        (1.1 * LARGEST_SWITCHED_SHARE, 0.0, 0.0, True),
        (0.0, 1.4 * LARGEST_JUMP_SHARE, 0.1 * LARGEST_JUMP_SHARE, True),
        (0.0, 1.4 * LARGEST_JUMP_SHARE, 0.3 * LARGEST_JUMP_SHARE, False),
        (0.0, -1.4 * LARGEST_JUMP_SHARE, 0.1 * LARGEST_JUMP_SHARE, False),
        (0.0, 1.4 * LARGEST_JUMP_SHARE, np.nan, True),
        (0.0, np.nan, np.nan, True),
    ],
)
def test_jumps_count_by_samples_and_by_response(switched_share, stein_gap, gap_error, expected):
    assert bool(jumps(*map(jnp.asarray, (switched_share, stein_gap, gap_error)))) is expected


def test_jumps_of_the_identity_are_seen():
    """With few samples and a weak ridge half of the response comes from jumps to −χ."""
    task = jaxlora.Task(
        tokens=2, activation="identity", delta=4.0, given=(1.5, 1.5, 0.5), alpha_ft=0.5, lam_ft=0.5
    )
    status = solve_finetuning(task, samples=2**12, throw=False).status
    assert float(status.switched_share) < LARGEST_SWITCHED_SHARE
    assert float(status.stein_gap) > 0.1
    assert int(status.stability) != Stability.STABLE


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_prediction_reports_the_reference_replicon_and_its_verdict(stage):
    reference, sem = A0["values"][stage]["replicon"]
    value = float(getattr(prediction(), stage).replicon)
    stderr = float(getattr(prediction().stderr, stage).replicon)
    assert 0 < stderr < 0.02 * value
    # Five standard errors; ours has 7 degrees of freedom.
    assert abs(value - reference) < 5 * np.hypot(sem, stderr), (value, stderr)
    replicates = getattr(prediction().replicates, stage).replicon
    assert stderr > np.std(replicates, ddof=1) / 8**0.5  # that is not all
    status = getattr(prediction().status, stage)
    jumping = status.switched_share >= LARGEST_SWITCHED_SHARE
    assert abs(float(status.stein_gap)) < LARGEST_JUMP_SHARE
    expected = verdict(jnp.asarray(value), jnp.asarray(stderr), jumping)
    assert int(status.stability) == int(expected)


@pytest.mark.slow
def test_a_given_pretraining_has_no_replicon():
    task = jaxlora.Task(tokens=2, delta=2.0, given=(1.5, 1.5, 0.0), alpha_ft=3.0, lam_ft=0.2)
    solved = jaxlora.predict(task, samples=2**10, replicates=4, throw=False)
    assert np.isnan(float(solved.pretraining.replicon))
    assert int(solved.status.pretraining.stability) == Stability.UNDEFINED
    assert float(solved.finetuning.replicon) > 1
    assert int(solved.status.finetuning.stability) == Stability.UNSTABLE
