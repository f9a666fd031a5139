"""Numerical options of a solve, apart from the physics."""

import dataclasses
import numbers
from typing import Any

import jax

from . import fixed_point, sampling
from .proximal import SOLVERS

PRECISIONS = ("float64", "float32")
SAMPLES, REPLICATES = 2**16, 8  # by default: standard errors of E' below 1e-3 at figure 1


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Options:
    """How to solve. Another `damping`, `tol`, `jump_tol` or `max_iterations` compiles nothing anew.

    - `sampling`: "sobol" (scrambled) or "monte_carlo"; `precision`: "float64" or "float32".
    - `method`: fixed-point iteration, "newton" or the paper's "damped" with the step `damping`.
    - `solver`: of the proximal maps, "newton" (ours), "bfgs" or "lbfgs" (jaxopt's).
    - `exhaustive`: look for further minima of every sample, even where a pilot eighth has none.
    - `tol`: undamped residual that counts as converged; `max_iterations`: map evaluations.
    - `jump_tol`: largest residual that taking all proximal minima anew may leave.
    - `verbose`: log every iteration to stderr.
    """

    sampling: str = _static("sobol")
    precision: str = _static("float64")
    method: str = _static("newton")
    damping: float = 1.0
    solver: str = _static("newton")
    exhaustive: bool = _static(False)
    tol: float = 1e-10
    proximal_tol: float = _static(1e-11)
    jump_tol: float = 1e-2
    max_iterations: int = 300
    verbose: bool = _static(False)

    @property
    def iteration(self) -> dict[str, Any]:
        """The arguments of the fixed-point solver."""
        return {
            "method": self.method,
            "damping": self.damping,
            "tol": self.tol,
            "max_iterations": self.max_iterations,
            "verbose": self.verbose,
        }

    def __post_init__(self):
        for name, value, known in (
            ("sampling", self.sampling, sampling.METHODS),
            ("precision", self.precision, PRECISIONS),
            ("method", self.method, fixed_point.METHODS),
            ("solver", self.solver, SOLVERS),
        ):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: must be one of {', '.join(known)}")
        # JAX puts other things in the place of numbers.
        if isinstance(self.damping, numbers.Real) and not 0 < self.damping <= 1:
            raise ValueError(f"damping = {self.damping}: must be in (0, 1]")

    @classmethod
    def single(cls, **fields: Any) -> "Options":
        """Options for float32, with tolerances that it can reach: errors of 1e-4 to 1e-3."""
        return cls(**({"precision": "float32", "tol": 2e-4, "proximal_tol": 1e-4} | fields))
