"""`jaxlora tune`: the hyperparameters of least error, or of largest overlap."""

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

from ..kinks import Kink
from ..report import number, parameters_of, row, to_json
from ..terminal import StatusLine
from ..tuning import BOUNDS, OBJECTIVES, Evaluation, Tuned, tune
from ..tuning.descent import DESCENTS
from ..tuning.search import SAMPLES
from ._arguments import add_flags, configure, numerics_of, task_of
from ._exit_codes import NOT_SOLVED, OK


def add_command(commands) -> None:
    """Add `tune` to the commands."""
    parser = commands.add_parser(
        "tune",
        help="find the best hyperparameters",
        description="Tunes by exact gradients, from the task of the flags and from other starts.",
    )
    parser.set_defaults(work=work, show=show)
    add_flags(parser)
    parser.set_defaults(samples=SAMPLES)
    group = parser.add_argument_group("tuning")
    group.add_argument(
        "--objective",
        choices=tuple(OBJECTIVES),
        default="error_ft",
        help="error_ft E', error E, forgetting E'', effective_noise Δ_eff: minimised; "
        "overlap o_w: maximised",
    )
    group.add_argument(
        "--over",
        nargs="+",
        default=["lam", "lam_ft"],
        metavar="NAME[=LOW,HIGH]",
        help=f"parameters to tune, within bounds: {', '.join(BOUNDS)}",
    )
    group.add_argument("--starts", type=int, default=3, metavar="N", help="descents")
    group.add_argument("--optimiser", choices=tuple(DESCENTS), default="lbfgs")
    group.add_argument(
        "--tol", type=float, default=1e-4, metavar="X", help="of the relative gradient"
    )
    group.add_argument(
        "--max-evaluations", type=int, default=40, metavar="N", help="gradients a start"
    )


def work(parsed: argparse.Namespace) -> tuple[Tuned, float]:
    """Tune; the result, and the seconds that it took."""
    start = time.monotonic()
    configure(parsed)
    task, over = task_of(parsed), dict(map(_bounds, parsed.over))
    with StatusLine(always=parsed.verbose) as line:
        tuned = tune(
            task,
            over,
            parsed.objective,
            starts=parsed.starts,
            optimiser=parsed.optimiser,
            tol=parsed.tol,
            max_evaluations=parsed.max_evaluations,
            watch=_watch(line, parsed),
            **_silent(numerics_of(parsed)),
        )
    return tuned, time.monotonic() - start


def show(parsed: argparse.Namespace, done: tuple[Tuned, float]) -> int:
    """Print what was found; returns the exit code."""
    tuned, seconds = done
    report = _to_json(tuned) | {"seconds": seconds}
    print(
        json.dumps(report, allow_nan=False, indent=1) if parsed.format == "json" else _table(report)
    )
    for name in ("pretraining", "finetuning"):
        for message in Kink(int(getattr(tuned.prediction.status, name).kinks)).messages:
            print(f"jaxlora tune: warning: {name}: {message}", file=sys.stderr)
    if not tuned.converged:
        kind = "warning" if tuned.ending.successful else "not solved"
        print(
            f"jaxlora tune: {kind}: the gradient at the best point is {tuned.gradient_norm:.1e}, "
            f"above {parsed.tol:g}. {tuned.ending.message}",
            file=sys.stderr,
        )
    return OK if tuned.ending.successful else NOT_SOLVED


def _bounds(words: str) -> tuple[str, tuple[float, float]]:
    """NAME or NAME=LOW,HIGH."""
    name, _, ends = words.partition("=")
    if name not in BOUNDS:
        raise ValueError(f"over = {name!r}: must be one of {', '.join(BOUNDS)}")
    if not ends:
        return name, BOUNDS[name]
    try:
        low, high = map(float, ends.split(","))
    except ValueError:
        raise ValueError(f"over = {words!r}: must be {name}=LOW,HIGH with two numbers") from None
    return name, (low, high)


def _watch(line: StatusLine, parsed: argparse.Namespace):
    def watch(evaluation: Evaluation) -> None:
        if line.is_due():
            values = "  ".join(f"{k}={v:.4g}" for k, v in evaluation.values.items())
            which = (
                f"start {evaluation.start} of {parsed.starts}" if evaluation.start else "refining"
            )
            line.show(
                f"{which}, evaluation {evaluation.number}: "
                f"{values}  {parsed.objective} {evaluation.objective:.6g}, "
                f"gradient {evaluation.gradient:.1e} (to {parsed.tol:.0e})"
            )

    return watch


def _silent(numerics: dict[str, Any]) -> dict[str, Any]:
    """The same without a log of every solve: the evaluations are what there is to follow."""
    return numerics | {"options": dataclasses.replace(numerics["options"], verbose=False)}


def _to_json(tuned: Tuned) -> dict[str, Any]:
    return {
        "parameters": parameters_of(tuned.task),
        "objective": tuned.objective,
        "value": number(tuned.value),
        "stderr": number(tuned.stderr),
        "improvement": number(tuned.improvement),
        "improvement_stderr": number(tuned.improvement_stderr),
        "tuned": {
            name: {
                "value": number(optimum.value),
                "stderr": number(optimum.stderr),
                "at_bound": bool(optimum.at_bound),
                "gradient": number(optimum.gradient),
            }
            for name, optimum in tuned.parameters.items()
        },
        "gradient_norm": number(tuned.gradient_norm),
        "curvature": [number(x) for x in tuned.curvature],
        "jump": number(tuned.jump),
        "evaluations": tuned.evaluations,
        "ending": tuned.ending.value,
        "converged": tuned.converged,
        "prediction": to_json(tuned.prediction),
    }


def _table(report: dict[str, Any]) -> str:
    lines = ["  ".join(f"{k}={v}" for k, v in report["parameters"].items() if v is not None), ""]
    lines.append(row(report["objective"], report["value"], report["stderr"]))
    lines.append(row("improvement", report["improvement"], report["improvement_stderr"]))
    for name, optimum in report["tuned"].items():
        held = "  (at its bound)" if optimum["at_bound"] else ""
        lines.append(row(name, optimum["value"], optimum["stderr"]) + held)
    curvature = ", ".join("undefined" if x is None else f"{x:.3g}" for x in report["curvature"])
    lines += ["", f"  relative gradient {report['gradient_norm']:.1e}, curvature {curvature}"]
    lines.append(f"  {report['evaluations']} evaluations, {report['seconds']:.1f} s")
    return "\n".join(lines)
