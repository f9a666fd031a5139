"""A sweep as a TOML file, or as flags of the same names."""

import dataclasses
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from ..options import PRECISIONS, Options
from ..programs import devices as devices_there
from ..simulation import Setting, Training
from .design import PARAMETERS, STATIC, draw_random, make_design
from .engines import Engine
from .plan import Experiment, Plan, Theory

SCALES: dict[str, Callable] = {"lin": np.linspace, "log": np.geomspace}
AXIS_WORDS = (
    "a number, a list of numbers, {lin = [first, last, count]} or {log = [first, last, count]}"
)
RANGE_WORDS = "a number, {lin = [first, last]} or {log = [first, last]}"
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
DESIGNS = ("grid", "list", "random")


class ConfigurationError(ValueError):
    """A key of a configuration: where it is, its value, and what it must be."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A sweep and where to run it; `devices` of the serial engine share the points."""

    plan: Plan
    engine: Engine
    devices: int = 1


def read_tables(path: os.PathLike | str) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigurationError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{os.fspath(path)}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{os.fspath(path)}: not TOML: {error}") from error


def configuration_of(tables: Mapping[str, Any], source: str = "") -> Configuration:
    """The configuration that tables describe.

    Raises ConfigurationError, after `source` in one line the key, its value and what it must be.
    """
    top = _Table(source, "", tables)
    kind, parameters = _design(top.table("design"), top.table("task"))
    theory = _theory(top.table("theory")) if top.switch("theory", True) else None
    experiment = _experiment(top.table("simulation")) if top.switch("simulation", False) else None
    engine = _engine(top.table("engine"))
    bayes = _bayes(top)
    chunk, devices = top.take("chunk", int, None), top.take("devices", int, 1)
    top.close()
    design = _told(f"{source}task.", make_design, parameters, kind)
    plan = _told(source, Plan, design, theory, experiment, bayes, chunk)
    if not 1 <= devices <= (most := len(devices_there())):
        top.refuse("devices", f"from 1 to {most}")
    return Configuration(plan, engine, devices)


