"""The numbers of a sweep: what they are called, and what they are."""

from typing import Any, NamedTuple

import numpy as np

from ..kinks import Kink
from ..results import Result
from ..stability import Stability

STDERR = "_stderr"
SIMULATED, BAYES_PREFIX = "simulated_", "bayes_"


class Variable(NamedTuple):
    """A number at every point: `field` of a stage of what a unit computes."""

    name: str
    stage: str
    field: str
    symbol: str
    description: str


def _pretraining(field: str, symbol: str, description: str) -> Variable:
    return Variable(field, "pretraining", field, symbol, description)


def _finetuning(field: str, symbol: str, description: str) -> Variable:
    shared = ("test_error", "train_error", "replicon")
    name = f"{field}_ft" if field in shared else field
    return Variable(name, "finetuning", field, symbol, description)


NUMBERS = (
    _pretraining("Q", "$Q$", "squared norm of the pre-trained weights (8)"),
    _pretraining("M", "$M$", "overlap of pre-trained and teacher weights (8)"),
    _pretraining("V", "$V$", "susceptibility of the pre-training (8)"),
    _pretraining("Q_hat", r"$\hat Q$", "conjugate of Q (46)-(51)"),
    _pretraining("M_hat", r"$\hat M$", "conjugate of M (46)-(51)"),
    _pretraining("V_hat", r"$\hat V$", "conjugate of V (46)-(51)"),
    _pretraining("test_error", "$E$", "test error of the pre-trained layer (55)"),
    _pretraining("train_error", r"$E_{\mathrm{train}}$", "training error of the pre-training (20)"),
    _pretraining("effective_noise", r"$\Delta_{\mathrm{eff}}$", "effective noise (26)"),
    _pretraining("critical_lam", r"$\lambda_c$", "ridge from which on the weights vanish"),
    _pretraining("replicon", "replicon", "replicon of the pre-training (75), stable below 1"),
    _finetuning("q", "$q$", "squared norm of the update (9)"),
    _finetuning("m", "$m$", "overlap of update and teacher (9)"),
    _finetuning("v", "$v$", "susceptibility of the fine-tuning (9)"),
    _finetuning("q_hat", r"$\hat q$", "conjugate of q (62)-(72)"),
    _finetuning("m_hat", r"$\hat m$", "conjugate of m (62)-(72)"),
    _finetuning("v_hat", r"$\hat v$", "conjugate of v (62)-(72)"),
    _finetuning("test_error", "$E'$", "test error of the fine-tuned layer (73)"),
    _finetuning("train_error", r"$E'_{\mathrm{train}}$", "training error of the fine-tuning (20)"),
    _finetuning("overlap", "$o_w$", "normalised overlap of the update with the teacher, m/sqrt(q)"),
    _finetuning("forgetting", "$E''$", "error of the fine-tuned layer on the old task (84)"),
    _finetuning("energy", "energy", "loss of the fine-tuning (3) per dimension"),
    _finetuning("replicon", "replicon'", "replicon of the fine-tuning (78), stable below 1"),
    _finetuning("frozen_test_error", "frozen $E'$", "E' without fine-tuning (79)"),
)
# What does not depend on the fine-tuning.
OF_PRETRAINING = frozenset(v.name for v in NUMBERS if v.stage == "pretraining") | {
    "frozen_test_error"
}
BAYES = tuple(
    Variable(name, "bayes", field, symbol, f"{description}, Bayes-optimal")
    for name, field, symbol, description in (
        ("bayes_Q", "Q", r"$Q_{\mathrm{BO}}$", "overlap of the pre-training (87)"),
        ("bayes_q", "q", r"$q_{\mathrm{BO}}$", "overlap of the fine-tuning (92)"),
        (
            "bayes_mean_test_error",
            "pretraining_test_error",
            "$E$ at the posterior mean",
            "test error at the posterior mean (91)",
        ),
        (
            "bayes_mean_test_error_ft",
            "finetuning_test_error",
            "$E'$ at the posterior mean",
            "fine-tuning test error at the posterior mean (97)",
        ),
        (
            "bayes_test_error",
            "pretraining_bayes_error",
            r"$E_{\mathrm{BO}}$",
            "least test error of any estimator",
        ),
        (
            "bayes_test_error_ft",
            "finetuning_bayes_error",
            r"$E'_{\mathrm{BO}}$",
            "least fine-tuning test error of any estimator",
        ),
        ("bayes_overlap", "overlap", r"$o_{\mathrm{BO}}$", "normalised overlap (98)"),
    )
)


class Flag(NamedTuple):
    """A word or a number of a solve's status."""

    field: str
    description: str
    attributes: dict[str, Any]


def _words(enum: Any, kind: str) -> dict[str, Any]:
    names = " ".join(str(member.name).lower() for member in enum)
    return {kind: np.array([int(member) for member in enum], "i8"), "flag_meanings": names}


STATUS = (
    Flag("result", "how the solve ended, the worst over replicates", _words(Result, "flag_values")),
    Flag("residual", "undamped residual", {}),
    Flag("iterations", "iterations, the mean over replicates", {}),
    Flag("switched_share", "share of samples that change minima", {}),
    Flag("switching_jump", "residual with all minima taken anew", {}),
    Flag("stability", "verdict of the replicon", _words(Stability, "flag_values")),
    Flag("kinks", "what derivatives leave out here", _words(Kink, "flag_masks")),
)
SUFFIX = {"pretraining": "", "finetuning": "_ft"}
CONVERGED = f"{SIMULATED}converged"  # for a stage, with its suffix


def attributes_of(name: str) -> dict[str, Any]:
    """Units, symbol and description of a variable of the dataset."""
    for flag in STATUS:
        if name == BAYES_PREFIX + flag.field:
            words = f"Bayes-optimal benchmark: {flag.description}"
            return {"long_name": words, "units": "1", **flag.attributes}
    for stage, suffix in SUFFIX.items():
        words = "pre-training" if stage == "pretraining" else "fine-tuning"
        for flag in STATUS:
            if name == flag.field + suffix:
                return {
                    "long_name": f"{words}: {flag.description}",
                    "units": "1",
                    **flag.attributes,
                }
        if name == CONVERGED + suffix:
            return {"long_name": f"{words}: share of seeds that converged", "units": "1"}
    plain = name.removesuffix(STDERR).removeprefix(SIMULATED)
    variable = next(v for v in (*NUMBERS, *BAYES) if v.name == plain)
    simulated = " of trained layers" if name.startswith(SIMULATED) else ""
    error = "standard error: " if name.endswith(STDERR) else ""
    return {
        "long_name": f"{error}{variable.description}{simulated}",
        "units": "1",
        "symbol": variable.symbol,
    }
