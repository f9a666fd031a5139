"""sweep(): many points, in units that are kept as soon as they are done."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from ..checkpoints import Checkpoint, differences_of, write_whole
from ..simulation.ensemble import check
from .design import make_design
from .engines import Engine
from .layout import Layout
from .plan import Experiment, Plan, Theory, Unit, units_of
from .work import Arrays

if TYPE_CHECKING:
    import xarray


class Progress(NamedTuple):
    """Points that are done, `loaded` of them from disk, of so many in all kinds of work."""

    done: int
    loaded: int
    total: int


Watch = Callable[[Progress], None]


def sweep(
    *,
    design: str = "grid",
    theory: Theory | None = Theory(),  # noqa: B008 (frozen)
    simulation: Experiment | None = None,
    bayes: bool | Theory = False,
    chunk: int | None = None,
    out: os.PathLike | str | None = None,
    engine: Engine | None = None,
    layout: Layout | None = None,
    watch: Watch = lambda progress: None,
    **parameters: Any,
) -> "xarray.Dataset":
    """Predictions, experiments or both at many points; `jaxlora sweep`.

    `parameters` are those of `Task`. A number is fixed, an array or a list is an axis: a "grid" has
    all combinations, a "list" the first values of all axes, the second, …. Along λ a point starts
    from the one before, and points that differ in λ' and α' alone share their pre-training, so that
    this takes a fraction of the time of as many calls of `predict`, and agrees with them to the
    solver's tolerance where solutions are unique. Where both branches of the fine-tuning have met,
    a second one is sought afresh at every eighth λ and at the ends of a unit, and followed from
    where it is found. A unit with branches that differ anywhere is solved in the other direction
    too, and at every point afresh as by `predict`: of all solutions those of least energy are
    reported, so that no energy is above that of `predict`.

    - `theory`: samples, replicates, seed and options of the solves; None for none.
    - `simulation`: dimensions and seeds of layers to train at every point; points that differ in
      α', λ', β and ρ alone share a pre-training, with the numbers of separate ones.
    - `bayes`: whether to add the Bayes-optimal benchmark, or with which `Theory` instead of that
      of the solves; it takes a quarter of the samples.
    - `chunk`: points that are solved as a unit, at most; what a crash can cost. By default as many
      as take a moderate memory.
    - `out`: a netCDF file to write. What is finished is kept beside it, in the folder
      `<out>.parts`, from which an interrupted sweep goes on.
    - `engine`: this process, or a Dask cluster. `layout`: points at a time and devices, by default
      as many as fit into the memory, on one device.
    - `watch` is told of the progress.

    Returns a Dataset of all numbers of a prediction, `<name>_stderr`, and for each stage `result`,
    `residual` and what else its status holds; failed points are there, with a `result` that says
    so. Raises ValueError for bad parameters and for an `out` that belongs to another sweep,
    CheckpointError where the disk does not take a result, RuntimeError without float64.
    """
    plan = Plan(make_design(parameters, design), theory, simulation, bayes, chunk)
    return run(plan, out=out, engine=engine, layout=layout, watch=watch)


def run(
    plan: Plan,
    *,
    out: os.PathLike | str | None = None,
    engine: Engine | None = None,
    layout: Layout | None = None,
    watch: Watch = lambda progress: None,
) -> "xarray.Dataset":
    """Do what `plan` says; arguments, results and errors as of `sweep`."""
    _check(plan)
    units = units_of(plan)
    engine = engine or Engine()
    store = None
    if out is not None:
        _check_out(pathlib.Path(out), plan)
        store = Checkpoint(parts_of(out))
        store.claim(plan.identity())
    finished: dict[int, Arrays] = {}
    progress = Progress(0, 0, sum(unit.size for unit in units))

    def missing() -> Iterator[Unit]:
        # Another process may have done a unit meanwhile: each is looked for when its turn comes.
        for number, unit in enumerate(units):
            found = store and store.load(unit.name)
            if found is None:
                yield unit
            else:
                finish(number, found, loaded=True)

    def finish(number: int, found: Arrays, *, loaded: bool = False) -> None:
        nonlocal progress
        finished[number] = found
        size = units[number].size
        loaded_now = progress.loaded + size * loaded
        progress = progress._replace(done=progress.done + size, loaded=loaded_now)
        watch(progress)

    numbers = {unit.name: number for number, unit in enumerate(units)}
    for unit, found in engine.run(plan, missing(), layout):
        if store is not None:
            store.save(unit.name, found)
        finish(numbers[unit.name], found)
    from .dataset import dataset_of  # xarray imports pandas, which takes most of a second

    dataset = dataset_of(plan, ((units[i], finished[i]) for i in sorted(finished)))
    if out is not None:
        write_whole(pathlib.Path(out), _netcdf(dataset))
    return dataset


def _netcdf(dataset: "xarray.Dataset") -> bytes:
    with contextlib.ExitStack() as stack:
        if "dask" in sys.modules:
            # Or xarray would ask the cluster for a lock on what is this process's own.
            stack.enter_context(sys.modules["dask"].config.set(scheduler="synchronous"))
        return bytes(dataset.to_netcdf(engine="h5netcdf"))


def parts_of(out: os.PathLike | str) -> pathlib.Path:
    """The folder of finished units of the sweep that writes `out`."""
    path = pathlib.Path(out)
    return path.with_name(f"{path.name}.parts")


def _check_out(out: pathlib.Path, plan: Plan) -> None:
    """Raise ValueError for a file that is not to be replaced by what `plan` finds."""
    if not out.exists():
        return
    there = configuration_in(out)
    if there is None:
        raise ValueError(f"out = {str(out)!r}: is there, and is not the file of a sweep")
    if differences := differences_of(there, plan.identity()):
        raise ValueError(f"out = {str(out)!r}: is of another sweep: {differences}")


def configuration_in(path: pathlib.Path) -> dict[str, Any] | None:
    """The configuration of the sweep that a file is of; None where it is not of one."""
    import h5py

    try:
        with h5py.File(path) as file:
            return json.loads(str(file.attrs["configuration"]))
    except (OSError, KeyError, ValueError):
        return None


def _check(plan: Plan) -> None:
    """Raise ValueError for an experiment that cannot be run, RuntimeError without float64."""
    settings = plan.experiment.settings if plan.experiment is not None else ()
    precisions = [setting.precision for setting in settings]
    solves = (plan.theory, plan.benchmark)
    precisions += [theory.options.precision for theory in solves if theory is not None]
    if "float64" in precisions and jnp.zeros(()).dtype != jnp.float64:
        raise RuntimeError(
            "jaxlora needs float64: call jax.config.update('jax_enable_x64', True), or ask for "
            "less with theory=Theory(options=Options.single())"
        )
    for setting in settings:
        for point in range(plan.design.size):
            check(plan.design.task(point), setting)
