"""A line on stderr that says how far something is."""

import sys
import time

INTERVAL = 2.0  # seconds between lines


class StatusLine:
    """A line that rewrites itself on a terminal; with `always`, lines one below the other."""

    def __init__(self, *, always: bool = False):
        self.active = always or sys.stderr.isatty()
        self.rewrites = sys.stderr.isatty() and not always
        self.printed = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.rewrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def is_due(self) -> bool:
        """Whether it is time for another line."""
        return self.active and time.monotonic() - self.printed >= INTERVAL

    def show(self, words: str) -> None:
        """Print a line."""
        self.printed = time.monotonic()
        start, end = ("\r\033[K", "") if self.rewrites else ("", "\n")
        print(start + words, end=end, file=sys.stderr, flush=True)
