"""`jaxlora figure`: the figures of the paper, with their data."""

import argparse
import dataclasses
import json
import sys
import time

from tqdm import tqdm

from ..checkpoints import CheckpointError
from ..figures import FIGURES, FULL, QUICK, Figure, Scale, make_figure
from ._arguments import add_machine, configure
from ._exit_codes import BAD_INPUT, NOT_WRITTEN, OK


def add_command(commands) -> None:
    """Add `figure` to the commands."""
    parser = commands.add_parser(
        "figure",
        help="draw figures of the paper",
        description="Solves the theory and trains the layers of figures of arXiv:2606.05899, draws "
        "them, and says what became of the paper's conclusions. Run again, an interrupted figure "
        "goes on where it was.",
    )
    parser.set_defaults(run=run, precision="float64")
    parser.add_argument(
        "numbers", type=int, nargs="+", metavar="N", help=f"of figures, 1 to {len(FIGURES)}"
    )
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


def run(parsed: argparse.Namespace) -> int:
    """Draw and print; returns the exit code."""
    start, made = time.monotonic(), []
    try:
        configure(parsed)
        scale = _scale(parsed)
        for number in parsed.numbers:
            if number not in FIGURES:
                raise ValueError(f"figure = {number}: must be from 1 to {len(FIGURES)}")
        for number in parsed.numbers:
            with tqdm(
                desc=f"figure {number}",
                unit=" points",
                disable=True if parsed.quiet else None,
                dynamic_ncols=True,
            ) as bar:
                made.append(make_figure(number, parsed.out, scale, watch=_watch(bar)))
            if parsed.format == "table":
                print(_table(made[-1]), flush=True)
    except ValueError as error:
        print(f"jaxlora figure: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except CheckpointError as error:
        print(f"jaxlora figure: not written: {error}", file=sys.stderr)
        return NOT_WRITTEN
    except OSError as error:
        print(f"jaxlora figure: not written: {parsed.out}: {error.strerror}", file=sys.stderr)
        return NOT_WRITTEN
    seconds = time.monotonic() - start
    if parsed.format == "json":
        print(
            json.dumps({"figures": [_to_json(one) for one in made], "seconds": seconds}, indent=1)
        )
    else:
        print(f"{seconds:.0f} s")
    return OK


def _scale(parsed: argparse.Namespace) -> Scale:
    scale = QUICK if parsed.quick else FULL
    changes = {"seeds": parsed.seeds, "samples": parsed.samples, "seed": parsed.seed}
    changes["dims"] = None if parsed.dims is None else tuple(parsed.dims)
    if parsed.theory_only:
        changes["simulated"] = 0
    return dataclasses.replace(scale, **{k: v for k, v in changes.items() if v is not None})


def _watch(bar: tqdm):
    def watch(progress) -> None:
        bar.total, bar.initial, bar.n = progress.total, progress.loaded, progress.done
        bar.refresh()

    return watch


def _table(figure: Figure) -> str:
    lines = [f"{figure.picture}, data in {figure.data}"]
    for claim in figure.claims:
        lines += [f"  {claim.statement}: {claim.verdict}", f"    {claim.numbers}"]
    return "\n".join(lines)


def _to_json(figure: Figure) -> dict:
    return {
        "figure": figure.number,
        "picture": str(figure.picture),
        "data": str(figure.data),
        "claims": [claim._asdict() | {"verdict": claim.verdict} for claim in figure.claims],
    }
