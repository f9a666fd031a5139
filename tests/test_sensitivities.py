import json

import numpy as np
import pytest
from helpers import central_difference
from points import given

import jaxlora
from jaxlora.cli import main

IDENTITY = {"tokens": 2, "activation": "identity", "kappa0": 0.5, "kappa": 1.1, "alpha": 0.2}
IDENTITY |= {"delta": 0.5, "lam": 0.1, "alpha_ft": 3.0, "lam_ft": 0.3}
NUMERICS = {"samples": 2**11, "replicates": 4}


@pytest.mark.slow
def test_elasticities_are_those_of_predictions():
    found = jaxlora.sensitivities(jaxlora.Task(**IDENTITY), **NUMERICS)
    for name in ("alpha", "delta", "lam_ft"):

        def log_error(log_change, name=name):
            moved = IDENTITY | {name: IDENTITY[name] * np.exp(log_change)}
            return np.log(jaxlora.predict(jaxlora.Task(**moved), **NUMERICS).finetuning.test_error)

        expected = central_difference(log_error, (0.0,), (1.0,), 1e-3)
        # Of the mean over replicates, against the mean of theirs.
        error = found.elasticities["error_ft"][name] - expected
        assert abs(error) < 0.1 * found.stderr["error_ft"][name] + 1e-6
    # E of the identity is proportional to the effective noise.
    for name, value in found.elasticities["error"].items():
        np.testing.assert_allclose(value, found.elasticities["effective_noise"][name], atol=1e-9)
    assert found.elasticities["error"]["lam_ft"] == 0


@pytest.mark.slow
def test_error_bars_are_those_of_the_scatter_over_seeds():
    few = {"samples": 2**9, "replicates": 4}
    found = [
        jaxlora.sensitivities(jaxlora.Task(**IDENTITY), seed=seed, **few) for seed in range(12)
    ]
    values = np.array([f.elasticities["error_ft"]["lam_ft"] for f in found])
    errors = np.array([f.stderr["error_ft"]["lam_ft"] for f in found])
    ratio = values.std(ddof=1) / np.sqrt(np.mean(errors**2))
    assert 0.6 < ratio < 1.6  # 11 degrees of freedom, at two standard errors


@pytest.mark.slow
def test_a_given_pretraining_has_elasticities_of_its_own():
    task = given(tokens=2, activation="identity", lam_ft=np.inf)
    found = jaxlora.sensitivities(task, **NUMERICS)
    noise = found.elasticities["effective_noise"]
    # Δ_eff = Δ/2 + Q0 + Q − 2M at (1.5, 1.5, 1.0) and Δ = 0.5.
    expected = {"Q0": 1.5, "Q": 1.5, "M": -2.0, "delta": 0.25, "lam_ft": 0.0}
    for name, value in expected.items():
        np.testing.assert_allclose(noise[name], value / 1.25, atol=1e-12)
    assert np.isnan(found.elasticities["overlap"]["delta"])


@pytest.mark.usefixtures("keep_settings")
@pytest.mark.slow
def test_the_command_prints_them(capsys):
    arguments = ["predict", "--sensitivities", "--no-cache", "--samples", "2048"]
    arguments += ["--replicates", "4"]
    arguments += [
        word
        for name, value in IDENTITY.items()
        for word in ("--" + name.replace("_", "-"), str(value))
    ]
    assert main([*arguments, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    table = report["sensitivities"]
    assert (
        table["elasticities"]["error_ft"]["lam"] > 0 or table["elasticities"]["error_ft"]["lam"] < 0
    )
    assert table["stderr"]["error_ft"]["lam"] > 0
    assert main(arguments) == 0
    assert "elasticities d log/d log" in capsys.readouterr().out
