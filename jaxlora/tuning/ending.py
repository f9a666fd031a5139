"""How a search ended, in words that people read."""

import enum


class Ending(enum.Enum):
    """Why a search stopped at the point that it reports."""

    CONVERGED = "converged"
    JUMPS = "jumps"
    BRANCHES = "branches"
    UNFINISHED = "unfinished"

    @property
    def successful(self) -> bool:
        """Whether the point is an optimum within its error bars."""
        return self in (Ending.CONVERGED, Ending.JUMPS)

    @property
    def message(self) -> str:
        """The ending in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Ending.CONVERGED: "The gradient is below the tolerance.",
    Ending.JUMPS: (
        "The objective moves in steps, as samples change between minima of their proximal map. One "
        "is larger than what is left to gain, and the optimum is within the error bars."
    ),
    Ending.BRANCHES: (
        "Two branches of the fine-tuning have the same energy there, and the objective changes "
        "abruptly where one takes the place of the other."
    ),
    Ending.UNFINISHED: "The evaluations ran out; try more of them, other bounds or more starts.",
}
