import json

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlora
from jaxlora.boundaries import _root
from jaxlora.cli import main

PRETRAINING = {"tokens": 2, "kappa0": 0.5, "kappa": 1.0, "alpha": 0.2, "delta": 0.5}
FEW = {"samples": 2048, "replicates": 4}
ZERO_OVERLAP = {"tokens": 3, "delta": 2.0, "given": (1.5, 1.5, 0.0), "alpha_ft": 3.0, "lam_ft": 1.0}


def task(**changes):
    return jaxlora.Task(**(PRETRAINING | {"lam": 0.1, "alpha_ft": 3.0, "lam_ft": 0.5} | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.8605),
        ({"tokens": 3, "kappa0": 1.0, "alpha": 0.1}, 0.5498),
        ({"tokens": 3, "kappa0": 1.0, "alpha": 0.1, "delta": 2.0}, 0.5388),
    ],
)
def test_collapse_of_the_cases_in_the_theory(changes, expected):
    value, stderr, _ = jaxlora.collapse_boundary(task(**changes), samples=2**14, replicates=8)
    assert stderr < 1e-4 * value
    # The expected values were computed from samples too, to about a thousandth.
    np.testing.assert_allclose(value, expected, rtol=1.5e-3)


def test_weights_vanish_beyond_the_collapse_only():
    critical = jaxlora.collapse_boundary(task(), **FEW).value
    below = jaxlora.solve_pretraining(task(lam=0.97 * critical), **FEW)
    above = jaxlora.solve_pretraining(task(lam=1.01 * critical), **FEW)
    assert below.status.result == jaxlora.Result.CONVERGED
    assert below.values.Q > 0
    assert above.status.result == jaxlora.Result.COLLAPSED
    assert above.values.Q == 0


def test_zero_branch_command_gives_the_checked_case(capsys):
    flags = "--tokens 3 --delta 0.5 --given 1.5 1.5 1 --alpha-ft 3 --lam-ft 1 --samples 32768"
    assert main(["boundary", "zero-branch", *flags.split(), "--format", "json", "--no-cache"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["along"] == "lam_ft"
    assert found["value"] == found["outlier"]
    assert abs(found["value"] - 2.38) < 4 * found["stderr"] + 0.01
    assert abs(found["edge"] - 1.885) < 4 * found["edge_stderr"] + 0.005


@pytest.mark.slow
def test_replicon_is_one_on_its_boundary():
    point, numerics = jaxlora.Task(**ZERO_OVERLAP), {"samples": 2**14, "replicates": 4}
    found = jaxlora.replicon_boundary(point, "finetuning", "lam_ft", (0.2, 2.5), **numerics)
    assert found.stderr > 0

    def replicon(lam_ft):
        there = eqx.tree_at(lambda t: t.lam_ft, point, jnp.asarray(lam_ft))
        return float(jaxlora.solve_finetuning(there, throw=False, **numerics).values.replicon)

    # The replicon falls with λ' by jumps of some hundredths too, as minima of samples change.
    assert replicon(1.1 * found.value) < 1 < replicon(0.9 * found.value)


@pytest.mark.slow
def test_fixed_points_part_at_the_boundary_only():
    point = jaxlora.Task(
        tokens=3, activation="identity", delta=0.5, given=(1.5, 1.5, 1.0), alpha_ft=3.0, lam_ft=0.3
    )
    numerics = {"samples": 4096, "replicates": 4}
    found = jaxlora.parting_boundary(point, "alpha_ft", (0.3, 4.0), **numerics)

    def distance(alpha_ft):
        there = eqx.tree_at(lambda t: t.alpha_ft, point, jnp.asarray(alpha_ft))
        solved = jaxlora.solve_finetuning(there, throw=False, **numerics)
        informed, uninformed = solved.values.branches
        return abs(float(informed.q - uninformed.q)) + abs(float(informed.m - uninformed.m))

    # Each replicate's part at another value, and one sample in its other minimum keeps those of
    # a replicate 1e-2 apart that have met.
    assert distance(1.1 * found.value) < 2e-2
    assert distance(0.9 * found.value) > 0.1
    assert found.lower == ("informed" if found.energy_gap < 0 else "uninformed")


def test_root_and_its_error_bar():
    def curve(x):
        return x**3 - 2, 0.3, jaxlora.Result.SWITCHING

    root, stderr, result = _root(curve, "lam", (1.0, 2.0), "curve")
    np.testing.assert_allclose(root, 2 ** (1 / 3), rtol=1e-4)
    assert result == jaxlora.Result.SWITCHING
    np.testing.assert_allclose(stderr, 0.3 / (3 * 2 ** (2 / 3)), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: jaxlora.replicon_boundary(t, "both", "lam", (0.1, 1)), "stage = 'both'"),
        (lambda t: jaxlora.parting_boundary(t, "tokens", (1, 2)), "along = 'tokens'"),
        (lambda t: jaxlora.transition_boundary(t, "lam", (2, 1)), r"bracket = \(2, 1\)"),
        (lambda t: jaxlora.zero_branch_boundary(task(activation="identity"), **FEW), "identity"),
        (
            lambda t: jaxlora.collapse_boundary(jaxlora.Task(**ZERO_OVERLAP)),
            "has no pre-training",
        ),
        (
            lambda t: jaxlora.replicon_boundary(
                jaxlora.Task(**ZERO_OVERLAP), "finetuning", "lam", (0.1, 1)
            ),
            "the task does not have it",
        ),
    ],
)
def test_bad_arguments_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call(task())


def test_a_bracket_without_a_root_says_what_is_at_its_ends():
    with pytest.raises(ValueError, match=r"must change sign within it, but is 5 at lam_ft = 2"):
        _root(
            lambda x: (2 * x + 1, 0.1, jaxlora.Result.CONVERGED),
            "lam_ft",
            (2.0, 2.5),
            "replicon − 1",
        )


def test_a_search_needs_a_parameter_and_a_bracket(capsys):
    flags = [
        "--tokens",
        "3",
        "--delta",
        "2",
        "--given",
        "1.5",
        "1.5",
        "0",
        "--alpha-ft",
        "3",
        "--lam-ft",
        "1",
    ]
    assert main(["boundary", "parting", *flags]) == 2
    assert "parting needs --along and --bracket" in capsys.readouterr().err


def test_a_failed_solve_on_the_boundary_gives_exit_code_three(capsys, monkeypatch):
    failed = jaxlora.boundaries.Boundary(0.5, 0.01, jaxlora.Result.NOT_CONVERGED)
    monkeypatch.setattr(jaxlora.boundaries, "collapse_boundary", lambda *_, **__: failed)
    flags = "--tokens 2 --kappa0 0.5 --kappa 1 --alpha 0.2 --delta 0.5 --lam 0.1 --alpha-ft 3"
    assert main(["boundary", "collapse", *flags.split(), "--lam-ft", "0.5"]) == 3
    output = capsys.readouterr()
    assert "not_converged" in output.out
    assert "not solved: The iteration stopped" in output.err
