"""A line on stderr that says how far an experiment is and how long it may still take."""

import math
import sys
import time

from .training import Report

INTERVAL = 2.0  # seconds between lines


class ProgressLine:
    """Progress of `seeds` seeds; on a terminal, or `always`."""

    def __init__(self, seeds: int, *, always: bool = False):
        self.seeds = seeds
        self.active = always or sys.stderr.isatty()
        self.rewrites = sys.stderr.isatty() and not always
        self.begun = self.printed = time.monotonic()
        self.done = 0
        self.first: Report | None = None

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *_) -> None:
        if self.rewrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def on_seed(self, seed: int) -> None:
        """A seed begins."""
        self.seed = seed
        self.done = 0 if self.first is None else self.done + 1

    def watch(self, stage: str, report: Report) -> None:
        """A training has reached this."""
        if report.iterations == 0 or self.first is None:
            self.first = report
        now = time.monotonic()
        if not self.active or now - self.printed < INTERVAL:
            return
        self.printed = now
        words = (
            f"seed {self.seed} ({self.done + 1} of {self.seeds}), {stage}: "
            f"{report.iterations} iterations, gradient {report.gradient:.1e} "
            f"(to {report.tol:.1e}){self._left(report, now)}"
        )
        start, end = ("\r\033[K", "") if self.rewrites else ("", "\n")
        print(start + words, end=end, file=sys.stderr, flush=True)

    def _left(self, report: Report, now: float) -> str:
        """The time left: gradients fall geometrically, and seeds take about the same time each."""
        assert self.first is not None
        seconds = 0.0
        if self.done:
            seconds = (now - self.begun) / (self.done + 0.5) * (self.seeds - self.done - 0.5)
        elif 0 < report.gradient < self.first.gradient and report.seconds > 0:
            rate = math.log(self.first.gradient / report.gradient) / report.seconds
            one = report.seconds + max(0.0, math.log(report.gradient / report.tol)) / rate
            seconds = one * self.seeds - report.seconds
        return f", about {seconds:.0f} s left" if seconds > 0 else ""
