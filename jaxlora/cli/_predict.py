"""`jaxlora predict`: both stages at one parameter point."""

import argparse
import json
import sys
from typing import Any, NamedTuple

from ..bayes import BayesBenchmark, bayes_optimal, samples_beside
from ..checkpoints import CheckpointError
from ..kinks import Kink
from ..outputs import Prediction
from ..prediction import predict_timed
from ..report import add_bayes, add_sensitivities, parameters_of, precision_of, to_json, to_table
from ..saving import check_replaceable, save
from ..sensitivities import Sensitivities, sensitivities
from ..stability import Stability
from ..tasks import Task
from ._arguments import add_flags, configure, numerics_of, task_of
from ._exit_codes import NOT_SOLVED, OK
from ._failures import say

LARGEST_POOR_SHARE = 1e-2  # of posterior averages that go without a warning


def add_command(commands) -> None:
    """Add `predict` to the commands."""
    parser = commands.add_parser("predict", help="predict both stages at one parameter point")
    parser.set_defaults(work=work, show=show)
    add_flags(parser)
    parser.add_argument(
        "--bayes", action="store_true", help="add the Bayes-optimal benchmark of both stages"
    )
    parser.add_argument(
        "--sensitivities",
        action="store_true",
        help="add the elasticities d log/d log θ of every error by every real parameter",
    )
    parser.add_argument(
        "--save", metavar="FILE.nc", help="write task and prediction, for jaxlora.load"
    )


class Predicted(NamedTuple):
    """A prediction of a task, the seconds that it took, and what was asked for beside it."""

    task: Task
    prediction: Prediction
    seconds: dict[str, float]
    benchmark: BayesBenchmark | None
    slopes: Sensitivities | None


def work(parsed: argparse.Namespace) -> Predicted:
    """Predict."""
    configure(parsed)
    task, numerics = task_of(parsed), numerics_of(parsed)
    if parsed.save is not None:
        check_replaceable(parsed.save)
    # The benchmark first: it is what refuses some tasks.
    benchmark = _benchmark(task, numerics) if parsed.bayes else None
    prediction, seconds = predict_timed(task, **numerics)
    slopes = None
    if parsed.sensitivities:
        slopes = sensitivities(task, throw=False, known=prediction, **numerics)
    return Predicted(task, prediction, seconds, benchmark, slopes)


def show(parsed: argparse.Namespace, done: Predicted) -> int:
    """Print the prediction; returns the exit code."""
    task, prediction, seconds, benchmark, slopes = done
    report = {
        "parameters": parameters_of(task),
        **to_json(prediction),
        "precision": precision_of(prediction, parsed.samples),
        "seconds": seconds,
    }
    failures = [prediction.status.failure()]
    if benchmark is not None:
        add_bayes(report, benchmark)
        failures.append(benchmark.status.failure())
    if slopes is not None:
        add_sensitivities(report, slopes)
        failures.append(slopes.prediction.status.failure())
    if parsed.format == "json":
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        print(to_table(report))
    _warn(prediction, benchmark, slopes is not None)
    code = OK
    if failure := " ".join(dict.fromkeys(words for words in failures if words)):
        print(f"jaxlora predict: not solved: {failure}", file=sys.stderr)
        code = NOT_SOLVED
    if parsed.save is not None:
        try:
            save(parsed.save, task, prediction, **numerics_of(parsed))
        except CheckpointError as error:  # after what was found is printed
            return say(parsed.command, error)
    return code


def _benchmark(task: Task, numerics: dict[str, Any]) -> BayesBenchmark:
    numerics = dict(numerics, samples=samples_beside(numerics["samples"], numerics["replicates"]))
    return bayes_optimal(task, throw=False, **numerics)


def _warn(prediction, benchmark, with_slopes: bool) -> None:
    """Say on stderr what a reader of the numbers must know."""
    for name in ("pretraining", "finetuning"):
        stability = Stability(int(getattr(prediction.status, name).stability))
        if stability in (Stability.UNDECIDED, Stability.UNSTABLE):
            print(f"jaxlora predict: warning: {name}: {stability.message}", file=sys.stderr)
        if with_slopes:
            for message in Kink(int(getattr(prediction.status, name).kinks)).messages:
                print(f"jaxlora predict: warning: {name}: {message}", file=sys.stderr)
    if benchmark is None:
        return
    prefix = "jaxlora predict: warning: Bayes-optimal benchmark:"
    if bool(benchmark.status.is_bound):
        print(
            f"{prefix} for reused sequences with α' < 1 it is a bound only, at q = 1.",
            file=sys.stderr,
        )
    poor = float(benchmark.status.poor_share)
    if poor > LARGEST_POOR_SHARE:
        print(
            f"{prefix} on {100 * poor:.2g} % of the samples the posterior average rests on fewer "
            "than ten independent nodes.",
            file=sys.stderr,
        )