class _Table:
    """A table of a configuration, of which every key has to be taken."""

    def __init__(self, source: str, path: str, values: Any):
        self.source, self.path = source, path
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{source}{path.rstrip('.')} = {values!r}: must be a table")
        self.values, self.known = values, set()

    def take(self, name: str, kind: type | None, default: Any) -> Any:
        """The value of a key, of that kind, or the default where there is none."""
        self.known.add(name)
        if name not in self.values:
            return default
        value = self.values[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is not None and (not isinstance(value, kind) or (kind is int and value is True)):
            self.refuse(name, KINDS[kind])
        return value

    def switch(self, name: str, default: bool) -> bool:
        """Whether a table is wanted: one that is there is, `name = false` is not."""
        self.known.add(name)
        value = self.values.get(name, default)
        return value if isinstance(value, bool) else True

    def table(self, name: str) -> "_Table":
        """The table of that name, empty where there is none."""
        self.known.add(name)
        value = self.values.get(name, {})
        return _Table(self.source, f"{self.path}{name}.", {} if isinstance(value, bool) else value)

    def refuse(self, name: str, words: str) -> NoReturn:
        """Raise ConfigurationError for what a key holds."""
        value = self.values[name]
        raise ConfigurationError(f"{self.source}{self.path}{name} = {value!r}: must be {words}")

    def close(self) -> None:
        """Raise ConfigurationError for a key that was never taken."""
        for name in self.values:
            if name not in self.known:
                allowed = ", ".join(sorted(self.known))
                raise ConfigurationError(
                    f"{self.source}{self.path}{name}: unknown key; must be one of {allowed}"
                )


def _told(prefix: str, make: Callable, *arguments: Any, **keywords: Any) -> Any:
    """What `make` returns; its errors with the prefix."""
    try:
        return make(*arguments, **keywords)
    except ValueError as error:
        raise ConfigurationError(f"{prefix}{error}") from error


def _design(design: _Table, task: _Table) -> tuple[str, dict[str, Any]]:
    """The kind of a design and its parameters: numbers and axes."""
    kind = design.take("kind", str, "grid")
    if kind not in DESIGNS:
        design.refuse("kind", f"one of {', '.join(DESIGNS)}")
    count, seed = None, 0
    if kind == "random":
        count, seed = design.take("points", int, 100), design.take("seed", int, 0)
        if count < 1:
            design.refuse("points", "at least 1")
        if seed < 0:
            design.refuse("seed", "non-negative")
    design.close()
    found, ranges = {}, {}
    for name in PARAMETERS:
        value = task.take(name, None, None)
        if name == "given" and isinstance(value, Mapping):
            task.refuse(name, "the three numbers Q0, Q, M, or a list of such")
        if isinstance(value, Mapping) or (isinstance(value, list) and name != "given"):
            if count is not None:
                ranges[name] = _range(task, name, value)
            else:
                found[name] = _axis(task, name, value)
        elif value is not None:
            found[name] = value
    task.close()
    if count is None:
        return kind, found
    if not ranges:
        raise ConfigurationError(f"{task.source}task: a random design needs a range, {RANGE_WORDS}")
    return "list", found | draw_random(ranges, count, seed)


def _axis(task: _Table, name: str, value: Any) -> list:
    """The values of an axis."""
    if isinstance(value, list):
        return value
    scale, ends = _scale(task, name, value, 3, AXIS_WORDS)
    count = ends[2]
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        task.refuse(name, f"{AXIS_WORDS}, of at least one value")
    return SCALES[scale](*ends[:2], count).tolist()


def _range(task: _Table, name: str, value: Any) -> tuple[str, float, float]:
    """The range of random values, and its scale."""
    if isinstance(value, list):
        task.refuse(name, f"{RANGE_WORDS} in a random design")
    scale, (first, last) = _scale(task, name, value, 2, RANGE_WORDS)
    return scale, first, last


def _scale(task: _Table, name: str, value: Any, length: int, words: str) -> tuple[str, list]:
    """The scale of an axis or a range, and its numbers."""
    scale = next(iter(value), "")
    if len(value) != 1 or scale not in SCALES or name in STATIC:
        task.refuse(name, words if name not in STATIC else "a value, or a list of them")
    ends = value[scale]
    numbers = isinstance(ends, list) and len(ends) == length
    if not numbers or not all(isinstance(x, int | float) and math.isfinite(x) for x in ends):
        task.refuse(name, words)
    if scale == "log" and min(ends[:2]) <= 0:
        task.refuse(name, "a range of positive numbers on a logarithmic scale")
    return scale, ends


def _theory(table: _Table) -> Theory:
    default = Theory()
    precision = table.take("precision", str, "float64")
    if precision not in PRECISIONS:
        table.refuse("precision", f"one of {', '.join(PRECISIONS)}")
    options = Options.single() if precision == "float32" else Options()
    numbers = {
        name: table.take(name, int, getattr(default, name))
        for name in ("samples", "replicates", "seed")
    }
    table.close()
    return _told(f"{table.source}{table.path}", Theory, options=options, **numbers)


def _bayes(top: _Table) -> bool | Theory:
    if isinstance(top.values.get("bayes"), Mapping):
        return _theory(top.table("bayes"))
    return top.take("bayes", bool, False)


def _experiment(table: _Table) -> Experiment:
    dims = table.take("dim", None, None)
    if dims is None:
        raise ConfigurationError(f"{table.source}{table.path}dim is missing: the dimension D")
    dims = dims if isinstance(dims, list) else [dims]
    if not dims or not all(isinstance(x, int) and not isinstance(x, bool) for x in dims):
        table.refuse("dim", "an integer, or a list of them")
    precision = table.take("precision", str, "float64")
    training: dict[str, Any] = {
        "tol": table.take("tol", float, None),
        "max_iterations": table.take("max_iterations", int, None),
        "optimiser": table.take("optimiser", str, None),
    }
    seeds, seed = table.take("seeds", int, Experiment.seeds), table.take("seed", int, 0)
    fields = {
        name: table.take(name, kind, None)
        for name, kind in (
            ("test_samples", int),
            ("centring", str),
            ("normalise_teacher", bool),
            ("informed", bool),
            ("starts", int),
            ("pretraining_starts", int),
        )
    }
    table.close()

    def make() -> Experiment:
        chosen = Training.of(precision, **_there(training))
        return Experiment(
            tuple(
                Setting(dim, precision=precision, training=chosen, **_there(fields)) for dim in dims
            ),
            seeds,
            seed,
        )

    return _told(f"{table.source}{table.path}", make)


def _engine(table: _Table) -> Engine:
    fields = {
        "kind": table.take("kind", str, None),
        "workers": table.take("workers", int, None),
        "address": table.take("address", str, None),
        "cluster": table.take("cluster", str, None),
        "cluster_options": table.take("cluster_options", None, None),
    }
    if any(fields[name] is not None for name in ("address", "cluster")):
        fields["kind"] = fields["kind"] or "dask"
    table.close()
    return _told(f"{table.source}{table.path}", Engine, **_there(fields))


def _there(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
