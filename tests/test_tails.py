import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference
from scipy.integrate import quad

from jaxlora.tails import FEWEST, SHARE, replace_tails, unseen_norm


@jax.jit
def averages(slopes):
    """−E Tr X and E|X|² for |X| = −Tr X = `slopes` (..., n), by replicates."""
    traces, norms = jax.vmap(replace_tails)(-slopes, slopes**2)
    return -traces.mean(1), norms.mean(1)


def cusp_slopes(rng, count):
    """1/h at the global minimum of x⁴/4 + a x²/2 + b x, h its curvature, a and b Gaussian."""
    a, b = rng.standard_normal((2, count))
    # From outside of all roots of x³ + a x + b Newton's method falls to the outermost.
    x = np.full(count, 10.0)
    for _ in range(60):
        x -= (x**3 + a * x - np.abs(b)) / (3 * x**2 + a)
    return 1 / (3 * x**2 + a)


def cusp_mean(power):
    """E h^−power with x for b, of which h is the Jacobian; a = ±s² tames the singularity."""

    def inner(a):
        def integrand(y):
            x = np.sqrt(max(-a, 0)) + y * scale
            return scale * np.exp(-((x**3 + a * x) ** 2) / 2) * (3 * x**2 + a) ** (1 - power)

        scale = np.sqrt(abs(a))
        value = quad(integrand, 0, 10)[0] + quad(integrand, 10, np.inf)[0]
        return value * np.exp(-(a**2) / 2) / np.pi

    return quad(lambda s: 2 * s * (inner(s**2) + inner(-(s**2))), 0, 3, limit=200)[0]


def test_the_tail_of_a_cusp_is_averaged_right():
    rng = np.random.default_rng(0)
    replicates = np.array([cusp_slopes(rng, 2**13) for _ in range(64)])
    for power, estimates in enumerate(averages(replicates), start=1):
        stderr = float(jnp.std(estimates, ddof=1)) / 8
        expected = cusp_mean(power)
        # Four standard errors; the plain mean scatters more, that of squares several times.
        assert stderr < 0.02 * expected
        assert abs(estimates.mean() - expected) < 4 * stderr
        plain = (replicates**power).mean(1).std()
        assert estimates.std() < (0.95, 0.5)[power - 1] * plain


@pytest.mark.parametrize(
    "slopes",
    [
        np.random.default_rng(0).exponential(size=2**11) ** 0.5,  # a light tail
        np.random.default_rng(0).pareto(5 / 2, int(FEWEST / SHARE) - 1),  # too few to tell
        np.ones(2**11),
        np.zeros(2**11),
    ],
)
def test_without_a_heavy_tail_the_mean_is_plain(slopes):
    expected = [slopes.mean()], [(slopes**2).mean()]
    np.testing.assert_allclose(averages(slopes[None]), expected, rtol=1e-12)


def test_positive_traces_are_no_tail():
    traces = 1 + np.random.default_rng(0).pareto(5 / 2, 2**11)
    found, _ = replace_tails(jnp.asarray(traces), jnp.asarray(traces**2))
    np.testing.assert_array_equal(found, traces)


def test_a_tail_that_has_not_begun_is_not_extrapolated():
    """A light bulk of |X|² and, with probability 1e-4, a Pareto variable of index 5/4 above 4."""
    rng = np.random.default_rng(0)
    norms = rng.gamma(2.0, 0.2, (256, 2**12))
    rare = rng.uniform(size=norms.shape) < 1e-4
    norms[rare] = 4 * (1 + rng.pareto(5 / 4, rare.sum()))
    expected = 0.4 * (1 - 1e-4) + 20 * 1e-4
    estimates = averages(np.sqrt(norms))[1]
    # What is cut off is far below the scatter of a replicate, and of that of eight together.
    bias = estimates.mean() - expected
    assert abs(bias) < 0.5 * estimates.std() / 8**0.5
    assert estimates.std() < 0.8 * norms.mean(1).std()


def test_what_is_unseen_is_a_tail_beyond_the_largest_sample():
    """E[x; x > t] = 5 t^(−1/4) for Pareto samples of index 5/4 above 1: 2.5 errors on average."""
    norms = np.sort(1 + np.random.default_rng(0).pareto(5 / 4, (2000, 2**12)))
    beyond = 5 * norms[:, -1] ** -0.25
    of_largest = np.asarray(jax.vmap(unseen_norm)(norms)) / (1 - norms[:, -9] / norms[:, -1])
    ratio = beyond / of_largest
    assert abs(ratio.mean() - 5 / 2) < 4 * ratio.std() / 2000**0.5


def test_of_bounded_norms_nothing_is_unseen():
    norms = np.random.default_rng(0).uniform(size=2**12)
    assert 0 < unseen_norm(norms) < 1e-2 * norms.std() / 2**6
    assert unseen_norm(np.ones(1)) == 0


@pytest.mark.parametrize("index", [2.5, 3.2])
def test_derivatives_are_those_of_the_average(index):
    """So that Newton's method and gradients with respect to parameters see one function."""
    slopes = 1 + np.random.default_rng(1).pareto(index, 2**11)
    for which in (0, 1):

        def average(t, which=which):
            return averages(jnp.asarray(slopes)[None] ** t)[which][0]

        expected = central_difference(average, (1.0,), (1.0,), step=1e-4)
        np.testing.assert_allclose(jax.grad(average)(1.0), expected, rtol=1e-7)


def test_zero_responses_have_gradients():
    """At v = 0 for a loss without curvature, for instance."""
    gradient = jax.grad(lambda t: averages(t * jnp.ones((1, 2**11)))[0][0])(0.0)
    np.testing.assert_allclose(gradient, 1, rtol=1e-12)


def test_the_average_does_not_jump_where_the_treatment_changes():
    """Over a range of Hill's estimate from a cusp's to a light tail's."""
    powers = np.linspace(0.5, 1.0, 400)[:, None]
    slopes = (1 + np.random.default_rng(1).pareto(2.5, 2**11)) ** powers
    ratio = np.asarray(averages(slopes)[0]) / slopes.mean(1)
    assert np.max(np.abs(ratio - 1)) > 1e-3
    assert np.max(np.abs(np.diff(ratio))) < 1e-3
