"""The command line: parses, calls the library, prints."""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import jax

from . import __version__
from .activations import ACTIVATIONS
from .options import PRECISIONS, Options
from .prediction import predict_timed
from .report import parameters_of, to_json, to_table
from .tasks import Task

OK, BAD_INPUT, NOT_SOLVED, INTERRUPTED = 0, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `jaxlora`; returns the exit code."""
    try:
        parsed = _parser().parse_args(arguments)
        return parsed.run(parsed)
    except KeyboardInterrupt:
        print("jaxlora: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _predict(parsed: argparse.Namespace) -> int:
    _configure(parsed)
    try:
        task = Task(
            tokens=parsed.tokens,
            activation=parsed.activation,
            kappa0=parsed.kappa0,
            kappa=parsed.kappa,
            alpha=parsed.alpha,
            delta=parsed.delta,
            lam=parsed.lam,
            alpha_ft=parsed.alpha_ft,
            lam_ft=parsed.lam_ft,
            reuse=parsed.reuse,
            beta=parsed.beta,
            active_ratio=parsed.active_ratio,
            given=parsed.given,
        )
        options = Options.single() if parsed.precision == "float32" else Options()
        prediction, seconds = predict_timed(
            task,
            samples=parsed.samples,
            replicates=parsed.replicates,
            seed=parsed.seed,
            options=dataclasses.replace(options, verbose=parsed.verbose),
        )
    except ValueError as error:
        print(f"jaxlora predict: error: {error}", file=sys.stderr)
        return BAD_INPUT
    report = {"parameters": parameters_of(task), **to_json(prediction), "seconds": seconds}
    if parsed.format == "json":
        print(json.dumps(report, allow_nan=False, indent=1))
    else:
        print(to_table(report))
    if failure := prediction.status.failure():
        print(f"jaxlora predict: not solved: {failure}", file=sys.stderr)
        return NOT_SOLVED
    return OK


def _configure(parsed: argparse.Namespace) -> None:
    """JAX's settings for this process: float64 and a cache of compiled programs."""
    jax.config.update("jax_enable_x64", parsed.precision == "float64")
    if parsed.cache and not jax.config.values["jax_compilation_cache_dir"]:
        root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(root) / "jaxlora"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str):
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxlora",
        description="Theory of LoRA fine-tuning in a solvable attention model.",
    )
    parser.add_argument("--version", action="version", version=f"jaxlora {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    predict = commands.add_parser("predict", help="predict both stages at one parameter point")
    predict.set_defaults(run=_predict)
    _add_task(predict.add_argument_group("task"))
    _add_numerics(predict.add_argument_group("numerics"))
    output = predict.add_argument_group("output")
    output.add_argument("--format", choices=("table", "json"), default="table")
    output.add_argument("--verbose", action="store_true", help="log the iterations to stderr")
    return parser


def _add_task(group) -> None:
    group.add_argument("--tokens", type=int, required=True, help="T, tokens in a sequence")
    group.add_argument(
        "--activation", default="softmax", metavar="NAME", help=" or ".join(sorted(ACTIVATIONS))
    )
    for flag, words in (
        ("--kappa0", "rank of the teacher over D"),
        ("--kappa", "rank of the student over D, at least 1"),
        ("--alpha", "pre-training samples over D²"),
        ("--lam", "pre-training ridge λ; inf: no pre-training"),
    ):
        group.add_argument(flag, type=float, metavar="X", help=words)
    for flag, words in (
        ("--delta", "label noise Δ"),
        ("--alpha-ft", "labelled fine-tuning samples over D"),
        ("--lam-ft", "fine-tuning ridge λ'; inf: no fine-tuning"),
    ):
        group.add_argument(flag, type=float, required=True, metavar="X", help=words)
    group.add_argument("--reuse", action="store_true", help="fine-tune on pre-training sequences")
    group.add_argument(
        "--given",
        type=float,
        nargs=3,
        metavar=("Q0", "Q", "M"),
        help="an effective pre-training, in place of kappa0, kappa, alpha and lam",
    )
    group.add_argument("--beta", type=float, default=1.0, metavar="X", help="recalibration β")
    group.add_argument(
        "--active-ratio", type=float, default=1.0, metavar="X", help="share ρ labelled actively"
    )


def _add_numerics(group) -> None:
    group.add_argument("--samples", type=int, default=2**15, metavar="N", help="draws in all")
    group.add_argument("--replicates", type=int, default=8, metavar="N", help="for error bars")
    group.add_argument("--seed", type=int, default=0, metavar="N")
    group.add_argument("--precision", choices=PRECISIONS, default="float64")
    group.add_argument(
        "--no-cache", dest="cache", action="store_false", help="compile anew, keep nothing"
    )


if __name__ == "__main__":
    sys.exit(main())
