import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers import assert_refused

import jaxlora
from jaxlora.checkpoints import CheckpointError
from jaxlora.cli import main
from jaxlora.sweeps import LostWorkersError

POINT = {
    "--tokens": "2",
    "--kappa0": "0.5",
    "--kappa": "1",
    "--alpha": "0.2",
    "--delta": "0.5",
    "--lam": "0.1",
    "--alpha-ft": "3",
    "--lam-ft": "0.5",
    "--samples": "512",
    "--replicates": "2",
}


def arguments(**changes):
    point = POINT | {"--" + k.replace("_", "-"): v for k, v in changes.items()}
    return ["predict", *(word for pair in point.items() for word in pair), "--no-cache"]


pytestmark = pytest.mark.usefixtures("keep_settings")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kappa": "0.5"}, "kappa = 0.5: must be at least 1"),
        ({"delta": "-1"}, "delta = -1: must be non-negative"),
        ({"tokens": "0"}, "tokens = 0: must be at least 2"),
        ({"tokens": "1"}, "tokens = 1: must be at least 2 for softmax"),
        ({"lam": "0"}, "lam = 0: must be positive"),
        ({"lam_ft": "-1"}, "lam_ft = -1: must be positive"),
        ({"alpha": "0"}, "alpha = 0: must be positive"),
        ({"alpha_ft": "nan"}, "alpha_ft = nan: must be positive"),
        ({"kappa0": "-2"}, "kappa0 = -2: must be positive"),
        ({"active_ratio": "1.5"}, "active_ratio = 1.5: must be in (0, 1]"),
        ({"activation": "relu"}, "activation = 'relu': must be one of identity, softmax"),
        ({"samples": "0"}, "samples = 0: must be an integer of at least"),
        ({"replicates": "0"}, "replicates = 0: must be an integer of at least 1"),
        ({"seed": "-1"}, "seed = -1: must be a non-negative integer"),
        ({"lam": "many"}, "argument --lam: invalid float value: 'many'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(changes, words, capsys):
    assert_refused(arguments(**changes), words, capsys)


def test_impossible_given_pretraining_is_named(capsys):
    code = main(
        [
            *("predict", "--given", "1.5", "0.1", "1.0", "--tokens", "2", "--delta", "0.5"),
            *("--alpha-ft", "3", "--lam-ft", "0.5"),
        ]
    )
    assert code == 2
    assert "given Q = 0.1: must be" in capsys.readouterr().err


def test_json_has_every_number_and_nothing_else_on_stdout(capsys):
    assert main([*arguments(lam_ft="inf"), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["parameters"]["lam_ft"] == "inf"
    assert list(report["pretraining"]) == [
        "Q",
        "M",
        "V",
        "Q_hat",
        "M_hat",
        "V_hat",
        "test_error",
        "train_error",
        "effective_noise",
        "critical_lam",
        "replicon",
    ]
    assert list(report["finetuning"]) == [
        "q",
        "m",
        "v",
        "q_hat",
        "m_hat",
        "v_hat",
        "test_error",
        "train_error",
        "overlap",
        "forgetting",
        "energy",
        "replicon",
        "frozen_test_error",
        "branches",
    ]
    assert report["finetuning"]["overlap"] is None
    assert report["finetuning"]["q"] == 0
    assert [b["start"] for b in report["finetuning"]["branches"]] == ["informed", "uninformed"]
    assert report["stderr"]["pretraining"]["Q"] > 0
    for stage in ("pretraining", "finetuning"):
        status = report["status"][stage]
        assert status["result"] == "converged"
        assert {"residual", "iterations", "switched_share", "largest_gradient", "stein_gap"} <= set(
            status
        )
    assert set(report["seconds"]) == {"compile", "run"}


def test_failed_solve_is_reported_with_exit_code_three(capsys, monkeypatch):
    monkeypatch.setattr(
        jaxlora.cli._arguments, "Options", lambda: jaxlora.Options(max_iterations=2)
    )
    assert main([*arguments(), "--format", "json"]) == 3
    output = capsys.readouterr()
    assert json.loads(output.out)["status"]["pretraining"]["result"] == "not_converged"
    assert "pretraining" in output.err


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (ValueError("over = 1"), "error: over = 1", 2),
        (jaxlora.ConvergenceError("stopped", None), "not solved: stopped", 3),
        (LostWorkersError("all died"), "not done: all died", 3),
        (CheckpointError("no space"), "not written: no space", 4),
    ],
)
def test_errors_of_every_command_are_one_line_and_an_exit_code(
    error, words, code, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    commands = {
        "predict": "predict_timed",
        "tune": "tune",
        "simulate": "simulate",
        "compare": "predict",
        "sweep": "run_sweep",
    }
    for command, function in commands.items():
        monkeypatch.setattr(getattr(jaxlora.cli, f"_{command}"), function, fail)
        extra = {"simulate": ["--dim", "8"], "compare": ["--dim", "8"], "sweep": ["--out", "x.nc"]}
        _, *point = arguments()
        if command == "simulate":
            point = point[: point.index("--samples")]
        assert main([command, *point, *extra.get(command, [])]) == code
        output = capsys.readouterr()
        assert (output.out, output.err) == ("", f"jaxlora {command}: {words}\n")


def test_an_error_of_what_prints_is_no_bad_input(monkeypatch):
    def fail(*_):
        raise ValueError("not JSON")

    monkeypatch.setattr(jaxlora.cli._predict, "predict_timed", lambda *_, **__: (None, {}))
    monkeypatch.setattr(jaxlora.cli._predict, "to_json", fail)
    with pytest.raises(ValueError, match="not JSON"):
        main(arguments())


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"jaxlora {jaxlora.__version__}\n"


def test_interrupt_ends_the_process_at_once():
    command = arguments(samples="400000")  # A solve of minutes.
    code = (
        "import sys; from jaxlora.cli import run_as_process; "
        f"sys.argv[1:] = {command}; print('ready', flush=True); sys.exit(run_as_process())"
    )
    # Where the tests themselves run in the background, the signal would be ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout.readline() == "ready\n"
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT  # which a shell reports as 130
    assert "Traceback" not in errors


def test_import_changes_no_setting_and_needs_no_solver_library():
    code = (
        "import jax; before = dict(jax.config.values); import jaxlora, sys; "
        "assert dict(jax.config.values) == before; assert 'jaxopt' not in sys.modules; "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parent)


@pytest.mark.slow
def test_bayes_adds_the_benchmark(capsys):
    assert main([*arguments(), "--bayes", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = {
        "Q",
        "q",
        "pretraining_test_error",
        "finetuning_test_error",
        "pretraining_bayes_error",
        "finetuning_bayes_error",
        "overlap",
    }
    assert set(report["bayes_optimal"]) == names == set(report["stderr"]["bayes_optimal"])
    assert report["bayes_optimal"]["finetuning_bayes_error"] < report["finetuning"]["test_error"]
    status = report["status"]["bayes_optimal"]
    assert status["result"] == "converged"
    assert status["is_bound"] is False
    assert 10 < status["least_effective_samples"] <= status["effective_samples"]
    for stage in ("pretraining", "finetuning"):
        assert 0 < report[stage]["replicon"]
        assert report["stderr"][stage]["replicon"] > 0
        assert report["status"][stage]["stability"] in ("stable", "undecided")


@pytest.mark.slow
def test_bayes_is_a_bound_for_few_reused_sequences(capsys):
    assert main([*arguments(alpha_ft="0.5"), "--reuse", "--bayes"]) in (0, 3)
    output = capsys.readouterr()
    assert "bayes_optimal: converged, a bound only" in output.out
    assert "it is a bound only" in output.err


def test_poor_posterior_averages_are_warned_of(capsys, monkeypatch):
    monkeypatch.setattr(jaxlora.cli._predict, "LARGEST_POOR_SHARE", -1.0)
    assert main([*arguments(), "--bayes"]) == 0
    assert "the posterior average rests on fewer than ten" in capsys.readouterr().err


def test_bayes_refuses_a_given_pretraining(capsys):
    point = ["--tokens", "2", "--delta", "1", "--alpha-ft", "3", "--lam-ft", "1"]
    assert main(["predict", *point, "--given", "1.5", "1.5", "1", "--bayes"]) == 2
    assert "needs kappa0 and alpha" in capsys.readouterr().err


def test_precision_says_how_many_samples_are_needed(capsys):
    # Of two replicates' scatter, that of this seed is above the target.
    assert main([*arguments(seed="1"), "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    precision = report["precision"]
    relative = report["stderr"]["finetuning"]["test_error"] / report["finetuning"]["test_error"]
    assert precision["relative_stderr"] == pytest.approx(relative)
    assert precision["samples"] == 512
    assert precision["samples_for_target"] == pytest.approx(512 * (relative / 1e-3) ** 2, rel=1e-2)
