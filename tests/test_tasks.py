import jax
import jax.numpy as jnp
import pytest

from jaxlora import Task

VALID = {
    "tokens": 3,
    "kappa0": 1.0,
    "kappa": 1.0,
    "alpha": 0.1,
    "delta": 0.5,
    "lam": 0.05,
    "alpha_ft": 3.0,
    "lam_ft": 0.2,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kappa", 0.9),
        ("delta", -0.1),
        ("tokens", 0),
        ("tokens", 1),
        ("lam", 0.0),
        ("lam", -1.0),
        ("lam_ft", 0.0),
        ("alpha", 0.0),
        ("alpha", jnp.inf),
        ("alpha_ft", -3.0),
        ("kappa0", 0.0),
        ("kappa0", jnp.nan),
        ("lam", jnp.nan),
        ("beta", -1.0),
        ("active_ratio", 0.0),
        ("active_ratio", 1.1),
    ],
)
def test_values_outside_their_range_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field} = .*must be") as caught:
        Task(**(VALID | {field: value}))
    assert "\n" not in str(caught.value)


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match="'relu': must be one of identity, softmax"):
        Task(**VALID, activation="relu")


def test_given_excludes_reuse_and_impossible_overlaps():
    given = {"tokens": 3, "delta": 0.5, "alpha_ft": 3.0, "lam_ft": 0.2}
    with pytest.raises(ValueError, match=r"given Q = 0.1: must be .* at least .* = 0.571429"):
        Task(**given, given=(1.5, 0.1, 1.0))
    with pytest.raises(ValueError, match="reuse"):
        Task(**given, given=(1.5, 1.5, 1.0), reuse=True)
    with pytest.raises(ValueError, match="kappa0 is missing"):
        Task(**given)


def test_infinite_ridges_and_one_identity_token_are_allowed():
    Task(**(VALID | {"lam": jnp.inf, "lam_ft": jnp.inf}))
    assert Task(**(VALID | {"tokens": 1, "activation": "identity"})).tokens == 1


def test_real_parameters_are_the_leaves():
    task = Task(**VALID)
    assert len(jax.tree.leaves(task)) == 9
    doubled = jax.tree.map(lambda x: 2 * x, task)
    assert float(doubled.lam_ft) == 0.4


def test_traced_values_are_judged_later():
    def valid(lam):
        return Task(**(VALID | {"lam": lam})).is_valid()

    assert bool(jax.jit(valid)(0.1))
    assert not bool(jax.jit(valid)(-0.1))
