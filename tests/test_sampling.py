import math
import warnings

import numpy as np
import pytest
from scipy.special import ndtr

from jaxlora.sampling import FINETUNING, METHODS, POOL, PRETRAINING, TEST, draw, draw_fields
from jaxlora.symmetric import packed_size

TOKENS, SAMPLES, REPLICATES = 3, 1024, 4
PARTS = ("first", "second", "spike", "noise")
BOTH_METHODS = pytest.mark.parametrize("method", METHODS)


SYMMETRIES = pytest.mark.parametrize("equivariant", [False, True])


def drawn(
    method="sobol",
    seed=0,
    stream=FINETUNING,
    samples=SAMPLES,
    tokens=TOKENS,
    equivariant=False,
):
    return draw(tokens, samples, REPLICATES, seed, stream, method, equivariant)


def fields_drawn(method="sobol", seed=0, stream=PRETRAINING, samples=SAMPLES):
    return draw_fields(TOKENS, samples, REPLICATES, seed, stream, method)


def stacked(draws):
    """All normal variables, (replicates, variables, samples)."""
    parts = [getattr(draws, part) for part in PARTS if hasattr(draws, part)]
    return np.concatenate(parts, axis=1)


def unfolded(draws, equivariant):
    """All normal variables after a random symmetry on every sample, (variables, samples)."""
    rng = np.random.default_rng(0)
    first, second, spike, noise = (
        np.moveaxis(getattr(draws, part), 1, 0).reshape(getattr(draws, part).shape[1], -1)
        for part in PARTS
    )
    signs = rng.choice([-1, 1], spike.shape[1])
    spike, noise = signs * spike, signs * noise
    if equivariant:
        order = np.argsort(rng.random(spike.shape), axis=0)
        spike, noise = (np.take_along_axis(x, order, axis=0) for x in (spike, noise))
    return np.concatenate([first, second, spike, noise])


def families(draws):
    """Pairs of draws that the tokens' symmetry relates, each (replicates, members, n)."""
    rows, columns = np.triu_indices(TOKENS)
    diagonal = rows == columns
    return {
        "tokens": (draws.spike, draws.noise),
        "diagonal": (draws.first[:, diagonal], draws.second[:, diagonal]),
        "off the diagonal": (draws.first[:, ~diagonal], draws.second[:, ~diagonal]),
    }


def shared(one, other):
    """Share of the numbers that occur in both; multiples of 2^-30 may coincide by chance."""
    return np.intersect1d(one, other).size / one.size


def average(draws, values):
    return np.sum(draws.weights * values, axis=-1)


@BOTH_METHODS
def test_shapes(method):
    draws = drawn(method)
    assert draws.first.shape == draws.second.shape == (REPLICATES, packed_size(TOKENS), SAMPLES)
    assert draws.spike.shape == draws.noise.shape == (REPLICATES, TOKENS, SAMPLES)
    assert draws.weights.shape == (REPLICATES, SAMPLES)


@BOTH_METHODS
def test_same_arguments_give_the_same_draws(method):
    before = drawn(method)
    draw.cache_clear()
    again = drawn(method)
    assert again is not before
    np.testing.assert_array_equal(stacked(again), stacked(before))
    np.testing.assert_array_equal(again.weights, before.weights)


@BOTH_METHODS
@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": TEST}, {"stream": POOL}])
def test_other_seeds_and_streams_give_other_draws(method, change):
    assert shared(stacked(drawn(method)), stacked(drawn(method, **change))) < 1e-3


@BOTH_METHODS
def test_replicates_differ(method):
    normal = stacked(drawn(method))
    for i in range(REPLICATES):
        for j in range(i):
            assert shared(normal[i], normal[j]) < 1e-3


@BOTH_METHODS
def test_replicates_do_not_depend_on_how_many_are_drawn(method):
    one = draw(TOKENS, SAMPLES, 1, 0, FINETUNING, method)
    np.testing.assert_array_equal(stacked(one)[0], stacked(drawn(method))[0])


@BOTH_METHODS
@SYMMETRIES
def test_moments_of_every_variable(method, equivariant):
    """Within 5 standard errors of independent draws: 18 variables and 4 moments are compared."""
    normal = unfolded(drawn(method, equivariant=equivariant), equivariant)
    for power in range(1, 5):
        mean = (1, 0, 1, 0, 3)[power]
        variance = math.prod(range(1, 2 * power, 2)) - mean**2
        stderr = math.sqrt(variance / normal.shape[1])
        np.testing.assert_allclose((normal**power).mean(1), mean, atol=5 * stderr)


