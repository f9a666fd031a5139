import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxlora.activations import as_activation
from jaxlora.active import choose, pool_factor

TOKENS, POOL = 3, 200


def shifted_cubic(a):
    return (a + 1) ** 3


REFERENCES = {
    "softmax": lambda a: softmax(a, axis=1),
    "identity": lambda a: a / TOKENS,
    shifted_cubic: shifted_cubic,
}


@pytest.fixture(scope="module")
def candidates():
    fields = np.random.default_rng(0).standard_normal((TOKENS, TOKENS, POOL))
    return jnp.asarray(fields + fields.swapaxes(0, 1))


def distances(name, student):
    sigma = REFERENCES[name]
    zero = sigma(np.zeros((TOKENS, TOKENS)))
    student = np.moveaxis(np.asarray(student), -1, 0)
    return np.array([np.sum((sigma(z) - zero) ** 2) for z in student])


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
def test_kept_are_the_candidates_below_the_quantile(name, ratio, candidates):
    count = round(ratio * POOL)
    kept = choose(as_activation(name), ratio, candidates, count)
    distance = distances(name, candidates)
    below = np.flatnonzero(distance < np.quantile(distance, ratio))
    assert len(below) == count
    np.testing.assert_array_equal(np.sort(kept), below)


def test_share_one_keeps_all(candidates):
    kept = choose(as_activation("softmax"), 1.0, candidates, POOL)
    np.testing.assert_array_equal(np.sort(kept), np.arange(POOL))


@pytest.mark.parametrize("count", [10, 25, 30])
def test_fewer_than_the_kept_come_evenly_from_them(count, candidates):
    ratio = 0.5
    chosen = choose(as_activation("softmax"), ratio, candidates, count)
    ranks = np.argsort(np.argsort(distances("softmax", candidates)))
    kept = np.sort(ranks[chosen])
    assert kept[-1] < ratio * POOL
    assert np.all(np.abs(np.diff(kept) - ratio * POOL / count) <= 1)


def test_more_than_the_kept_repeat_them_equally(candidates):
    chosen = choose(as_activation("softmax"), 0.05, candidates, 40)
    found, times = np.unique(chosen, return_counts=True)
    nearest = np.argsort(distances("softmax", candidates))[:10]
    np.testing.assert_array_equal(found, np.sort(nearest))
    np.testing.assert_array_equal(times, 4)


def test_traced_share_selects_the_same(candidates):
    sigma = as_activation("softmax")
    traced = jax.jit(lambda ratio: choose(sigma, ratio, candidates, 20))(0.1)
    np.testing.assert_array_equal(traced, choose(sigma, 0.1, candidates, 20))


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(1.0, 0), (0.9, 2), (0.5, 2), (0.49, 4), (0.3, 4), (0.25, 4), (0.1, 16), (1 / 64, 64)],
)
def test_pool_is_the_power_of_two_that_leaves_enough(ratio, factor):
    assert pool_factor(jnp.asarray(ratio)) == factor


def test_pool_is_bounded():
    assert pool_factor(jnp.asarray(1e-4)) == 64


def test_pool_of_a_traced_share_has_a_fixed_size():
    factors = []
    jax.jit(lambda ratio: factors.append(pool_factor(ratio)))(0.5)
    assert factors == [16]
