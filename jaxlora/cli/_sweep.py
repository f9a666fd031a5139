"""`jaxlora sweep`: predictions and experiments at many points, kept as they get done."""

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from ..options import PRECISIONS
from ..sweeps import default_layout
from ..sweeps import run as run_sweep
from ..sweeps.configuration import Configuration, configuration_of, read_tables
from ..sweeps.design import PARAMETERS
from ..sweeps.engines import KINDS
from ._arguments import add_machine, configure
from ._bars import bar_of_points, watch_by
from ._exit_codes import NOT_SOLVED, OK

if TYPE_CHECKING:
    import xarray

# Flags that set a key of a table: flag, table, key, and what argparse is to know of them.
KEYS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("--samples", "theory", "samples", {"type": int, "help": "draws in all, a point"}),
    ("--replicates", "theory", "replicates", {"type": int, "help": "for error bars"}),
    ("--seed", "theory", "seed", {"type": int}),
    ("--seeds", "simulation", "seeds", {"type": int, "help": "of the simulation"}),
    ("--test-samples", "simulation", "test_samples", {"type": int}),
    ("--workers", "engine", "workers", {"type": int, "help": "of Dask"}),
    ("--address", "engine", "address", {"help": "of a Dask scheduler"}),
)


def add_command(commands) -> None:
    """Add `sweep` to the commands."""
    parser = commands.add_parser(
        "sweep",
        help="predict or simulate at many points",
        description="Solves the theory at the points of a TOML file or of the flags, trains layers "
        "there, or both. Run again, an interrupted sweep goes on where it was. Parameters are "
        "numbers, lists 0.1,0.2, or ranges lin:FIRST:LAST:COUNT and log:FIRST:LAST:COUNT.",
    )
    parser.set_defaults(work=work, show=show)
    parser.add_argument("file", nargs="?", help="a TOML file; flags take precedence")
    parser.add_argument("--out", required=True, metavar="FILE.nc", help="the result, as netCDF")
    task = parser.add_argument_group("task")
    for name in PARAMETERS:
        if name != "given":
            task.add_argument(f"--{name.replace('_', '-')}", type=_axis, metavar="AXIS")
    task.add_argument(
        "--given",
        type=float,
        nargs=3,
        action="append",
        metavar=("Q0", "Q", "M"),
        help="an effective pre-training; several times for an axis",
    )
    group = parser.add_argument_group("work")
    group.add_argument(
        "--design", choices=("grid", "list"), help="all combinations, or in parallel"
    )
    group.add_argument(
        "--random", type=int, metavar="N", help="so many random points in the ranges"
    )
    group.add_argument("--dim", type=_axis, metavar="D", help="train layers of these dimensions")
    group.add_argument("--no-theory", action="store_true", help="the layers only")
    group.add_argument("--bayes", action="store_true", help="add the Bayes-optimal benchmark")
    group.add_argument("--chunk", type=int, metavar="N", help="points that are kept at a time")
    group.add_argument("--devices", type=int, metavar="N", help="that share the points")
    group.add_argument("--engine", choices=KINDS)
    for flag, _, _, settings in KEYS:
        metavar = {} if settings.get("type") is not int else {"metavar": "N"}
        group.add_argument(flag, **metavar, **settings)
    group.add_argument("--precision", choices=PRECISIONS)
    add_machine(group)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def work(parsed: argparse.Namespace) -> "tuple[xarray.Dataset, float]":
    """Sweep and write; the result, and the seconds that it took."""
    start = time.monotonic()
    configure(parsed)
    chosen = _configuration(parsed)
    plan, layout = chosen.plan, None
    if chosen.devices > 1:
        layout = default_layout(*plan.largest, chosen.devices)
    with bar_of_points(parsed.quiet) as bar:
        dataset = run_sweep(
            plan, out=parsed.out, engine=chosen.engine, layout=layout, watch=watch_by(bar)
        )
    return dataset, time.monotonic() - start


def show(parsed: argparse.Namespace, done: "tuple[xarray.Dataset, float]") -> int:
    """Say what was written; returns the exit code."""
    from ..sweeps.dataset import failures

    dataset, seconds = done
    along = " × ".join(f"{size} {name}" for name, size in dataset.sizes.items())
    print(f"{parsed.out}: {along or '1 point'}, {seconds:.1f} s")
    for stage, count in failures(dataset).items():
        print(f"jaxlora sweep: warning: {stage}: {count} points failed", file=sys.stderr)
    return NOT_SOLVED if failures(dataset) else OK


def _configuration(parsed: argparse.Namespace) -> Configuration:
    """What the file says, and the flags where they are given."""
    tables = {} if parsed.file is None else read_tables(parsed.file)
    if parsed.bayes and not tables.get("bayes"):
        tables["bayes"] = True
    theory = tables.get("theory")
    if parsed.no_theory:
        tables["theory"] = False
    # Without theory, its numerics are those of the benchmark.
    numerics = "theory"
    if tables.get("theory") is False and tables.get("bayes"):
        numerics = "bayes"
        if tables["bayes"] is True and isinstance(theory, dict):
            tables["bayes"] = theory

    def put(table: str, key: str, value: Any) -> None:
        there = tables.get(table)
        if value is not None and not (table == "theory" and there is False):
            tables[table] = (there if isinstance(there, dict) else {}) | {key: value}

    for name in PARAMETERS:
        value = getattr(parsed, name)
        put("task", name, value[0] if name == "given" and value and len(value) == 1 else value)
    put("design", "kind", "random" if parsed.random is not None else parsed.design)
    put("design", "points", parsed.random)
    put("simulation", "dim", parsed.dim)
    put("engine", "kind", parsed.engine)
    for flag, table, key, _ in KEYS:
        table = numerics if table == "theory" else table
        put(table, key, getattr(parsed, flag.lstrip("-").replace("-", "_")))
    put(numerics, "precision", parsed.precision)
    for table in ("simulation", "bayes"):
        if isinstance(tables.get(table), dict):
            put(table, "seed", parsed.seed)
            put(table, "precision", parsed.precision)
    for key, value in (("chunk", parsed.chunk), ("devices", parsed.devices)):
        if value is not None:
            tables[key] = value
    return configuration_of(tables, "" if parsed.file is None else f"{parsed.file}: ")


def _axis(words: str) -> Any:
    """A number, a word, a list of them, or a range, as TOML would have it."""
    scale, *ends = words.split(":")
    if ends:
        return {scale: [_value(end) for end in ends]}
    if "," in words:
        return [_value(word) for word in words.split(",") if word]
    return _value(words)


def _value(word: str) -> Any:
    """A whole number, a number, true, false, or the word."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
