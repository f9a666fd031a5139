"""A line on stderr that says how far an experiment is and how long it may still take."""

import math
import time

from ..terminal import StatusLine
from .training import Report


class ProgressLine(StatusLine):
    """Progress of `seeds` seeds; on a terminal, or `always`."""

    def __init__(self, seeds: int, *, always: bool = False):
        super().__init__(always=always)
        self.seeds = seeds
        self.begun = time.monotonic()
        self.done = 0
        self.first: Report | None = None

    def on_seed(self, seed: int) -> None:
        """A seed begins."""
        self.seed = seed
        self.done = 0 if self.first is None else self.done + 1

    def watch(self, stage: str, report: Report) -> None:
        """A training has reached this."""
        if report.iterations == 0 or self.first is None:
            self.first = report
        if self.is_due():
            self.show(
                f"seed {self.seed} ({self.done + 1} of {self.seeds}), {stage}: "
                f"{report.iterations} iterations, gradient {report.gradient:.1e} "
                f"(to {report.tol:.1e}){self._left(report, time.monotonic())}"
            )

    def _left(self, report: Report, now: float) -> str:
        """The time left: gradients fall geometrically, and seeds take about the same time each."""
        assert self.first is not None
        seconds = 0.0
        if self.done:
            seconds = (now - self.begun) / (self.done + 0.5) * (self.seeds - self.done - 0.5)
        elif 0 < report.gradient < self.first.gradient and report.seconds > 0:
            rate = math.log(self.first.gradient / report.gradient) / report.seconds
            rest = max(0.0, math.log(report.gradient / report.tol)) / rate
            seconds = (now - self.begun + rest) * self.seeds - (now - self.begun)
        return f", about {seconds:.0f} s left" if seconds > 0 else ""
