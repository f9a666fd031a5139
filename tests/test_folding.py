import itertools
import math

import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.special import ndtr
from scipy.stats import norm

from jaxlora.folding import fold_sign, sort_tokens

COUNT = 2**16


def normal(tokens, seed=0):
    return np.random.default_rng(seed).standard_normal((tokens, COUNT))


def assert_means(values, expected):
    """Within 5 standard errors of independent draws."""
    error = values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1])
    assert np.all(np.abs(values.mean(-1) - expected) < 5 * error)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5])
def test_half_of_the_space_is_left_with_the_law_of_all_of_it(tokens):
    folded = fold_sign(normal(tokens))
    assert np.all(folded.sum(0) >= 0)
    along = folded.sum(0) / math.sqrt(tokens)
    assert_means(along, math.sqrt(2 / math.pi))
    signs = np.random.default_rng(1).choice([-1, 1], COUNT)
    unfolded = signs * folded
    pairs = itertools.combinations_with_replacement(range(tokens), 2)
    for a, b in pairs:
        assert_means(unfolded[a] * unfolded[b], float(a == b))
    assert_means(unfolded**4, 3)


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_sorted_tokens_are_order_statistics(tokens):
    ordered = sort_tokens(normal(tokens))
    assert np.all(np.diff(ordered, axis=0) >= 0)
    reference = np.sort(normal(tokens, seed=1), axis=0)
    for a in range(tokens):
        for power in (1, 2):
            scatter = math.hypot(*((x[a] ** power).std() for x in (ordered, reference)))
            difference = (ordered[a] ** power).mean() - (reference[a] ** power).mean()
            assert abs(difference) < 5 * scatter / math.sqrt(COUNT)


def test_expected_gap_of_two_sorted_tokens():
    def density(y, x):
        return 2 * (y - x) * norm.pdf(x) * norm.pdf(y)

    exact = dblquad(density, -8, 8, lambda x: x, 8)[0]  # 2/√π
    ordered = sort_tokens(normal(2))
    assert_means(ordered[1] - ordered[0], exact)


def test_uniform_points_stay_uniform_in_the_folded_domain():
    """One point in each of n cells of equal probability, along the folded coordinates."""
    tokens, count = 3, 64
    even = (np.arange(count) + 0.5) / count
    points = np.tile(norm.ppf(even), (tokens, 1))
    along = fold_sign(points).sum(0) / math.sqrt(tokens)
    np.testing.assert_allclose(2 * ndtr(along) - 1, even, rtol=1e-9)
    largest = sort_tokens(points)[-1]
    np.testing.assert_allclose(ndtr(largest) ** tokens, even, rtol=1e-9)
