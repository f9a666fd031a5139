"""`jaxlora boundary`: the value of a parameter where a solve changes its nature."""

import argparse
import json
import math
import sys
from typing import Any

from .. import boundaries
from ..report import parameters_of
from ..results import Result
from ..tasks import Task
from ._arguments import add_flags, configure, numerics_of, task_of
from ._exit_codes import NOT_SOLVED, OK

KINDS = {
    "collapse": "λ_c: from this λ on Ŵ = 0",
    "zero-branch": "λ'_c: from this λ' on ŵ = 0 is locally stable",
    "replicon-pretraining": "where the replicon of the pre-training is 1",
    "replicon-finetuning": "where the replicon of the fine-tuning is 1",
    "parting": "where the informed and the uninformed fixed point part",
    "transition": "where these two have the same energy",
}


def add_command(commands) -> None:
    """Add `boundary` to the commands."""
    kinds = "; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    parser = commands.add_parser("boundary", help="find a phase boundary", description=kinds)
    parser.set_defaults(work=work, show=show)
    parser.add_argument("kind", choices=tuple(KINDS))
    search = parser.add_argument_group("search, for all kinds but collapse and zero-branch")
    search.add_argument(
        "--along",
        metavar="NAME",
        help=f"parameter to vary, its own flag is ignored: {', '.join(boundaries.PARAMETERS)}",
    )
    search.add_argument(
        "--bracket", type=float, nargs=2, metavar=("LOW", "HIGH"), help="where to look for it"
    )
    add_flags(parser)


def work(parsed: argparse.Namespace) -> tuple[Task, dict[str, Any]]:
    """The task, and the boundary as a JSON object."""
    configure(parsed)
    task = task_of(parsed)
    return task, _find(parsed, task)


def show(parsed: argparse.Namespace, done: tuple[Task, dict[str, Any]]) -> int:
    """Print the boundary; returns the exit code."""
    task, found = done
    if parsed.format == "json":
        report = {"parameters": parameters_of(task), "boundary": parsed.kind, **found}
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:<16} {value:.6g}" if isinstance(value, float) else f"{name:<16} {value}")
    result = Result[found["result"].upper()]
    if not result.successful:
        print(f"jaxlora boundary: not solved: {result.message}", file=sys.stderr)
        return NOT_SOLVED
    return OK


def _find(parsed: argparse.Namespace, task: Task) -> dict[str, Any]:
    numerics = numerics_of(parsed)
    if parsed.kind == "collapse":
        return _pair("lam", boundaries.collapse_boundary(task, **numerics))
    if parsed.kind == "zero-branch":
        found = boundaries.zero_branch_boundary(task, **numerics)
        parts = {
            f"{name}{suffix}": _number(value)
            for name in ("outlier", "edge")
            for suffix, value in zip(("", "_stderr"), getattr(found, name)[:2], strict=True)
        }
        return _pair("lam_ft", found.critical) | parts
    if parsed.along is None or parsed.bracket is None:
        raise ValueError(f"{parsed.kind} needs --along and --bracket")
    search = (parsed.along, tuple(parsed.bracket))
    if parsed.kind == "parting":
        parting = boundaries.parting_boundary(task, *search, **numerics)
        return {
            "along": parsed.along,
            "value": parting.value,
            "energy_gap": _number(parting.energy_gap),
            "lower": parting.lower,
            "result": parting.result.name.lower(),
        }
    if parsed.kind == "transition":
        return _pair(parsed.along, boundaries.transition_boundary(task, *search, **numerics))
    stage = parsed.kind.removeprefix("replicon-")
    return _pair(parsed.along, boundaries.replicon_boundary(task, stage, *search, **numerics))


def _pair(along: str, boundary: boundaries.Boundary) -> dict:
    return {
        "along": along,
        "value": boundary.value,
        "stderr": _number(boundary.stderr),
        "result": boundary.result.name.lower(),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
