"""`python -m jaxlora`."""

import sys

from .cli import run_as_process

sys.exit(run_as_process())
