"""`jaxlora figure`: the figures of the paper, with their data."""

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING

from ..report import number
from ._arguments import add_machine, configure
from ._bars import bar_of_points, watch_by
from ._exit_codes import NOT_SOLVED, OK
from ._failures import NotWrittenError

if TYPE_CHECKING:
    from ..figures import Figure, Scale


def add_command(commands) -> None:
    """Add `figure` to the commands."""
    parser = commands.add_parser(
        "figure",
        help="draw figures of the paper",
        description="Solves the theory and trains the layers of figures of arXiv:2606.05899, draws "
        "them, and says what became of the paper's conclusions. Run again, an interrupted figure "
        "goes on where it was.",
    )
    parser.set_defaults(work=work, show=show, precision="float64")
    parser.add_argument("numbers", type=int, nargs="+", metavar="N", help="of figures, 1 to 6")
    parser.add_argument("--out", default="figures", metavar="DIR", help="default: figures")
    parser.add_argument("--quick", action="store_true", help="coarser curves, smaller layers")
    parser.add_argument("--theory-only", action="store_true", help="no trained layers")
    parser.add_argument(
        "--dims", type=int, nargs="+", metavar="D", help="of the layers; default: the paper's"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="of the layers")
    parser.add_argument("--samples", type=int, metavar="N", help="draws of a prediction")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_machine(parser.add_argument_group("machine"))


def work(parsed: argparse.Namespace) -> "tuple[list[Figure], float]":
    """Draw; the figures, and the seconds that they took."""
    from ..figures import check_figures  # xarray, which takes most of a second

    start = time.monotonic()
    configure(parsed)
    scale = _scale(parsed)
    check_figures(parsed.numbers, scale)
    return [_draw(number, scale, parsed) for number in parsed.numbers], time.monotonic() - start


def _draw(number: int, scale: "Scale", parsed: argparse.Namespace) -> "Figure":
    from ..figures import make_figure

    with bar_of_points(parsed.quiet, f"figure {number}") as bar:
        try:
            return make_figure(number, parsed.out, scale, watch=watch_by(bar))
        except OSError as error:
            raise NotWrittenError(f"{parsed.out}: {error.strerror}") from error


def show(parsed: argparse.Namespace, done: "tuple[list[Figure], float]") -> int:
    """Print what became of the claims; returns the exit code."""
    figures, seconds = done
    if parsed.format == "json":
        report = {"figures": [_to_json(one) for one in figures], "seconds": seconds}
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        print("\n\n".join(map(_table, figures)), f"\n\n{seconds:.0f} s", sep="")
    for figure in figures:
        for name, found in figure.failed.items():
            for stage, count in found.items():
                where = f"figure {figure.number}, {name}"
                print(
                    f"jaxlora figure: warning: {where}: {stage}: {count} points failed",
                    file=sys.stderr,
                )
    return NOT_SOLVED if any(figure.failed for figure in figures) else OK


def _scale(parsed: argparse.Namespace) -> "Scale":
    from ..figures import FULL, QUICK

    scale = QUICK if parsed.quick else FULL
    changes = {"seeds": parsed.seeds, "samples": parsed.samples, "seed": parsed.seed}
    changes["dims"] = None if parsed.dims is None else tuple(parsed.dims)
    if parsed.theory_only:
        changes["simulated"] = 0
    return dataclasses.replace(scale, **{k: v for k, v in changes.items() if v is not None})


def _table(figure: "Figure") -> str:
    lines = [f"{figure.picture}, data in {figure.data}"]
    for claim in figure.claims:
        lines += [f"  {claim.statement}: {claim.verdict}", f"    {claim.numbers}"]
    return "\n".join(lines)


def _to_json(figure: "Figure") -> dict:
    return {
        "figure": figure.number,
        "picture": str(figure.picture),
        "data": str(figure.data),
        "failed": figure.failed,
        "claims": [
            claim._asdict() | {"holds": number(claim.holds), "verdict": claim.verdict}
            for claim in figure.claims
        ],
    }
