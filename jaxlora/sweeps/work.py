"""One unit of a sweep, done: arrays of every number at its points."""

from typing import Any

import jax
import numpy as np

from ..bayes import bayes_optimal, samples_beside
from ..execution import draw_samples
from ..results import Result
from ..simulation import Simulation, simulate_finetunings
from ..tasks import Task
from .block import solve_block
from .design import REAL, STATIC
from .layout import Layout, default_layout
from .plan import Plan, Unit
from .tiles import Tiles
from .variables import BAYES, BAYES_PREFIX, CONVERGED, NUMBERS, SIMULATED, STATUS, STDERR, SUFFIX

Arrays = dict[str, np.ndarray]


def do(plan: Plan, unit: Unit, layout: Layout | None = None) -> Arrays:
    """Every number of the unit, (points,) in the order of its flattened points.

    Without a `layout`, points are solved as is best on one device of this process.
    """
    layout = layout or default_layout(*plan.largest)
    return _WORK[unit.kind](plan, unit, layout)


def _theory(plan: Plan, unit: Unit, layout: Layout) -> Arrays:
    theory = plan.theory
    assert theory is not None
    options = theory.options
    tasks = _stacked(plan, unit.points, options.precision)
    first = plan.design.task(unit.points.flat[0])
    samples = draw_samples(first, theory.samples, theory.replicates, theory.seed, options)
    # Several devices are in use by each group of replicates already; logs are to be told apart.
    tiles = Tiles(layout, plan.unit_size, in_turn=options.verbose or layout.devices > 1)
    stages = dict(zip(SUFFIX, solve_block(tasks, samples, options, tiles), strict=True))
    found = {}
    for variable in NUMBERS:
        solved = stages[variable.stage]
        found[variable.name] = getattr(solved.values, variable.field)
        found[variable.name + STDERR] = getattr(solved.stderr, variable.field)
    for stage, suffix in SUFFIX.items():
        for flag in STATUS:
            found[flag.field + suffix] = getattr(stages[stage].status, flag.field)
    return {name: np.asarray(x).ravel() for name, x in found.items()}


def _stacked(plan: Plan, points: np.ndarray, precision: str) -> Task:
    """The tasks at `points` as one, whose parameters are arrays of that shape."""
    design, flat = plan.design, points.ravel().tolist()
    parameters: dict[str, Any] = {name: design.values(name, flat)[0] for name in STATIC}

    def stacked(values) -> np.ndarray | None:
        return None if values[0] is None else np.reshape(values, points.shape)

    parameters |= {name: stacked(design.values(name, flat)) for name in REAL}
    if (given := design.values("given", flat))[0] is not None:
        parameters["given"] = tuple(stacked(values) for values in zip(*given, strict=True))
    return jax.tree.map(lambda x: x.astype(precision), Task(**parameters))


def _bayes(plan: Plan, unit: Unit, layout: Layout) -> Arrays:
    """The benchmark of the first point, which is that of all."""
    numerics = plan.benchmark
    assert numerics is not None
    benchmark = bayes_optimal(
        plan.design.task(unit.points.flat[0]),
        samples=samples_beside(numerics.samples, numerics.replicates),
        replicates=numerics.replicates,
        seed=numerics.seed,
        throw=False,
        options=numerics.options,
    )
    solved = Result(int(benchmark.status.result)).successful
    found = {}
    for variable in BAYES:
        for values, suffix in ((benchmark.values, ""), (benchmark.stderr, STDERR)):
            number = float(getattr(values, variable.field)) if solved else np.nan
            found[variable.name + suffix] = np.full(unit.points.size, number)
    found[f"{BAYES_PREFIX}result"] = np.full(unit.points.size, int(benchmark.status.result))
    residual = float(benchmark.status.residual)
    found[f"{BAYES_PREFIX}residual"] = np.full(unit.points.size, residual)
    return found


def _simulation(plan: Plan, unit: Unit, layout: Layout) -> Arrays:
    experiment = plan.experiment
    assert experiment is not None
    setting = experiment.settings[unit.variant]
    tasks = [plan.design.task(point) for point in unit.points]
    simulations = simulate_finetunings(tasks, setting, seeds=experiment.seeds, seed=experiment.seed)
    found = [_measured(simulation) for simulation in simulations]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _measured(simulation: Simulation) -> dict[str, float]:
    """The numbers of one point."""
    found = {}
    for variable in NUMBERS:
        stage = getattr(simulation, variable.stage)
        if hasattr(stage, variable.field):
            name = SIMULATED + variable.name
            found[name] = getattr(stage, variable.field)
            error = getattr(simulation.stderr, variable.stage)
            found[name + STDERR] = getattr(error, variable.field)
    for stage, suffix in SUFFIX.items():
        statuses = [getattr(outcome, f"{stage}_status") for outcome in simulation.outcomes]
        done = [s.converged for s in statuses if s is not None]
        found[CONVERGED + suffix] = float(np.mean(done)) if done else 1.0
    return found


_WORK = {"theory": _theory, "bayes": _bayes, "simulation": _simulation}
