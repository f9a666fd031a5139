"""How fine the curves of a figure are, and how large its experiments."""

import dataclasses

import numpy as np

from ..execution import check_numerics
from ..simulation import Setting
from ..simulation.ensemble import check_seeds


@dataclasses.dataclass(frozen=True)
class Scale:
    """Cost and precision of all figures.

    - `samples`, `replicates`: draws of a prediction, as in `predict`; `seed`: of draws and layers.
    - `points`: values along a curve; about half as many of λ' beside figure 1, of Δ_eff in figure 4
      and of β in figure 6, and a quarter for σ = x/T in figure 3.
    - `simulated`: values along a curve at which layers are trained; 0 for theory only.
    - `dims`, `seeds`: of the trained layers; by default those of the paper, or the `quick` ones.
    """

    samples: int = 2**13
    replicates: int = 4
    seed: int = 0
    points: int = 33
    simulated: int = 5
    dims: tuple[int, ...] | None = None
    seeds: int | None = None
    quick: bool = False

    def __post_init__(self):
        check_numerics(self.samples, self.replicates, self.seed)
        if self.seeds is not None:
            check_seeds(self.seeds, self.seed)
        for dim in self.dims or ():
            Setting(dim)


def spread(length: int, count: int) -> np.ndarray:
    """The places of `count` values spread evenly over `length`, both ends included."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int))


FULL = Scale()
QUICK = Scale(samples=2**12, points=17, simulated=4, quick=True)
