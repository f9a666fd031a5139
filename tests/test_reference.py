"""Predictions against independent values (a separate prototype on 8 scrambles of 8192 points)."""

import json
import pathlib

import numpy as np
import pytest

import jaxlora

CASES = json.loads((pathlib.Path(__file__).parent / "reference" / "reference.json").read_text())


# One case for each activation, number of tokens and choice of sequences; the rest are slow.
QUICK = ("A0", "B1")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case["name"] in QUICK else pytest.mark.slow, id=case["name"])
        for case in CASES["cases"]
    ],
)
def test_predictions_agree_with_independent_values(case):
    prediction = jaxlora.predict(jaxlora.Task(**case["parameters"]), samples=2**13, replicates=8)
    for stage, values in case["values"].items():
        for name, (reference, sem) in values.items():
            if name == "replicon":
                continue
            value = float(getattr(getattr(prediction, stage), name))
            stderr = float(getattr(getattr(prediction.stderr, stage), name))
            # 5.4 is the 99.9 % point of Student's law with the 7 degrees of freedom of our error;
            # the two regression and Newton biases are O(1/n), below 1e-3.
            tolerance = 5.4 * np.hypot(sem, min(stderr, 5e-3 * abs(reference))) + 1e-3 * abs(
                reference
            )
            assert abs(value - reference) <= tolerance, (stage, name, value, stderr, reference)