@BOTH_METHODS
@SYMMETRIES
def test_variables_are_uncorrelated(method, equivariant):
    """Within 5 standard errors: 153 pairs are compared."""
    normal = unfolded(drawn(method, equivariant=equivariant), equivariant)
    products = normal @ normal.T / normal.shape[1]
    off = ~np.eye(len(normal), dtype=bool)
    np.testing.assert_allclose(products[off], 0, atol=5 / math.sqrt(normal.shape[1]))


@BOTH_METHODS
def test_weights_sum_to_one(method):
    np.testing.assert_allclose(drawn(method).weights.sum(1), 1, rtol=1e-13)


@BOTH_METHODS
@SYMMETRIES
@pytest.mark.parametrize("family", ["tokens", "diagonal", "off the diagonal"])
def test_weights_average_sums_squares_and_products_to_their_means(method, equivariant, family):
    draws = drawn(method, equivariant=equivariant)
    a, b = families(draws)[family]
    members = a.shape[1]
    sums = () if family == "tokens" else ((a, 0), (b, 0))
    for values, mean in (*sums, (a * b, 0), (a**2, members), (b**2, members)):
        total = values.sum(1)
        np.testing.assert_allclose(average(draws, total), mean, atol=1e-12)
        assert np.all(np.abs(total.mean(-1) - mean) > 1e-9)


@BOTH_METHODS
def test_quadratic_functions_of_symmetric_sums_have_no_sampling_error(method):
    draws = drawn(method)
    value = 0.3 * draws.spike + 0.8 * draws.noise
    diagonal = families(draws)["diagonal"][0]
    quadratic = np.sum(value**2 - 2 * diagonal, axis=1)
    exact = TOKENS * (0.3**2 + 0.8**2)
    weighted = np.abs(average(draws, quadratic) - exact)
    plain = np.abs(quadratic.mean(-1) - exact)
    assert np.all(weighted < 1e-12)
    assert np.all(plain > 1e-6)


def test_weights_reduce_the_error_of_a_function_that_is_not_quadratic():
    """E cosh(g) = √e, whose even part a square explains in good part."""
    draws = drawn("monte_carlo")
    values = np.cosh(draws.spike).sum(1)
    exact = TOKENS * math.sqrt(math.e)
    weighted = average(draws, values) - exact
    plain = values.mean(-1) - exact
    stderr = math.sqrt(TOKENS * ((math.e**2 + 1) / 2 - math.e) / SAMPLES)
    assert np.all(np.abs(weighted) < 5 * stderr)
    assert np.sqrt(np.mean(weighted**2)) < 0.5 * np.sqrt(np.mean(plain**2))


@BOTH_METHODS
def test_few_samples_weigh_the_same(method):
    weights = drawn(method, samples=16).weights
    np.testing.assert_array_equal(weights, np.full((REPLICATES, 16), 1 / 16))


@pytest.mark.parametrize("tokens", [1, 2])
def test_fewer_tokens(tokens):
    draws = drawn(tokens=tokens)
    assert draws.first.shape == (REPLICATES, packed_size(tokens), SAMPLES)
    np.testing.assert_allclose(average(draws, (draws.first**2).sum(1)), packed_size(tokens))


def test_sobol_points_are_stratified():
    """Each variable of a scramble has one point in each of the n cells of equal probability."""
    draws = drawn()
    normal = np.concatenate([stacked(fields_drawn()), draws.first, draws.second, draws.spike], 1)
    cells = np.floor(ndtr(normal) * SAMPLES).astype(int)
    expected = np.broadcast_to(np.arange(SAMPLES), cells.shape)
    np.testing.assert_array_equal(np.sort(cells, axis=-1), expected)


@BOTH_METHODS
def test_draws_of_the_fields_alone(method):
    draws = fields_drawn(method)
    assert draws.first.shape == draws.second.shape == (REPLICATES, packed_size(TOKENS), SAMPLES)
    assert shared(stacked(draws), stacked(fields_drawn(method, stream=POOL))) < 1e-3
    for x in (draws.first, draws.second, draws.first * draws.second):
        for part in (slice(None, None), [0, 3, 5]):  # all entries, the diagonal
            np.testing.assert_allclose(average(draws, x[:, part].sum(1)), 0, atol=1e-12)


@BOTH_METHODS
def test_sample_counts_need_not_be_powers_of_two(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = drawn(method, samples=777)
    assert np.all(np.isfinite(stacked(draws)))
    np.testing.assert_allclose(draws.weights.sum(1), 1, rtol=1e-13)


def test_unknown_method_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="'halton'") as error:
        drawn("halton")
    assert all(method in str(error.value) for method in METHODS)
