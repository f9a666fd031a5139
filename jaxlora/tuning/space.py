"""The box of hyperparameters in which an optimum is sought, in logarithmic coordinates."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ..tasks import Task

# Where to look unless told: beyond, the errors no longer change or the solves become hard.
BOUNDS = {
    "kappa0": (0.01, 10.0),
    "kappa": (1.0, 10.0),
    "alpha": (0.01, 10.0),
    "delta": (0.01, 10.0),
    "lam": (0.003, 1.0),
    "alpha_ft": (0.3, 30.0),
    "lam_ft": (0.01, 10.0),
    "beta": (0.05, 5.0),
}
Bounds = Sequence[str] | Mapping[str, tuple[float, float]]


class Space(NamedTuple):
    """Variables by name, their bounds and the start; `build` makes a task of their values.

    Coordinates (k,) are natural logarithms of the values.
    """

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    build: Callable[[dict[str, jax.Array]], Task]

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The bounds of every variable's value."""
        ends = zip(np.exp(self.low).tolist(), np.exp(self.high).tolist(), strict=True)
        return dict(zip(self.names, ends, strict=True))

    def task(self, x: jax.Array) -> Task:
        """The task at the coordinates x."""
        return self.build(dict(zip(self.names, jnp.exp(x), strict=True)))

    def starts(self, count: int, seed: int) -> np.ndarray:
        """The start and points spread over the box, (count, k)."""
        spread = qmc.Sobol(len(self.names), rng=np.random.default_rng(seed)).random_base2(
            max(0, math.ceil(math.log2(max(count - 1, 1))))
        )
        others = self.low + (self.high - self.low) * spread[: count - 1]
        return np.concatenate([self.start[None], others])

    def is_held(self, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Which coordinates a bound holds, as less cost lies beyond it."""
        margin = 1e-9 * (self.high - self.low)
        below, above = x <= self.low + margin, x >= self.high - margin
        return (below & (gradient > 0)) | (above & (gradient < 0))

    def free_gradient(self, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The gradient without what points out of the box at a bound."""
        return np.where(self.is_held(x, gradient), 0.0, gradient)


def make_space(values: Mapping[str, float], bounds: Mapping[str, tuple[float, float]], build):
    """The space of the variables `values` within `bounds`, started from the nearest point to them.

    Raises ValueError for bounds that are not positive, finite and increasing.
    """
    for name, pair in bounds.items():
        low, high = pair
        if not 0 < low < high < math.inf:
            raise ValueError(
                f"bounds of {name} = ({low:g}, {high:g}): must be positive, finite and increasing"
            )
    low, high = (np.log([bounds[name][end] for name in bounds]) for end in (0, 1))
    start = np.clip(np.log([max(float(values[name]), 1e-300) for name in bounds]), low, high)
    return Space(tuple(bounds), low, high, start, build)


def hyperparameter_space(task: Task, over: Bounds) -> Space:
    """The space of parameters of `task` that `over` names, with their bounds or `BOUNDS`.

    Raises ValueError for a parameter that cannot be tuned, or that the task does not have.
    """
    if isinstance(over, str):
        over = (over,)
    if not over:
        raise ValueError("over is empty: must name a parameter to tune")
    for name in over:
        if name not in BOUNDS:
            raise ValueError(f"over = {name!r}: must be one of {', '.join(BOUNDS)}")
        if getattr(task, name) is None:
            raise ValueError(f"over = {name!r}: the task does not have it")
    bounds = dict(over) if isinstance(over, Mapping) else {name: BOUNDS[name] for name in over}

    def build(values) -> Task:
        dtype = task.delta.dtype
        new = [jnp.asarray(values[name], dtype) for name in bounds]
        return eqx.tree_at(lambda t: [getattr(t, name) for name in bounds], task, new)

    return make_space({name: getattr(task, name) for name in bounds}, bounds, build)
