"""Where the sweeps of a figure are run, and kept."""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import xarray

from ..checkpoints import differences_of
from ..simulation import Setting
from ..simulation.ensemble import check
from ..simulation.setting import check_memory, sizes_of
from ..sweeps import Experiment, Plan, Theory, make_design, run
from ..sweeps.dataset import failures
from ..sweeps.run import Watch, configuration_in, parts_of
from ..tasks import Task
from .scale import Scale

TEST_SAMPLES = 10_000


class Size(NamedTuple):
    """Dimension and seeds of a figure's layers: the paper's, and what a quick look takes."""

    paper: int
    paper_seeds: int
    quick: int
    quick_seeds: int


@dataclasses.dataclass(frozen=True)
class Lab:
    """Runs the sweeps of one figure and keeps their results in `folder`, a netCDF file each.

    `experiment` is how layers are trained, None where only theory is asked for. A sweep that is
    there already is read; one that was interrupted goes on where it was. `failed` has what was not
    solved or trained, by sweep and stage, as it is found.
    """

    folder: pathlib.Path
    scale: Scale
    watch: Watch
    experiment: Experiment | None = None
    failed: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)

    def theory(
        self, name: str, parameters: Mapping[str, Any], *, bayes: bool = False
    ) -> xarray.Dataset:
        """Predictions on the grid of `parameters`."""
        scale = self.scale
        theory = Theory(scale.samples, scale.replicates, scale.seed)
        return self._run(name, Plan(make_design(parameters), theory, None, bayes))

    def simulation(
        self, name: str, parameters: Mapping[str, Any], design: str = "grid"
    ) -> xarray.Dataset | None:
        """Trained layers at the points of `parameters`; None where only theory is asked for."""
        if self.experiment is None:
            return None
        return self._run(name, Plan(make_design(parameters, design), None, self.experiment))

    def _run(self, name: str, plan: Plan) -> xarray.Dataset:
        out = self.folder / f"{name}.nc"
        there = configuration_in(out)
        if there is not None and not differences_of(there, plan.identity()):
            dataset = xarray.load_dataset(out, engine="h5netcdf")
        else:
            dataset = run(plan, out=out, watch=self.watch)
            shutil.rmtree(parts_of(out), ignore_errors=True)
        if found := failures(dataset):
            self.failed[name] = found
        return dataset


def experiment_of(
    scale: Scale, size: Size, layers: Iterable[Mapping[str, Any]]
) -> Experiment | None:
    """How a figure's layers are trained; None where only theory is asked for.

    `layers` has the parameters of a layer of each size. Their dimensions are those of the scale, or
    the largest that fits into the memory: `size`'s, or that over 2, 4, …. Raises ValueError for
    layers that cannot be trained, RuntimeError without float64.
    """
    if not scale.simulated:
        return None
    tasks = [Task(**parameters) for parameters in layers]
    wanted = size.quick if scale.quick else size.paper
    seeds = scale.seeds or (size.quick_seeds if scale.quick else size.paper_seeds)
    settings = tuple(_setting(dim) for dim in scale.dims or (largest_dimension(wanted, tasks),))
    for task in tasks:
        for setting in settings:
            check(task, setting)
    return Experiment(settings, seeds, scale.seed)


def largest_dimension(dimension: int, tasks: list[Task]) -> int:
    """`dimension`, or that over 2, 4, … until layers of all `tasks` fit into the memory."""
    try:
        for task in tasks:
            setting = _setting(dimension)
            check_memory(sizes_of(task, setting), setting)
    except ValueError:
        if dimension < 4:
            raise
        return largest_dimension(dimension // 2, tasks)
    return dimension


def _setting(dimension: int) -> Setting:
    # |w*|² = D takes most of the scatter over seeds away, and does not change the limit. Where
    # random starts end in poor minima the paper starts at w*; of both, the lower loss is kept.
    return Setting(
        dimension, test_samples=TEST_SAMPLES, normalise_teacher=True, starts=1, informed=True
    )
