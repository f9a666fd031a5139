"""`jaxlora compare`: theory and experiment of the same parameters side by side."""

import argparse
import json
import sys
import time
from typing import Any, NamedTuple

from ..outputs import Prediction
from ..plotting import check_spectrum, save_spectrum
from ..prediction import predict
from ..report import number, parameters_of, to_json
from ..simulation import Simulation
from ..simulation.comparison import Observable, compare
from ..simulation.ensemble import check
from ..simulation.report import simulation_to_json
from ..tasks import Task
from ._arguments import add_flags, check_picture, configure, numerics_of, task_of
from ._exit_codes import NOT_SOLVED, OK
from ._failures import NotWrittenError, say
from ._simulate import add_experiment, setting_of, simulate_as_asked


def add_command(commands) -> None:
    """Add `compare` to the commands."""
    parser = commands.add_parser("compare", help="theory and experiment side by side")
    parser.set_defaults(work=work, show=show)
    add_flags(parser)
    group = add_experiment(parser)
    group.add_argument("--dim", type=int, nargs="+", required=True, metavar="D", help="dimensions")
    group.add_argument(
        "--spectrum", metavar="FILE", help="draw the eigenvalues of Ŝ/√D at the largest D"
    )


class Compared(NamedTuple):
    """Theory and experiment of a task, and the seconds that both took."""

    task: Task
    prediction: Prediction
    simulations: list[Simulation]
    observables: list[Observable]
    seconds: float


def work(parsed: argparse.Namespace) -> Compared:
    """Solve and simulate."""
    start = time.monotonic()
    configure(parsed)
    task, prediction, simulations = _run(parsed)
    observables = compare(prediction, simulations)
    return Compared(task, prediction, simulations, observables, time.monotonic() - start)


def show(parsed: argparse.Namespace, done: Compared) -> int:
    """Print both side by side, and draw the spectrum; returns the exit code."""
    task, prediction, simulations, observables, seconds = done
    if parsed.format == "json":
        report = {
            "parameters": parameters_of(task),
            "theory": to_json(prediction),
            "simulations": [_without_parameters(simulation) for simulation in simulations],
            "comparison": [_to_json(observable) for observable in observables],
            "seconds": seconds,
        }
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        print(_to_table(task, observables))
    failures = [prediction.status.failure(), *(s.failure() for s in simulations)]
    code = OK
    if failure := " ".join(words for words in failures if words):
        print(f"jaxlora compare: not solved: {failure}", file=sys.stderr)
        code = NOT_SOLVED
    if parsed.spectrum is not None:
        largest = max(simulations, key=lambda simulation: simulation.setting.dimension)
        try:
            save_spectrum(parsed.spectrum, prediction, largest)
        except OSError as error:  # after what was found is printed
            return say(parsed.command, NotWrittenError(error))
    return code


def _run(parsed: argparse.Namespace) -> tuple[Task, Prediction, list[Simulation]]:
    task = task_of(parsed)
    if parsed.spectrum is not None:
        check_picture("spectrum", parsed.spectrum)
        check_spectrum(task)
    if len(set(parsed.dim)) < len(parsed.dim):
        raise ValueError(f"dim = {parsed.dim}: must not repeat")
    settings = [setting_of(parsed, dimension) for dimension in parsed.dim]
    for setting in settings:
        check(task, setting)
    prediction = predict(task, throw=False, **numerics_of(parsed))
    return task, prediction, [simulate_as_asked(parsed, task, setting) for setting in settings]


def _without_parameters(simulation: Simulation) -> dict[str, Any]:
    report = simulation_to_json(simulation)
    del report["parameters"]
    return report


def _to_json(observable: Observable) -> dict[str, Any]:
    def numbers(values) -> dict[str, Any]:
        return {k: number(v) if isinstance(v, float) else v for k, v in values._asdict().items()}

    return {
        "stage": observable.stage,
        "name": observable.name,
        "theory": number(observable.theory),
        "theory_stderr": number(observable.theory_stderr),
        "sizes": [numbers(size) for size in observable.sizes],
        "trend": None if observable.trend is None else numbers(observable.trend),
    }


def _to_table(task: Task, observables: list[Observable]) -> str:
    dimensions = [size.dimension for size in observables[0].sizes]
    trended = any(observable.trend is not None for observable in observables)
    header = ["", "theory", *(f"D = {D}" for D in dimensions), *(f"z({D})" for D in dimensions)]
    if trended:
        header += ["D → ∞", "z(∞)", "c of c/√D", "b of b/D"]
    lines = [header]
    stage = None
    for observable in observables:
        if observable.stage != stage:
            stage = observable.stage
            lines.append([stage])
        cells = ["  " + observable.name, _pair(observable.theory, observable.theory_stderr)]
        cells += [_pair(size.value, size.stderr) for size in observable.sizes]
        cells += [_z(size.z) for size in observable.sizes]
        if (trend := observable.trend) is not None:
            cells += [_pair(trend.limit, trend.limit_stderr), _z(trend.z)]
            cells.append(_pair(trend.root, trend.root_stderr))
            cells.append(_pair(trend.slope, trend.slope_stderr))
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(header))]
    parameters = "  ".join(f"{k}={v}" for k, v in parameters_of(task).items() if v is not None)
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip()
        for line in lines
    ]
    notes = [
        "z: differences from the theory in standard errors of both. Of N seeds they scatter like",
        "Student's t of N - 1 degrees of freedom. At finite D they include what falls with D, as",
        "c/√D + b/D away from collapse and where replicons are below 1. D → ∞ is what a fit of it",
        "leaves, with c of the order of the number itself; c = 0 for a given pre-training.",
    ]
    return "\n".join([parameters, "", *table, "", *notes])


def _pair(value: float, stderr: float) -> str:
    return f"{value:.4f} ± {stderr:.0e}" if stderr > 0 else f"{value:.4f}"


def _z(z: float) -> str:
    return f"{z:+.1f}" if z == z else "-"
