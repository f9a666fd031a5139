import jax.numpy as jnp
import numpy as np
import pytest

from jaxlora.symmetric import identity_like, pack, packed_size, root_weights, unpack, weights


@pytest.fixture(params=[1, 2, 3, 5])
def tokens(request):
    return request.param


@pytest.fixture
def matrices(tokens):
    """Random symmetric matrices (T, T, 4)."""
    m = np.random.default_rng(tokens).standard_normal((tokens, tokens, 4))
    return m + m.swapaxes(0, 1)


def test_pack_lists_each_entry_of_the_upper_triangle_once(tokens):
    labels = np.empty((tokens, tokens))
    for a in range(tokens):
        for b in range(tokens):
            labels[a, b] = 10 * min(a, b) + max(a, b)
    expected = [10 * a + b for a in range(tokens) for b in range(a, tokens)]
    packed = pack(jnp.asarray(labels))
    assert packed_size(tokens) == len(expected)
    np.testing.assert_array_equal(packed, expected)


def test_unpack_inverts_pack(tokens, matrices):
    np.testing.assert_array_equal(unpack(pack(jnp.asarray(matrices)), tokens), matrices)


def test_pack_inverts_unpack(tokens):
    packed = np.random.default_rng(0).standard_normal((packed_size(tokens), 2, 3))
    field = unpack(jnp.asarray(packed), tokens)
    assert field.shape == (tokens, tokens, 2, 3)
    np.testing.assert_array_equal(field, field.swapaxes(0, 1))
    np.testing.assert_array_equal(pack(field), packed)


def test_weights_are_two_on_the_diagonal_and_one_off_it(tokens):
    field = np.asarray(unpack(jnp.asarray(weights(tokens)), tokens))
    np.testing.assert_array_equal(field, np.ones((tokens, tokens)) + np.eye(tokens))


def test_weighted_packed_norm_is_half_the_frobenius_norm(tokens, matrices):
    packed = np.asarray(pack(jnp.asarray(matrices)))
    weighted = np.sum(packed**2 / weights(tokens)[:, None], axis=0)
    frobenius = np.linalg.norm(matrices, axis=(0, 1))
    np.testing.assert_allclose(weighted, frobenius**2 / 2, rtol=1e-14)


def test_unit_packed_fields_are_rotation_invariant(tokens):
    """√s times orthonormal packed coordinates is an isometry, up to √2, onto the matrices."""
    basis = np.eye(packed_size(tokens))
    fields = np.asarray(unpack(root_weights(tokens, basis) * basis, tokens))
    gram = np.einsum("abi,abj->ij", fields, fields)
    np.testing.assert_allclose(gram, 2 * basis, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_root_weights_fit_the_field(tokens, dtype):
    like = jnp.zeros((packed_size(tokens), 3, 2), dtype)
    root = root_weights(tokens, like)
    assert root.shape == (packed_size(tokens), 1, 1)
    assert root.dtype == dtype
    np.testing.assert_allclose(root.ravel() ** 2, weights(tokens), rtol=4 * np.finfo(dtype).eps)


def test_identity_like_adds_to_every_sample(tokens, matrices):
    shifted = jnp.asarray(matrices) + identity_like(jnp.asarray(matrices))
    for sample in range(matrices.shape[-1]):
        np.testing.assert_array_equal(shifted[..., sample], matrices[..., sample] + np.eye(tokens))
