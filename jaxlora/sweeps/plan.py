"""What a sweep computes at its points, and its division into units of work."""

import dataclasses
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from ..activations import ACTIVATIONS, as_activation
from ..active import pool_factor
from ..execution import check_numerics
from ..identity import identity_of
from ..options import Options
from ..simulation import Setting
from ..simulation.ensemble import check_seeds
from ..symmetric import packed_size
from .design import STATIC, Design

VERSIONS = ("jaxlora", "jax", "jaxlib", "jaxopt", "numpy", "xarray")
CHUNK = 128  # points of a unit of theory at most, by default
UNIT_BYTES = 2**29  # that the solutions of a unit may take, by default
LEAST_ROWS = 8  # of a unit, for points to start one another
COLUMNS = ("alpha_ft", "lam_ft")  # what the points of one pre-training differ in
ROWS = "lam"  # along which points start one another
# What the pre-training of a layer depends on, beside its dimension and the seed.
PRETRAINING = (*STATIC, "kappa0", "kappa", "alpha", "delta", "lam")
# What the Bayes-optimal benchmark depends on.
BAYES = (*STATIC, "kappa0", "alpha", "delta", "alpha_ft")


@dataclasses.dataclass(frozen=True)
class Theory:
    """How to solve the theory at every point; arguments as in `predict`.

    2¹³ samples give E' a relative standard error of about 1e-3.
    """

    samples: int = 2**13
    replicates: int = 4
    seed: int = 0
    options: Options = Options()  # noqa: RUF009 (frozen)

    def __post_init__(self):
        check_numerics(self.samples, self.replicates, self.seed)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """How to train layers at every point: a setting for each dimension, and the seeds of each."""

    settings: tuple[Setting, ...]
    seeds: int = 4
    seed: int = 0

    def __post_init__(self):
        check_seeds(self.seeds, self.seed)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The points of a sweep and what is computed there, in units of about `chunk` points.

    By default these are as many as `UNIT_BYTES` hold. With `bayes` there is the Bayes-optimal
    benchmark too, solved as it says, or where it is True as the theory is.
    """

    design: Design
    theory: Theory | None = Theory()
    experiment: Experiment | None = None
    bayes: bool | Theory = False
    chunk: int | None = None

    def __post_init__(self):
        if self.chunk is not None and (
            isinstance(self.chunk, bool) or not isinstance(self.chunk, int) or self.chunk < 1
        ):
            raise ValueError(f"chunk = {self.chunk!r}: must be an integer of at least 1")
        if self.theory is None and self.experiment is None and not self.bayes:
            raise ValueError("nothing to compute: theory, simulation or bayes must be asked for")
        if self.bayes and self.design.values("given", [0])[0] is not None:
            raise ValueError("bayes: not with given = (Q0, Q, M); needs kappa0 and alpha instead")
        if self.bayes and any(
            as_activation(one).name not in ACTIVATIONS
            for one in self.design.values("activation", range(self.design.size))
        ):
            raise ValueError(f"bayes: for the activations {', '.join(sorted(ACTIVATIONS))} only")

    @property
    def benchmark(self) -> Theory | None:
        """How to solve the Bayes-optimal benchmark; None for none."""
        if not self.bayes:
            return None
        return self.bayes if isinstance(self.bayes, Theory) else self.theory or Theory()

    @property
    def largest(self) -> tuple[int, int]:
        """The most samples that a solve looks at, candidates included, and the most tokens."""
        every = range(self.design.size)
        samples = self.theory.samples if self.theory is not None else 1
        ratios = self.design.values("active_ratio", every)
        pool = max([1, *map(pool_factor, ratios)])
        return samples * pool, max(self.design.values("tokens", every))

    @property
    def unit_size(self) -> int:
        """The number of points of a unit of theory, about."""
        if self.chunk is not None:
            return self.chunk
        samples, tokens = self.largest
        # Both branches' proximal points, and those of the pre-training, in two copies.
        each = 2 * 8 * samples * (2 * tokens + packed_size(tokens))
        return max(1, min(CHUNK, UNIT_BYTES // each))

    def identity(self) -> dict[str, Any]:
        """All that the numbers depend on, as JSON can hold it."""
        parts = {
            "design": self.design.kind,
            "axes": tuple(self.design.axes),
            "parameters": _parameters(self.design),
            "theory": self.theory,
            "simulation": self.experiment,
            "bayes": self.bayes,
            "chunk": self.unit_size,
            "versions": {name: version(name) for name in VERSIONS},
        }
        return dict(_flat("", parts))


class Unit(NamedTuple):
    """Work that is done, or done again, as a whole.

    `points` are the numbers of its points, for "theory" (lines, columns, rows) with some repeated
    for a shape that many units share, for "simulation" fine-tunings of one pre-training; `variant`
    is the dimension's index for the latter.
    """

    kind: str
    number: int
    points: np.ndarray
    variant: int = 0

    @property
    def name(self) -> str:
        """What the unit is called on disk."""
        return f"{self.kind}-{self.number:05d}"

    @property
    def size(self) -> int:
        """The number of different points."""
        return len(np.unique(self.points))


def units_of(plan: Plan) -> list[Unit]:
    """All units of a plan, in the order in which they are best done."""
    units = []
    if plan.theory is not None:
        blocks = _theory_blocks(plan.design, plan.unit_size)
        units += [Unit("theory", i, block) for i, block in enumerate(blocks)]
    if plan.bayes:
        groups = _groups(plan.design, BAYES).values()
        units += [Unit("bayes", i, points) for i, points in enumerate(groups)]
    if plan.experiment is not None:
        parts = _simulated_parts(plan.design, plan.unit_size)
        pairs = [(v, points) for v in range(len(plan.experiment.settings)) for points in parts]
        units += [Unit("simulation", i, points, v) for i, (v, points) in enumerate(pairs)]
    return units


def _simulated_parts(design: Design, chunk: int) -> list[np.ndarray]:
    """The points that share a pre-training, in parts of at most `chunk`; one by one if given."""
    if design.values("given", [0])[0] is not None:
        return list(np.arange(design.size)[:, None])
    return [
        points[i : i + chunk]
        for points in _groups(design, PRETRAINING).values()
        for i in range(0, len(points), chunk)
    ]


def _theory_blocks(design: Design, chunk: int) -> list[np.ndarray]:
    """Blocks of points (lines, columns, rows) that can be solved together."""
    blocks = []
    for points in _groups(design, STATIC, _pool).values():
        blocks += _divide(_arrange(design, points), chunk)
    return blocks


def _arrange(design: Design, points: np.ndarray) -> np.ndarray:
    """The points of a group as (lines, columns, rows)."""
    if design.kind == "list" or not design.axes:
        return points[:, None, None]
    coordinates = np.unravel_index(points, design.shape)
    shape = [len(np.unique(c)) for c in coordinates]
    points, axes = points.reshape(shape), list(design.axes)
    if ROWS in axes:
        # From small λ to large, however the values are ordered.
        points = np.take(points, np.argsort(design.axes[ROWS]), axis=axes.index(ROWS))
    rows = [i for i, name in enumerate(axes) if name == ROWS]
    columns = [i for i, name in enumerate(axes) if name in COLUMNS]
    lines = [i for i in range(len(axes)) if i not in rows + columns]
    count = int(np.prod([shape[i] for i in columns]))
    length = int(np.prod([shape[i] for i in rows]))
    return points.transpose(lines + columns + rows).reshape(-1, count, length)


def _divide(points: np.ndarray, chunk: int) -> list[np.ndarray]:
    """Blocks of about `chunk` points at most, all of the same shape."""
    lines, columns, rows = points.shape
    # Enough rows to start one another, where there are any.
    columns = _even(columns, max(1, chunk // min(rows, LEAST_ROWS)))
    rows = _even(rows, chunk // columns)
    lines = _even(lines, chunk // (columns * rows))
    blocks = [points]
    for axis, size in enumerate((lines, columns, rows)):
        blocks = [part for block in blocks for part in _parts(block, size, axis)]
    return blocks


def _even(length: int, most: int) -> int:
    """The size of equal parts, of at most `most` each."""
    parts = -(-length // max(most, 1))
    return -(-length // parts)


def _parts(block: np.ndarray, size: int, axis: int) -> list[np.ndarray]:
    length = block.shape[axis]
    starts = range(0, length, size)
    return [
        np.take(block, np.minimum(np.arange(i, i + size), length - 1), axis=axis) for i in starts
    ]


def _groups(design: Design, names, *keys) -> dict[tuple, np.ndarray]:
    """The points that have the same values of the parameters `names` and the same `keys`."""
    every = list(range(design.size))
    columns = [design.values(name, every) for name in names]
    columns += [[key(design, point) for point in every] for key in keys]
    found: dict[tuple, list[int]] = {}
    for point, values in enumerate(zip(*columns, strict=True)):
        found.setdefault(values, []).append(point)
    return {key: np.array(points) for key, points in found.items()}


def _pool(design: Design, point: int) -> int:
    """The candidates of active fine-tuning, on which the shapes of the draws depend."""
    return pool_factor(design.values("active_ratio", [point])[0])


def _parameters(design: Design) -> dict[str, Any]:
    """All parameters, the activations by what tells them apart."""
    every = range(design.size)
    activations, tokens = (design.values(name, every) for name in ("activation", "tokens"))

    def named(activation: Any) -> str:
        pairs = zip(activations, tokens, strict=True)
        there = {number for one, number in pairs if one is activation}
        return identity_of(as_activation(activation), *sorted(there))

    found = design.fixed | design.axes
    chosen = found["activation"]
    several = isinstance(chosen, tuple)
    return found | {"activation": tuple(map(named, chosen)) if several else named(chosen)}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of `value` with their names, as JSON has them: infinity by name."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}" if name else key, part)
    elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        for i, part in enumerate(value):
            yield from _flat(f"{name}[{i}]", part)
    else:
        yield name, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and np.isinf(value):
        return "inf"
    return value
