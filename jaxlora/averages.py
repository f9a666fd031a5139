"""What the equations of a stage average over the samples of a replicate."""

from typing import Any, NamedTuple

import jax


class Averages(NamedTuple):
    """A stage's conjugates, and what its status and its replicon are read from.

    `stein_gap` is by how much the response's form of Stein's lemma differs from the form before, as
    a share; `response_norm` is E|X|²_F of the samples' responses X = L (I + V L)⁻¹, `unseen_norm`
    what rare samples may add to it (see `tails`).
    """

    conjugates: Any
    stein_gap: jax.Array
    response_norm: jax.Array
    unseen_norm: jax.Array

    def unseen(self) -> "Averages":
        """The same with what rare samples may add to the norm in its place."""
        return self._replace(response_norm=self.unseen_norm)
