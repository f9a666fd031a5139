"""make_figure(): a figure of the paper, with its data and what it says of the paper's claims."""

import os
import pathlib
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple

import matplotlib.figure

from ..sweeps import Experiment
from ..sweeps.run import Watch
from . import figure1, figure2, figure3, figure4, figure5, figure6
from .claims import Claim
from .lab import Lab, experiment_of
from .scale import FULL, Scale

FIGURES: dict[int, ModuleType] = dict(
    enumerate((figure1, figure2, figure3, figure4, figure5, figure6), start=1)
)


class Figure(NamedTuple):
    """A figure that was drawn: its picture, the folder of its data, and the paper's claims.

    `failed` counts the points of each sweep at which a stage was not solved or trained.
    """

    number: int
    picture: pathlib.Path
    data: pathlib.Path
    claims: list[Claim]
    failed: dict[str, dict[str, int]]


def make_figure(
    number: int,
    out: os.PathLike | str = "figures",
    scale: Scale = FULL,
    *,
    watch: Watch = lambda progress: None,
) -> Figure:
    """Draw figure `number` (1 to 6) of arXiv:2606.05899 into the folder `out`.

    Solves the theory and trains the layers of theory section 10, writes their numbers as netCDF to
    `<out>/figure<number>/` and the picture to `<out>/figure<number>.png`. What is there already is
    read and not computed again; an interrupted sweep goes on where it was. `watch` is told of the
    progress of each sweep.

    Raises ValueError for a number that is no figure, for parameters of layers that cannot be
    trained, and where a file is there from another scale; ConvergenceError where a curve has no
    solved point; CheckpointError where the disk does not take a result; RuntimeError without
    float64.
    """
    experiment = _experiment(number, scale)
    module, folder = FIGURES[number], pathlib.Path(out)
    lab = Lab(folder / f"figure{number}", scale, watch, experiment)
    data = module.collect(lab)
    figure = matplotlib.figure.Figure(figsize=module.INCHES, layout="constrained")
    module.draw(figure, data)
    picture = folder / f"figure{number}.png"
    figure.savefig(picture, dpi=130)
    return Figure(number, picture, lab.folder, module.claims(data), lab.failed)


def check_figures(numbers: Iterable[int], scale: Scale = FULL) -> None:
    """Raise ValueError for a number that is no figure, and for layers that cannot be trained.

    Before anything is solved, which takes minutes. Raises RuntimeError without float64.
    """
    for number in numbers:
        _experiment(number, scale)


def _experiment(number: int, scale: Scale) -> Experiment | None:
    if number not in FIGURES:
        raise ValueError(f"figure = {number}: must be from 1 to {len(FIGURES)}")
    return experiment_of(scale, FIGURES[number].SIZE, FIGURES[number].LAYERS)
