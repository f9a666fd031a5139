"""Which points a sweep consists of."""

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..activations import as_activation
from ..tasks import Task, refusal

STATIC = ("tokens", "activation", "reuse")
REAL = ("kappa0", "kappa", "alpha", "delta", "lam", "alpha_ft", "lam_ft", "beta", "active_ratio")
PARAMETERS = (*STATIC, *REAL, "given")
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Task.__init__).parameters.items()
    if parameter.default not in (None, parameter.empty)
}
GIVEN_REPLACES = ("kappa0", "kappa", "alpha", "lam")
KINDS, SCALES = ("grid", "list"), ("lin", "log")


@dataclasses.dataclass(frozen=True)
class Design:
    """Points in the space of all parameters of a task.

    `axes` are the swept parameters with their values, `fixed` the others. A "grid" has every
    combination, in the order of the axes; a "list" the first values of all axes, the second, ….
    """

    kind: str
    axes: dict[str, tuple]
    fixed: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along every dimension."""
        lengths = tuple(len(values) for values in self.axes.values())
        return lengths if self.kind == "grid" else lengths[:1]

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the dimensions."""
        return tuple(self.axes) if self.kind == "grid" else ("point",) * bool(self.axes)

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(self.shape)

    def values(self, name: str, points) -> list:
        """The values of a parameter at the numbers `points` of points."""
        if name not in self.axes:
            return [self.fixed.get(name)] * len(points)
        if self.kind == "list":
            return [self.axes[name][i] for i in points]
        axis = list(self.axes).index(name)
        return [self.axes[name][i] for i in np.unravel_index(points, self.shape)[axis]]

    def task(self, point: int) -> Task:
        """The task at a point."""
        return Task(**{name: self.values(name, [point])[0] for name in PARAMETERS})


def make_design(parameters: Mapping[str, Any], kind: str = "grid") -> Design:
    """The design of `parameters`: a number stays fixed, an array or a list of numbers is an axis.

    `given` is a triple (Q0, Q, M), or for an axis several of them.

    Raises ValueError, with the parameter, its value and what it must be.
    """
    if kind not in KINDS:
        raise ValueError(f"design = {kind!r}: must be one of {', '.join(KINDS)}")
    if unknown := [name for name in parameters if name not in PARAMETERS]:
        raise ValueError(f"{unknown[0]}: unknown parameter; must be one of {', '.join(PARAMETERS)}")
    axes, fixed = {}, dict(DEFAULTS)
    for name, value in parameters.items():
        if value is None:
            continue
        if _is_axis(name, value):
            axes[name] = tuple(_check(name, one) for one in _elements(name, value))
            fixed.pop(name, None)
            if kind == "grid" and len(set(axes[name])) < len(axes[name]):
                raise ValueError(f"{name} = {axes[name]}: the values of an axis must differ")
        else:
            fixed[name] = _check(name, value)
    lengths = {name: len(values) for name, values in axes.items()}
    if kind == "list" and len(set(lengths.values())) != 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
        raise ValueError(f"design = 'list': axes must be of the same length; they are: {counts}")
    design = Design(kind, axes, fixed)
    _check_as_a_whole(design)
    return design


def draw_random(
    ranges: Mapping[str, tuple[str, float, float]], points: int, seed: int = 0
) -> dict[str, list[float]]:
    """The axes of `points` random points, to be swept as a "list".

    `ranges` has ("lin", first, last) or ("log", first, last) for each parameter: independent
    values, uniform on that scale. Raises ValueError for a range that cannot be.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, (scale, first, last) in ranges.items():
        share = rng.random(points)
        if scale not in SCALES or not (math.isfinite(first) and math.isfinite(last)):
            raise ValueError(
                f"{name} = {(scale, first, last)!r}: must be of lin or log, and finite"
            )
        if scale == "log" and min(first, last) <= 0:
            raise ValueError(f"{name} = {(scale, first, last)!r}: must be positive, for log")
        if scale == "log":
            values = np.exp(np.log(first) + share * np.log(last / first))
        else:
            values = first + share * (last - first)
        found[name] = values.tolist()
    return found


def _is_axis(name: str, value) -> bool:
    # A given pre-training is three numbers itself.
    return _depth(value) > (name == "given")


def _depth(value) -> int:
    """How many indices it takes to reach a number."""
    if isinstance(value, list | tuple | range):
        return 1 + (_depth(value[0]) if len(value) else 0)
    return getattr(value, "ndim", 0)


def _elements(name: str, values) -> list:
    """The values of an axis, as Python's own objects."""
    dimensions = 2 if name == "given" else 1
    if getattr(values, "ndim", dimensions) != dimensions:
        raise ValueError(f"{name} has {values.ndim} dimensions: an axis must have {dimensions}")
    found = [x.item() if getattr(x, "ndim", None) == 0 else x for x in values]
    if not found:
        raise ValueError(f"{name} = []: an axis must have a value at least")
    return found


def _check(name: str, value) -> Any:
    """The value of a parameter, if it can have it."""
    if name == "activation":
        if not (isinstance(value, str) or callable(value)):
            raise ValueError(f"activation = {value!r}: must be a name or a function")
        activation = as_activation(value)  # type: ignore[arg-type]
        return activation.name if isinstance(value, str) else activation
    if name == "given":
        try:
            Q0, Q, M = (float(x) for x in value)
        except (TypeError, ValueError):
            raise ValueError(f"given = {value!r}: must be the three numbers Q0, Q, M") from None
        return Q0, Q, M
    if name == "reuse":
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"reuse = {value!r}: must be true or false")
        return bool(value)
    if name == "tokens":
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"tokens = {value!r}: must be an integer")
        return int(value)
    try:
        if isinstance(value, bool | str):
            raise TypeError
        number = float(value)
    except TypeError:
        raise ValueError(f"{name} = {value!r}: must be a number") from None
    if words := refusal(name, number):
        raise ValueError(f"{name} = {number:g}: must be {words}")
    return number


def _check_as_a_whole(design: Design) -> None:
    """Raise ValueError for parameters that are missing or do not go together."""
    given = "given" in design.axes or design.fixed.get("given") is not None
    for name in PARAMETERS:
        there = name in design.axes or design.fixed.get(name) is not None
        if given and there and name in GIVEN_REPLACES:
            raise ValueError(f"{name}: not with given = (Q0, Q, M), which replaces it")
        if not there and name != "given" and not (given and name in GIVEN_REPLACES):
            raise ValueError(f"{name} is missing")
    # What is left to check depends on these alone.
    seen = set()
    for point in range(design.size):
        key = tuple(design.values(name, [point])[0] for name in (*STATIC, "delta", "given"))
        if key not in seen:
            seen.add(key)
            design.task(point)
