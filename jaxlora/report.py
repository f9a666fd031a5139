"""Predictions as JSON objects and as tables for people."""

import math
from typing import Any

import jax
import numpy as np

from .bayes import BayesBenchmark
from .kinks import Kink
from .outputs import Prediction
from .results import Result
from .sensitivities import Sensitivities
from .stability import Stability
from .tasks import Task

Json = dict[str, Any]
WORDS = ("result", "stability", "is_bound", "kinks")  # of a status; all else are numbers
TARGET = 1e-3  # relative standard error of E'


def parameters_of(task: Task) -> Json:
    """The parameters of a task, those left out as None."""
    values = {
        name: None if (value := getattr(task, name)) is None else number(value)
        for name in ("kappa0", "kappa", "alpha", "delta", "lam", "alpha_ft", "lam_ft")
    }
    given = None if task.given is None else [number(x) for x in task.given]
    return {
        "tokens": task.tokens,
        "activation": task.activation.name,
        **values,
        "reuse": task.reuse,
        "beta": number(task.beta),
        "active_ratio": number(task.active_ratio),
        "given": given,
    }


def to_json(prediction: Prediction) -> Json:
    """A prediction as a JSON object: undefined numbers are None, results their names."""
    status = {}
    for stage in ("pretraining", "finetuning"):
        solve = vars(getattr(prediction.status, stage))
        names = {
            "result": _result(solve["result"]),
            "stability": Stability(int(solve["stability"])).name.lower(),
            "kinks": Kink(int(solve["kinks"])).names,
        }
        status[stage] = {k: number(v) for k, v in solve.items()} | names
    return {
        "pretraining": _stage(prediction.pretraining),
        "finetuning": _stage(prediction.finetuning, results=True),
        "stderr": {
            "pretraining": _stage(prediction.stderr.pretraining),
            "finetuning": _stage(prediction.stderr.finetuning),
        },
        "status": status,
    }


def precision_of(prediction: Prediction, samples: int) -> Json:
    """The relative standard error of E', and how many samples would bring it to 1e-3.

    Errors are taken to fall like 1/√samples; quasi-random draws do somewhat better.
    """
    relative = prediction.stderr.finetuning.test_error / prediction.finetuning.test_error
    needed = samples * max(1.0, float(relative) / TARGET) ** 2
    return {
        "relative_stderr": number(relative),
        "target": TARGET,
        "samples": samples,
        "samples_for_target": math.ceil(needed) if math.isfinite(needed) else None,
    }


def add_bayes(report: Json, benchmark: BayesBenchmark) -> None:
    """Put the Bayes-optimal benchmark into the JSON object of a prediction."""
    status = vars(benchmark.status)
    report["bayes_optimal"] = _stage(benchmark.values)
    report["stderr"]["bayes_optimal"] = _stage(benchmark.stderr)
    report["status"]["bayes_optimal"] = {name: number(x) for name, x in status.items()} | {
        "result": _result(status["result"]),
        "is_bound": bool(status["is_bound"]),
    }


def add_sensitivities(report: Json, found: Sensitivities) -> None:
    """Put elasticities into the JSON object of a prediction."""
    report["sensitivities"] = {
        name: {row: {k: number(v) for k, v in values.items()} for row, values in table.items()}
        for name, table in (("elasticities", found.elasticities), ("stderr", found.stderr))
    }


def to_table(report: Json) -> str:
    """The JSON object of a prediction, its parameters and seconds included, as a table."""
    parameters = report["parameters"]
    lines = ["  ".join(f"{k}={v}" for k, v in parameters.items() if v is not None), ""]
    for stage, status in report["status"].items():
        verdicts = [status["result"], status.get("stability")]
        verdicts.append("a bound only" if status.get("is_bound") else None)
        lines.append(f"{stage}: " + ", ".join(verdict for verdict in verdicts if verdict))
        for name, value in report[stage].items():
            if name != "branches":
                lines.append(row(name, value, report["stderr"][stage][name]))
        if status.get("kinks"):
            lines.append("  not smooth here: " + ", ".join(status["kinks"]))
        numbers = {k: v for k, v in status.items() if k not in WORDS}
        lines += ["  " + ", ".join(f"{k} {_short(v)}" for k, v in numbers.items()), ""]
    lines.append("branches of the fine-tuning")
    for branch in report["finetuning"]["branches"]:
        numbers = ", ".join(f"{k} {branch[k]:.6g}" for k in ("q", "m", "v", "energy"))
        lines.append(f"  {branch['start']:<18} {numbers}  ({branch['result']})")
    precision = report["precision"]
    if precision["samples_for_target"] is not None:
        lines += ["", f"relative standard error of E': {precision['relative_stderr']:.1e}"]
        if precision["samples_for_target"] > precision["samples"]:
            lines[-1] += f"; --samples {precision['samples_for_target']} for {TARGET:g}"
    if "sensitivities" in report:
        lines += ["", *_elasticities(report["sensitivities"])]
    seconds = report["seconds"]
    lines += ["", f"{seconds['compile']:.1f} s to compile, {seconds['run']:.1f} s to run"]
    return "\n".join(lines)


def _stage(values, results: bool = False) -> Json:
    numbers: Json = {name: number(x) for name, x in vars(values).items() if name != "branches"}
    if hasattr(values, "branches"):
        numbers["branches"] = [_branch(branch, results) for branch in values.branches]
    return numbers


def _branch(branch, results: bool) -> Json:
    numbers = {name: number(getattr(branch, name)) for name in ("q", "m", "v", "energy")}
    result = {"result": _result(branch.result)} if results else {}
    return {"start": branch.start} | numbers | result


def _result(value: jax.Array) -> str:
    return Result(int(value)).name.lower()


def _elasticities(sensitivities: Json) -> list[str]:
    elasticities, stderr = sensitivities["elasticities"], sensitivities["stderr"]
    names = list(next(iter(elasticities.values())))
    lines = ["elasticities d log/d log" + "".join(f"{name:>18}" for name in names)[6:]]
    for observable, values in elasticities.items():
        cells = (_with_error(values[name], stderr[observable][name]) for name in names)
        lines.append(f"  {observable:<16}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def _with_error(value, stderr) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if stderr is None else f"{value:.4f} ± {stderr:.0e}"


def number(value: jax.Array | float) -> float | str | None:
    """A number that JSON can hold: NaN is None, infinity is "inf"."""
    number = float(np.asarray(value))
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return number


def row(name: str, value, stderr) -> str:
    """A line of a table: a number, None where undefined, and its standard error."""
    if value is None:
        return f"  {name:<22} undefined"
    if stderr is None:
        return f"  {name:<22} {value:.6g}"
    return f"  {name:<22} {value:<12.6g} ± {stderr:.1g}"


def _short(value) -> str:
    if value is None:
        return "undefined"
    return value if isinstance(value, str) else f"{value:.2g}"
