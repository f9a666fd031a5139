"""Errors that a command ends with: a line on stderr and an exit code."""

import sys

from ..checkpoints import CheckpointError
from ..outputs import ConvergenceError
from ..sweeps import LostWorkersError
from ._exit_codes import BAD_INPUT, NOT_SOLVED, NOT_WRITTEN


class NotWrittenError(Exception):
    """The disk did not take a file."""


# What each is called, and the exit code.
FAILURES: dict[type[Exception], tuple[str, int]] = {
    ValueError: ("error", BAD_INPUT),
    CheckpointError: ("not written", NOT_WRITTEN),
    NotWrittenError: ("not written", NOT_WRITTEN),
    ConvergenceError: ("not solved", NOT_SOLVED),
    LostWorkersError: ("not done", NOT_SOLVED),
}


def say(command: str, error: Exception) -> int:
    """Say in one line how a command failed; returns the exit code."""
    words, code = next(how for kind, how in FAILURES.items() if isinstance(error, kind))
    print(f"jaxlora {command}: {words}: {error}", file=sys.stderr)
    return code
