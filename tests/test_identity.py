"""Whatever two functions of the same name differ in, they are told apart, and only then."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxlora.activations import ACTIVATIONS, Activation, Softmax, as_activation
from jaxlora.identity import identity_of, is_built_in

TEMPERATURE = 0.5


def by_global(a):
    return jax.nn.softmax(TEMPERATURE * a, axis=1)


def by_keyword(temperature):
    def tempered(a, *, t=temperature):
        return jax.nn.softmax(t * a, axis=1)

    return tempered


def by_array(temperature):
    held = jnp.array(temperature)
    return lambda a: jax.nn.softmax(held * a, axis=1)


def of_partial(temperature):
    return functools.partial(lambda t, a: jax.nn.softmax(t * a, axis=1), temperature)


class Tempered:
    def __init__(self, temperature):
        self.temperature = temperature

    def __call__(self, a):
        return jax.nn.softmax(self.temperature * a, axis=1)


def named(function, *tokens):
    return identity_of(Activation(function, "mine"), *(tokens or (2,)))


@pytest.mark.parametrize("kind", [by_keyword, by_array, of_partial, Tempered])
def test_functions_are_told_apart_by_what_they_hold(kind):
    assert named(kind(0.5)) == named(kind(0.5)) == named(jax.jit(kind(0.5)))
    assert named(kind(0.5)) != named(kind(0.5001))
    assert named(jax.jit(kind(0.5))) != named(jax.jit(kind(2.0)))


def test_functions_are_told_apart_by_globals(monkeypatch):
    before = named(by_global)
    assert before == named(Tempered(0.5))
    monkeypatch.setattr(sys.modules[__name__], "TEMPERATURE", 2.0)
    assert named(by_global) == named(Tempered(2.0)) != before


def test_functions_are_told_apart_by_scale_and_by_what_they_do_far_out_and_for_other_sizes():
    different = [
        lambda a: a,
        lambda a: 10 * a,
        lambda a: 1e-12 * a,
        lambda a: 0 * a,
        lambda a: jnp.clip(a, -9, 9),
        lambda a: jnp.log(a),  # NaN, and −∞ at 0
        lambda a: 1 / jnp.maximum(a, 0),
    ]
    assert len({named(function) for function in different}) == len(different)
    sized = lambda a: a * a.shape[0] / 2  # noqa: E731
    assert named(sized, 2) == named(lambda a: a, 2)
    assert named(sized, 2, 3) != named(lambda a: a, 2, 3)


def test_rounding_errors_do_not_tell_functions_apart():
    assert named(lambda a: a / 3) == named(lambda a: a * (1 / 3))
    assert named(lambda a: jnp.tanh(a)) == named(lambda a: 1 - 2 / (jnp.exp(2 * a) + 1))
    assert named(lambda a: 0 * a) == named(lambda a: 0 * jnp.abs(a))


def test_identity_is_the_same_without_float64_and_in_another_process():
    expected = named(by_keyword(0.3), 2, 5)
    with jax.enable_x64(False):
        assert named(by_keyword(0.3), 2, 5) == expected
    program = "import test_identity as t; print(t.named(t.by_keyword(0.3), 2, 5))"
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "1"}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == expected


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_built_in_activations_are_their_names(name):
    assert identity_of(as_activation(name), 2) == name


def test_what_only_looks_built_in_is_not():
    class Doubled(Softmax):
        def __call__(self, a):
            return 2 * super().__call__(a)

    softmax = as_activation("softmax")
    alike = Doubled(softmax.function, "softmax", softmax.min_tokens, softmax.equivariant)
    assert not is_built_in(alike)
    assert identity_of(alike, 2) != "softmax"
