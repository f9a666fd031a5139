import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import assert_refused

from jaxlora.cli import _compare, main

POINT = {
    "--tokens": "2",
    "--kappa0": "0.5",
    "--kappa": "1",
    "--alpha": "0.2",
    "--delta": "0.5",
    "--lam": "0.1",
    "--alpha-ft": "3",
    "--lam-ft": "0.5",
    "--dim": "20",
    "--seeds": "2",
    "--test-samples": "100",
}


def arguments(command="simulate", *flags, **changes):
    point = POINT | {"--" + k.replace("_", "-"): v for k, v in changes.items()}
    return [command, *(w for k, v in point.items() for w in (k, *v.split())), *flags, "--no-cache"]


pytestmark = pytest.mark.usefixtures("keep_settings")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dim": "1"}, "dimension = 1: must be an integer of at least 2"),
        ({"alpha": "0.0001"}, "alpha = 0.0001: makes N = 0 at dim = 20"),
        ({"alpha_ft": "0.01"}, "alpha_ft = 0.01: makes N' = 0 at dim = 20"),
        ({"dim": "3000000"}, "dim = 3000000: needs about"),
        ({"active_ratio": "0"}, "active_ratio = 0: must be in (0, 1]"),
        ({"active_ratio": "1.5"}, "active_ratio = 1.5: must be in (0, 1]"),
        ({"seeds": "0"}, "seeds = 0: must be an integer of at least 1"),
        ({"centring": "none"}, "argument --centring: invalid choice"),
        ({"device": "abacus"}, "device = 'abacus': must be one of"),
        ({"tol": "0"}, "tol = 0.0: must be positive"),
    ],
)
def test_bad_input_is_one_line(capsys, changes, words):
    assert_refused(arguments(**changes), words, capsys)


def test_simulate_prints_json_and_a_table(capsys):
    assert main(arguments("simulate", "--format", "json", "--device", "cpu")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["setting"]["dim"] == 20
    assert len(report["seeds"]) == 2
    assert report["status"]["finetuning"]["unconverged_starts"] == 0
    assert report["setting"]["informed"] is False
    assert "kept_informed" not in report["status"]["finetuning"]
    assert main(arguments()) == 0
    assert f"{report['finetuning']['q']:.6g}" in capsys.readouterr().out


def test_informed_start_is_one_more(capsys):
    flags = ("--format", "json", "--informed-start", "--starts", "1")
    assert main(arguments("simulate", *flags, seeds="1")) == 0
    report = json.loads(capsys.readouterr().out)
    status = report["seeds"][0]["status"]["finetuning"]
    assert report["status"]["finetuning"]["starts"] == status["starts"] == 2
    assert report["status"]["finetuning"]["kept_informed"] == status["informed"]


def test_unconverged_training_is_told(capsys):
    assert main(arguments("simulate", "--max-iterations", "3")) == 3
    err = capsys.readouterr().err
    assert "pretraining: seed 0, 1 did not reach the gradient 1.0e-06" in err


@pytest.mark.slow
def test_compare_prints_both_and_draws_the_spectrum(capsys, tmp_path):
    picture = tmp_path / "spectrum.png"
    flags = ("--format", "json", "--samples", "1024", "--replicates", "2")
    command = arguments("compare", *flags, "--spectrum", str(picture), dim="20")
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert [s["setting"]["dim"] for s in report["simulations"]] == [20]
    by_name = {(o["stage"], o["name"]): o for o in report["comparison"]}
    q = by_name["finetuning", "q"]
    assert q["theory"] == report["theory"]["finetuning"]["q"]
    assert q["sizes"][0]["value"] == report["simulations"][0]["finetuning"]["q"]
    both = np.hypot(q["theory_stderr"], q["sizes"][0]["stderr"])
    np.testing.assert_allclose(q["sizes"][0]["z"], (q["sizes"][0]["value"] - q["theory"]) / both)
    assert picture.read_bytes().startswith(b"\x89PNG")


GIVEN = ["compare", "--tokens", "2", "--delta", "0.5", "--given", "1.5", "1.5", "1"]
GIVEN += ["--alpha-ft", "3", "--lam-ft", "0.5", "--dim", "30", "--seeds", "2"]
GIVEN += ["--samples", "1024", "--replicates", "2", "--no-cache"]


def test_compare_of_a_given_pretraining_is_a_table(capsys):
    assert main(GIVEN) == 0
    out = capsys.readouterr().out
    assert "z(30)" in out
    assert "train_error" in out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spectrum": "x.foo"}, "spectrum = 'x.foo': must end in one of .png, .pdf, .svg"),
        ({"spectrum": "x.png", "lam": "inf"}, "spectrum: at lam = inf all eigenvalues are 0"),
    ],
)
def test_compare_refuses_a_spectrum_before_it_solves(changes, words, capsys):
    assert_refused(arguments("compare", **changes), words, capsys)


def test_compare_refuses_the_spectrum_of_a_given_pretraining(capsys):
    assert_refused([*GIVEN, "--spectrum", "x.png"], "no eigenvalues", capsys)


def test_a_spectrum_that_cannot_be_written_costs_no_numbers(capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_compare, "check_spectrum", lambda task: None)
    monkeypatch.setattr(_compare, "save_spectrum", full)
    assert main([*GIVEN, "--spectrum", "x.png"]) == 4
    output = capsys.readouterr()
    assert "z(30)" in output.out
    assert output.err == "jaxlora compare: not written: [Errno 28] No space left on device\n"


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    """kill -9 as soon as there is something to go on from, until the run gets to its end."""
    command = [sys.executable, "-m", "jaxlora"]
    command += arguments("simulate", "--format", "json", "--starts", "2", dim="40", seeds="2")
    command.remove("--no-cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = json.loads(whole.stdout)
    folder = tmp_path / "checkpoint"
    command += ["--checkpoint", str(folder)]
    kills = 0
    for least in (1, 3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and len(list(folder.rglob("*.npz"))) < least:
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 2
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(resumed.stdout)
    for report in (expected, found):
        del report["seconds"]
    assert found == expected
    other = [*command, "--delta", "0.6"]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "delta = 0.5 there, 0.6 here" in refused.stderr


def test_checkpoint_that_cannot_be_written_ends_with_code_4(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(arguments("simulate", "--checkpoint", str(blocked))) == 4
    assert capsys.readouterr().err.count("\n") == 1
