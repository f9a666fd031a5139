"""What can be tuned: functions of a prediction, by name or a user's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..sensitivities import OBSERVABLES

# Of anything with the fields `pretraining` and `finetuning` of a prediction: its replicates too.
Observe = Callable[[Any], jax.Array]


class Objective(NamedTuple):
    """A number to make small, or large where `maximised`."""

    name: str
    observe: Observe
    maximised: bool = False

    def cost(self, prediction: Any) -> jax.Array:
        """What is minimised."""
        value = self.observe(prediction)
        return -value if self.maximised else value


OBJECTIVES = {
    name: Objective(name, OBSERVABLES[name], maximised=name == "overlap")
    for name in ("error_ft", "error", "forgetting", "effective_noise", "overlap")
}


def as_objective(objective: str | Observe | Objective) -> Objective:
    """An objective by its name, or a function to minimise; raises ValueError for another name."""
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, str):
        if objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise ValueError(f"objective = {objective!r}: must be one of {known}, or a function")
        return OBJECTIVES[objective]
    return Objective(getattr(objective, "__name__", "objective"), objective)
