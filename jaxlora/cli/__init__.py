"""The command line: parses, calls the library, prints."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from .. import __version__
from . import _boundary, _compare, _figure, _plot, _predict, _simulate, _sweep, _tune
from ._exit_codes import BAD_INPUT, OK
from ._failures import FAILURES, say


def run_as_process() -> int:
    """`main` as a process of its own, which Ctrl-C ends at once."""
    # Python would raise KeyboardInterrupt only once the compiled solve had returned. Where the
    # process was started with the signal ignored, as in the background of a script, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `jaxlora`; returns the exit code."""
    try:
        parsed = _parser().parse_args(arguments)
        try:
            done = parsed.work(parsed)
        except tuple(FAILURES) as error:
            return say(parsed.command, error)
        # Here an error is one of ours, to be seen as it is.
        return parsed.show(parsed, done)
    except BrokenPipeError:
        # Whoever read our output has gone; Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str):
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxlora",
        description="LoRA fine-tuning in a solvable attention model: theory and experiments.",
    )
    parser.add_argument("--version", action="version", version=f"jaxlora {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    _predict.add_command(commands)
    _simulate.add_command(commands)
    _compare.add_command(commands)
    _boundary.add_command(commands)
    _tune.add_command(commands)
    _sweep.add_command(commands)
    _plot.add_commands(commands)
    _figure.add_command(commands)
    return parser
