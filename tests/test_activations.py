import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxlora import ACTIVATIONS, Activation
from jaxlora.activations import as_activation

PLAIN = {
    "softmax": lambda a: jax.nn.softmax(a, axis=1),
    "identity": lambda a: a / a.shape[0],
    "damped square": lambda a: jnp.tanh(a @ a.T) / a.shape[0],
}
ROW_WISE = ("softmax", "identity")


@pytest.fixture(params=[2, 3])
def samples(request):
    """Pre-activations and targets (T, T, 5), not symmetric, some of them large."""
    rng = np.random.default_rng(request.param)
    a, y = rng.standard_normal((2, request.param, request.param, 5))
    a[..., -1] *= 10
    return jnp.asarray(a), jnp.asarray(y)


def activation(name):
    return ACTIVATIONS.get(name) or as_activation(PLAIN[name])


def per_sample(function, *arrays):
    """`function` of each sample's arrays, sample by sample."""
    samples = range(arrays[0].shape[-1])
    return np.stack([function(*(x[..., i] for x in arrays)) for i in samples], axis=-1)


def plain_loss(name):
    return lambda a, y: jnp.sum((PLAIN[name](a) - y) ** 2)


def test_softmax_is_row_wise(samples):
    expected = softmax(np.asarray(samples[0]), axis=1)
    np.testing.assert_allclose(activation("softmax")(samples[0]), expected, rtol=1e-13)


def test_softmax_survives_large_arguments():
    a = jnp.array([[1e4, 0.0], [-1e4, -1e4]])
    np.testing.assert_array_equal(activation("softmax")(a), [[1, 0], [0.5, 0.5]])
    hessian = activation("softmax").row_hessian(a, jnp.eye(2))
    assert np.all(np.isfinite(hessian.matrices()))


@pytest.mark.parametrize("name", PLAIN)
def test_value_and_loss_of_a_batch_are_those_of_its_samples(name, samples):
    sigma = activation(name)
    value, loss = jax.jit(lambda a, y: (sigma(a), sigma.loss(a, y)))(*samples)
    np.testing.assert_allclose(value, per_sample(jax.jit(PLAIN[name]), samples[0]), rtol=1e-12)
    expected = per_sample(jax.jit(plain_loss(name)), *samples)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_gradient_matches_autodiff(name, samples):
    expected = per_sample(jax.jit(jax.grad(plain_loss(name))), *samples)
    gradient = jax.jit(activation(name).gradient)(*samples)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ROW_WISE)
def test_row_hessian_is_the_whole_hessian(name, samples):
    """Entries of different rows do not mix, and those of one row have the Hessian returned."""
    full = per_sample(jax.jit(jax.hessian(plain_loss(name))), *samples)
    tokens = full.shape[0]
    expected = np.zeros_like(full)
    rows = jax.jit(activation(name).row_hessian)(*samples).matrices()
    for r in range(tokens):
        expected[r, :, r] = rows[r]
    np.testing.assert_allclose(expected, full, rtol=1e-10, atol=1e-13)


def test_row_hessian_times_a_vector_is_that_of_its_matrices(samples):
    a, y = samples
    rows = activation("softmax").row_hessian(a, y)
    expected = np.einsum("rijn,jn->rin", rows.matrices(), a[0])
    np.testing.assert_allclose(rows.times(a[0]), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ROW_WISE)
def test_single_samples_need_no_trailing_axis(name, samples):
    sigma = activation(name)
    one = [x[..., 0] for x in samples]

    def row_hessians(a, y):
        return sigma.row_hessian(a, y).matrices()

    for method in (sigma.loss, sigma.gradient, row_hessians):
        np.testing.assert_allclose(method(*one), method(*samples)[..., 0], rtol=1e-13, atol=1e-16)


def test_softmax_ignores_constant_shifts(samples):
    a, y = samples
    sigma = activation("softmax")
    np.testing.assert_allclose(sigma.loss(a + 0.7, y), sigma.loss(a, y), rtol=1e-12)
    np.testing.assert_allclose(sigma.gradient(a, y).sum(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(sigma.row_hessian(a, y).matrices().sum(axis=2), 0, atol=1e-14)


def test_custom_function_becomes_an_activation(samples):
    def cubic(a):
        return a**3 / 2

    sigma = as_activation(cubic)
    a, y = samples
    assert isinstance(sigma, Activation)
    assert sigma.name == "cubic"
    assert not sigma.row_wise
    np.testing.assert_allclose(sigma.gradient(a, y), 3 * a**2 * (a**3 / 2 - y), rtol=1e-12)
    with pytest.raises(TypeError, match="'cubic'"):
        sigma.row_hessian(a, y)


@pytest.mark.parametrize("name", ROW_WISE)
def test_names_and_activations_are_recognised(name):
    sigma = as_activation(name)
    assert sigma.name == name
    assert sigma.row_wise
    assert as_activation(sigma) is sigma


def test_unknown_name_is_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match="'sigmoid'") as error:
        as_activation("sigmoid")
    assert all(name in str(error.value) for name in ACTIVATIONS)


def causal(a):
    return jax.nn.softmax(jnp.where(jnp.tri(len(a)) > 0, a, -jnp.inf), axis=1)


def test_whether_tokens_may_be_permuted_is_found_out():
    def scaled(a):
        return jax.nn.softmax(a / len(a), axis=1)

    for tokens in (1, 2, 3, 5):
        assert as_activation("softmax").is_equivariant(tokens)
        assert as_activation(scaled).is_equivariant(tokens)
        assert as_activation(causal).is_equivariant(tokens) == (tokens == 1)
    last_row = as_activation(lambda a: a.at[-1].set(0.0))
    assert not last_row.is_equivariant(4)
    assert jax.jit(lambda x: x * as_activation(scaled).is_equivariant(3))(1.0) == 1.0
    assert not Activation(scaled, equivariant=False).is_equivariant(3)


@pytest.mark.parametrize("value", [None, 3.0])
def test_what_is_not_callable_is_refused(value):
    with pytest.raises(TypeError, match=str(value)):
        as_activation(value)
